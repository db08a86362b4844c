"""What a run's rows add up to, and what stands out in it."""

from __future__ import annotations

import numpy as np

from distwatch.findings.changes import largest_change, spikes
from distwatch.findings.faults import dead, no_gradient, not_finite, update_ratios
from distwatch.findings.findings import (
    EXTENT,
    NOTE,
    WARNING,
    Finding,
    counted,
    ordered,
    sentences,
)
from distwatch.findings.replicas import apart, odd_replicas, same_inputs
from distwatch.findings.tables import TableDigest
from distwatch.records import Block, RunInfo


class Digest:
    """What a run's rows add up to, over all their steps.

    It takes a few megabytes at most, and no more for a longer run.
    """

    def __init__(self, info: RunInfo) -> None:
        self.info = info
        self.tables = {table.name: TableDigest(info, table) for table in info.tables}

    def observe(self, block: Block) -> None:
        """Take the next block: each table's in order of step."""
        self.tables[block.table].observe(block)

    @property
    def steps(self) -> int:
        """Steps looked at, summed over tables."""
        return sum(table.steps for table in self.tables.values())

    @property
    def lost(self) -> int:
        """Steps lost, summed over tables."""
        return sum(table.lost for table in self.tables.values())

    # A training that diverged overflows here, too; that is told as what it is.
    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def findings(self, *, lost: int | None = None) -> list[Finding]:
        """What stands out: the extent first, then warnings, then notes.

        Args:
            lost: how many steps were lost, where more is known than the blocks say.
        """
        lost = self.lost if lost is None else lost
        tables = [table for table in self.tables.values() if table.steps]
        if not tables:
            none = Finding(EXTENT, NOTE, "No step was recorded.")
            return ordered([none, *_losses(lost), *_sound(lost, [])])
        broken = not_finite(self.info, tables)
        change = largest_change(tables)
        found = [
            Finding(EXTENT, NOTE, self._extent(compared=change is not None)),
            *broken,
            *_losses(lost),
            *same_inputs(tables),
            *odd_replicas(self.info, tables),
            *dead(tables),
            *no_gradient(tables),
            *update_ratios(tables),
            *spikes(tables),
            *([] if change is None else [change]),
            apart(self.info, tables),
            *_sound(lost, broken),
        ]
        return ordered(found)

    def sentences(self, *, lost: int | None = None) -> list[str]:
        """The findings' texts, at most ten; arguments as in `findings`."""
        return sentences(self.findings(lost=lost))

    def _extent(self, *, compared: bool) -> str:
        steps = max(table.steps for table in self.tables.values())
        text = (
            f"{counted(steps, 'step')}, {counted(len(self.info.signals), 'signal')} on "
            f"{counted(len(self.info.replicas), 'replica')}"
        )
        return f"{text}." if compared else f"{text}: no two batches could be compared."


def _losses(lost: int) -> list[Finding]:
    if not lost:
        return []
    return [Finding("lost", WARNING, f"{counted(lost, 'step')} lost: see the gaps in `step`.")]


def _sound(lost: int, broken: list[Finding]) -> list[Finding]:
    """Say what is well, so that silence need not be read as such."""
    said = [
        *([] if broken else ["No NaN and no Inf."]),
        *([] if lost else ["No row was lost."]),
    ]
    return [Finding("sound", NOTE, " ".join(said))] if said else []
