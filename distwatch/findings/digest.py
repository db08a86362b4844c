"""What a run's rows add up to, and all rules that find what stands out in it.

A new rule is a function that takes what is `Recorded` and returns its findings, listed here
in the order in which findings of equal severity are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from distwatch.findings.causes import folded
from distwatch.findings.changes import largest_change, spikes
from distwatch.findings.copy_digest import CopyDigest
from distwatch.findings.desync import desync
from distwatch.findings.extent import extent, losses, sound, unclosed
from distwatch.findings.findings import Finding, ordered, sentences
from distwatch.findings.gradients import no_gradient, update_ratios, without_gradient
from distwatch.findings.nonfinite import not_finite
from distwatch.findings.replicas import apart, different_copies, equal_inputs, odd_replicas
from distwatch.findings.tables import Recorded, TableDigest
from distwatch.findings.units import dead
from distwatch.records import CLOSED, Block, RunInfo

Rule = Callable[[Recorded], Iterable[Finding]]

#: Those that hold for a run without rows, too.
ALWAYS: tuple[Rule, ...] = (extent, desync, without_gradient, losses, unclosed, sound)

RULES: tuple[Rule, ...] = (
    extent,
    not_finite,
    losses,
    equal_inputs,
    desync,
    different_copies,
    odd_replicas,
    without_gradient,
    dead,
    no_gradient,
    update_ratios,
    spikes,
    largest_change,
    apart,
    unclosed,
    sound,
)


class Digest:
    """What a run's rows add up to, over all their steps.

    It takes a few megabytes at most, and no more for a longer run.
    """

    def __init__(self, info: RunInfo) -> None:
        self.info = info
        self.tables = {t.name: TableDigest(info, t) for t in info.tables if not t.of_copies}
        #: Checksums of the replicas' copies of variables.
        self.copies = {t.name: CopyDigest(info, t) for t in info.tables if t.of_copies}

    def observe(self, block: Block) -> None:
        """Take the next block: each table's in order of step."""
        self._every_table[block.table].observe(block)

    def count_lost(self, table: str, steps: int) -> None:
        """Count steps of a table that never came."""
        self._every_table[table].lost += steps

    @property
    def _every_table(self) -> dict[str, TableDigest | CopyDigest]:
        return {**self.tables, **self.copies}

    @property
    def steps(self) -> int:
        """Steps looked at, summed over tables."""
        return sum(table.steps for table in self._every_table.values())

    @property
    def lost(self) -> int:
        """Steps lost, summed over tables."""
        return sum(table.lost for table in self._every_table.values())

    # Sums of a training that diverged overflow here, too; that is reported as what it is.
    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def findings(self, *, lost: int | None = None, ended: str | None = CLOSED) -> list[Finding]:
        """What stands out: the extent first, then warnings, then notes.

        Args:
            lost: how many steps were lost, where more is known than the blocks say.
            ended: "closed", or the error that ended the writing of the run; None while it
                goes on, or if its writer was killed.
        """
        tables = [table for table in self.tables.values() if table.steps]
        copies = [table for table in self.copies.values() if table.steps]
        run = Recorded(self.info, tables, self.lost if lost is None else lost, ended, copies)
        found = [each for rule in (RULES if tables else ALWAYS) for each in rule(run)]
        return ordered(folded(found))

    def sentences(self, *, lost: int | None = None, ended: str | None = CLOSED) -> list[str]:
        """The findings' texts, at most ten; arguments as in `findings`."""
        return sentences(self.findings(lost=lost, ended=ended))
