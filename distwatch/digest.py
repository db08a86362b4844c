"""A run in a few plain sentences, made the same way live and afterwards.

A `Digest` takes blocks as they come and keeps only what the sentences need, so
a Watch can speak at the end of training without reading its store again, and
`Run.summary` says the same from the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from distwatch.records import Block, Floats, RunInfo, Table
from distwatch.statistics import ROW, merge_axis

#: How many columns of a row are those of every row.
_USUAL = len(ROW.fields)

#: A replica's data is called skewed where its mean lies this far from the others', in
#: their standard deviations, and this many standard errors from what chance makes.
_SKEW = 0.25
_SURE = 6.0


#: How much a finding matters: a fact worth knowing, or something to look into.
NOTE, WARNING = "note", "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that stands out in a run, in words and for programs.

    ``kind`` is a stable name, such as "largest_change" or "not_finite"; ``severity``
    "note" or "warning". ``signal``, ``step`` and ``replica`` (its global number) say where,
    None where it is of no single one; ``others`` names further signals of which the same
    is true.
    """

    kind: str
    severity: str
    text: str
    signal: str | None = None
    step: int | None = None
    replica: int | None = None
    others: tuple[str, ...] = ()


class Digest:
    """What a run's rows add up to, over all their steps."""

    def __init__(self, info: RunInfo) -> None:
        self.info = info
        self.tables = {table.name: TableDigest(info, table) for table in info.tables}

    def observe(self, block: Block) -> None:
        """Take the next block."""
        self.tables[block.table].observe(block)

    @property
    def steps(self) -> int:
        """Steps looked at, summed over tables."""
        return sum(table.steps for table in self.tables.values())

    @property
    def lost(self) -> int:
        """Steps lost, summed over tables."""
        return sum(table.lost for table in self.tables.values())

    def findings(self, *, lost: int | None = None) -> list[Finding]:
        """What stands out, the extent first and then what matters most.

        Args:
            lost: how many steps were lost, where more is known than the blocks say.
        """
        losses = _lost(self.lost if lost is None else lost)
        if not self.steps:
            return [Finding("extent", NOTE, "No step was recorded."), self._numbers(), losses]
        return [self._change(), self._replicas(), *self._inputs(), self._numbers(), losses]

    def sentences(self, *, lost: int | None = None) -> list[str]:
        """The findings' texts; arguments as in `findings`."""
        return [finding.text for finding in self.findings(lost=lost)]

    def _main(self) -> list[TableDigest]:
        """Changes if there are any, which can be told apart from values."""
        tables = [table for table in self.tables.values() if table.steps]
        return [table for table in tables if table.of_changes] or tables

    def _change(self) -> Finding:
        found = [(t.largest, t) for t in self._main() if t.largest is not None]
        if not found:
            text = f"{self._extent()}: no two batches could be compared."
            return Finding("extent", NOTE, text)
        (value, step, signal), table = max(found, key=lambda pair: pair[0])
        watched = table.table.signals[signal]
        what = "value" if watched.reference == "none" else "change"
        text = (
            f"{self._extent()}: the largest mean absolute {what} is {value:.4g}, "
            f"in {watched.name} at step {step}."
        )
        return Finding("largest_change", NOTE, text, watched.name, step)

    def _extent(self) -> str:
        steps = max(table.steps for table in self.tables.values())
        signals, replicas = len(self.info.signals), len(self.info.replicas)
        return (
            f"{steps} step{'s' * (steps != 1)}, {signals} signal{'s' * (signals != 1)} "
            f"on {replicas} replica{'s' * (replicas != 1)}"
        )

    def _replicas(self) -> Finding:
        if len(self.info.replicas) < 2:
            text = "One replica, so there is none to compare it with."
            return Finding("replicas_apart", NOTE, text)
        apart_in = [table.furthest_apart() for table in self._main()]
        found = [each for each in apart_in if each is not None]
        if not found:
            text = "The replicas cannot be compared: there is no step that two of them have."
            return Finding("replicas_apart", NOTE, text)
        _, name, apart, position, std = max(found)
        replica = self.info.replicas[position]
        text = (
            f"The replicas' means lie furthest apart in {name} (by "
            f"{apart:.4g} in a step); replica {replica} "
            f"spreads most there (std {std:.4g})."
        )
        return Finding("replicas_apart", NOTE, text, name, replica=replica)

    def _inputs(self) -> list[Finding]:
        return [line for table in self.tables.values() for line in table.inputs()]

    def _numbers(self) -> Finding:
        found = [(t.broken, t) for t in self.tables.values() if t.broken is not None]
        if not found:
            return Finding("finite", NOTE, "No NaN and no Inf.")
        (step, position, signal), table = min(found, key=lambda pair: pair[0])
        replica, name = self.info.replicas[position], table.table.names[signal]
        text = f"NaN or Inf first at step {step} on replica {replica}, in {name}."
        return Finding("not_finite", WARNING, text, name, step, replica)


class TableDigest:
    """What one table's rows add up to."""

    def __init__(self, info: RunInfo, table: Table) -> None:
        self.table = table
        self._replicas = info.replicas
        self.steps = 0
        self.lost = 0
        shape = (len(info.replicas), len(table.signals), _USUAL)
        #: States over all steps: per replica, shape (replica, signal, field).
        self.totals = merge_axis(ROW, np.zeros((0, *shape)), axis=0)
        #: Sum of the replicas' spreads over the steps that have one, and their number.
        self._spreads = np.zeros((2, len(table.signals)))
        #: The largest mean absolute delta: value, step, position of the signal.
        self.largest: tuple[float, int, int] | None = None
        #: The first NaN or Inf: step, position of the replica, of the signal.
        self.broken: tuple[int, int, int] | None = None
        self._shared = np.zeros((len(info.replicas), len(info.replicas)), np.int64)
        #: How far each replica's mean lies from that of all: sums, squares, steps.
        self._apart = np.zeros((3, *shape[:2]))

    @property
    def of_changes(self) -> bool:
        """Whether it holds changes, not only values."""
        return any(signal.reference != "none" for signal in self.table.signals)

    def observe(self, block: Block) -> None:
        """Take the next block."""
        if len(block):
            rows = block.rows[..., :_USUAL]
            self.totals = merge_axis(ROW, np.concatenate([self.totals[None], rows]), axis=0)
            means = ROW.compute(ROW.unpack(rows))["mean"]
            apart = spread(means, axis=1)
            self._spreads += [np.nansum(apart, axis=0), (~np.isnan(apart)).sum(axis=0)]
            self._add_apart(means)
            self._find_largest(block)
            self._find_broken(block)
            if "checksum" in self.table.fields:
                self._find_shared(block)
        self.steps += len(block)
        self.lost += block.lost

    def replica_spread(self) -> Any:
        """How far the replicas' means lie apart within a step, on average: (signal,).

        Not of the whole run's means: changes from batch to batch cancel in those.
        """
        total, steps = self._spreads
        return np.where(steps > 0, total / np.maximum(steps, 1), np.nan)

    def furthest_apart(self) -> tuple[float, str, float, int, float] | None:
        """Where the replicas differ most: by how many widths, the signal, by how much,
        the position of the replica that spreads most there, and its std."""
        apart = self.replica_spread()
        std = ROW.compute(ROW.unpack(self.totals))["std"]
        if np.isnan(apart).all() or np.isnan(std).all():
            return None
        # Signals are of different scales, so each is measured in its own widths.
        widest = np.maximum(np.nanmax(np.nan_to_num(std), axis=0), np.finfo(float).tiny)
        signal = int(np.nanargmax(apart / widest))
        replica = int(np.nanargmax(std[:, signal]))
        return (
            float(apart[signal] / widest[signal]),
            self.table.names[signal],
            float(apart[signal]),
            replica,
            float(std[replica, signal]),
        )

    def inputs(self) -> list[Finding]:
        """Say which replicas are given the same batches, and whose are skewed."""
        if "checksum" not in self.table.fields:
            return []
        return [*self._same_batches(), *self._skewed()]

    def _same_batches(self) -> list[Finding]:
        return [
            Finding(
                "same_inputs",
                WARNING,
                f"Replicas {self._replicas[a]} and {self._replicas[b]} were given the same "
                f"input at {self._shared[a, b]} of {self.steps} steps.",
            )
            for a, b in np.argwhere(np.triu(self._shared, 1))
        ]

    def _skewed(self) -> list[Finding]:
        total, squares, steps = self._apart
        std = ROW.compute(ROW.unpack(merge_axis(ROW, self.totals, axis=0)))["std"]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / steps
            error = np.sqrt(np.maximum(squares / steps - mean**2, 0.0) / steps)
            shift = mean / std
            sure = (steps > 1) & (np.abs(mean) > _SURE * error) & (np.abs(shift) > _SKEW)
        return [
            Finding(
                "skewed_inputs",
                WARNING,
                f"Replica {self._replicas[replica]} is given other data in "
                f"{self.table.names[signal]}: its mean lies {shift[replica, signal]:+.2g} "
                "standard deviations from that of the other replicas.",
                self.table.names[signal],
                replica=self._replicas[replica],
            )
            for replica, signal in np.argwhere(sure)
        ]

    def _add_apart(self, means: Floats) -> None:
        """Each replica's mean against the mean of the others, step by step."""
        known = ~np.isnan(means)
        total = np.where(known, means, 0.0).sum(axis=1, keepdims=True)
        others = known.sum(axis=1, keepdims=True) - 1
        rest = (total - np.where(known, means, 0.0)) / np.maximum(others, 1)
        apart = np.where(known & (others > 0), means - rest, 0.0)
        counted = (known & (others > 0)).sum(axis=0)
        self._apart += [apart.sum(axis=0), (apart**2).sum(axis=0), counted]

    def _find_shared(self, block: Block) -> None:
        checksum = block.rows[..., self.table.fields.index("checksum")]
        present = block.rows[..., 0] > 0
        for a, b in np.argwhere(np.triu(np.ones_like(self._shared), 1)):
            same = (checksum[:, a] == checksum[:, b]) & present[:, a] & present[:, b]
            self._shared[a, b] += int(same.all(axis=-1).sum())

    def _find_largest(self, block: Block) -> None:
        l1, n = (block.merged[..., ROW.fields.index(name)] for name in ("l1", "n"))
        change = np.where(n > 0, l1 / np.maximum(n, 1), np.nan)
        if self.of_changes:
            of_values = [signal.reference == "none" for signal in self.table.signals]
            change[:, of_values] = np.nan
        if np.isnan(change).all():
            return
        step, signal = np.unravel_index(np.nanargmax(change), change.shape)
        value = float(change[step, signal])
        if self.largest is None or value > self.largest[0]:
            self.largest = (value, int(block.step[step]), int(signal))

    def _find_broken(self, block: Block) -> None:
        if self.broken is not None:
            return
        nans, infs = (block.rows[..., ROW.fields.index(n)] for n in ("nans", "infs"))
        found = np.argwhere(nans + infs > 0)
        if len(found):
            step, replica, signal = (int(i) for i in found[0])
            self.broken = (int(block.step[step]), replica, signal)


def _lost(lost: int) -> Finding:
    if not lost:
        return Finding("complete", NOTE, "No row was lost.")
    text = f"{lost} step{'s' * (lost != 1)} lost: see the gaps in `step`."
    return Finding("lost", WARNING, text)


def spread(means: Any, axis: int) -> Any:
    """Largest minus smallest mean over an axis, without NaN; NaN where all are."""
    known = ~np.isnan(means)
    high = np.max(means, axis=axis, where=known, initial=-np.inf)
    low = np.min(means, axis=axis, where=known, initial=np.inf)
    return np.where(known.any(axis=axis), high - low, np.nan)
