"""What a table's rows add up to: all that findings are derived from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distwatch.findings.equal_batches import EqualBatches
from distwatch.findings.timeline import Timeline
from distwatch.records import Block, Floats, RunInfo, Table
from distwatch.statistics import ROW, LogHistogram, Ratio, merge_axis, spread

#: How many columns of a row are those of every row.
_USUAL = len(ROW.fields)
_COUNT, _ZEROS, _NANS, _INFS, _N, _MEAN, _M2, _L1 = (
    ROW.fields.index(name)
    for name in ("count", "zeros", "nans", "infs", "n", "mean", "m2", "l1")
)

#: For medians of change sizes, to 6%, which is enough for "about 12 times".
_SIZES = LogHistogram(accuracy=0.06, smallest=1e-20, largest=1e20)
_ZERO = len(_SIZES.centres) // 2

#: The spread of fewer elements than this is not compared: on average the logarithm of a
#: standard deviation lies about 1 / (2 n) too low, so that smaller batches would look odd.
_SPREAD_OF = 8


class Recorded(NamedTuple):
    """What rules look at: a run, its tables that have rows, and how many steps were lost."""

    info: RunInfo
    tables: Sequence[TableDigest]
    lost: int


class TableDigest:
    """What one table's rows add up to."""

    def __init__(self, info: RunInfo, table: Table) -> None:
        self.table = table
        self.replicas = info.replicas
        self.steps = 0
        self.lost = 0
        signals, shape = len(table.signals), (len(info.replicas), len(table.signals))
        #: States over all steps: per replica, shape (replica, signal, field).
        self.totals = merge_axis(ROW, np.zeros((0, *shape, _USUAL)), axis=0)
        #: Sum of the replicas' spreads over the steps that have one, and their number.
        self._spreads = np.zeros((2, signals))
        #: At how many steps two replicas had the same batches.
        self.shared = EqualBatches(len(info.replicas))
        self.broken = Broken(signals)
        #: How often a mean absolute delta was of which size, from zero on; NaN last.
        self._sizes = np.zeros((signals, len(_SIZES.centres) - _ZERO + 1), np.int64)
        sums: dict[str, tuple[int, ...]] = dict.fromkeys(
            ("count", "zeros", "change", "changes"), (signals,)
        )
        if self.has_ratio:
            sums |= dict.fromkeys(Ratio().fields, (signals,))
        if len(info.replicas) > 1:
            sums |= dict.fromkeys(("mean", "means", "width", "widths"), shape)
        self.timeline = Timeline(signals, sums)

    @property
    def of_changes(self) -> bool:
        """Whether it holds changes, not only values."""
        return any(signal.reference != "none" for signal in self.table.signals)

    @property
    def of_inputs(self) -> bool:
        """Whether it can recognize equal batches."""
        return "checksum" in self.table.fields

    @property
    def has_ratio(self) -> bool:
        """Whether it holds update-to-weight ratios."""
        return "change_l2sq" in self.table.fields

    def observe(self, block: Block) -> None:
        """Take the next block."""
        if len(block):
            self._add(block)
        self.steps += len(block)
        self.lost += block.lost

    def replica_spread(self) -> Floats:
        """How far the replicas' means lie apart within a step, on average: (signal,).

        Not of the whole run's means: changes from batch to batch cancel in those.
        """
        total, steps = self._spreads
        return np.where(steps > 0, total / np.maximum(steps, 1), np.nan)

    def usual(self) -> Floats:
        """The median of the steps' mean absolute deltas: (signal,); NaN where there is none."""
        sizes = self._sizes[:, :-1]
        reached = np.cumsum(sizes, axis=1)
        total = reached[:, -1]
        # 0 of none would be found at the first place.
        place = np.argmax(reached >= np.maximum(total + 1, 2)[:, None] // 2, axis=1)
        return np.where(total > 0, _SIZES.centres[_ZERO + place], np.nan)

    # A training that diverged overflows here, too.
    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def _add(self, block: Block) -> None:
        rows = block.rows[..., :_USUAL]
        of_block = merge_axis(ROW, rows, axis=0)
        self.totals = merge_axis(ROW, np.stack([self.totals, of_block]), axis=0)
        values = self._of_all(block)
        if len(self.replicas) > 1:
            values |= self._of_replicas(rows)
        known = values["changes"] > 0
        height = np.where(known, values["change"], -np.inf)
        self._count_sizes(np.where(known, values["change"], np.nan))
        self.timeline.add(block.step, height, values)
        self.broken.observe(block)
        if self.of_inputs:
            self._find_shared(block)

    def _of_all(self, block: Block) -> dict[str, Floats]:
        """What all replicas together have at each step: shape (n, signal) each."""
        merged = block.merged
        n, l1 = merged[..., _N], merged[..., _L1]
        # In a store from a stranger, a sum of absolute values may be below zero.
        known = (n > 0) & np.isfinite(l1) & (l1 >= 0)
        values = {
            "count": merged[..., _COUNT],
            "zeros": merged[..., _ZEROS],
            "change": np.where(known, l1 / np.maximum(n, 1), 0.0),
            "changes": known.astype(np.float64),
        }
        if self.has_ratio:
            fields = self.table.fields
            values |= {name: merged[..., fields.index(name)] for name in Ratio().fields}
        return values

    def _of_replicas(self, rows: Floats) -> dict[str, Floats]:
        """Each replica relative to the others: shape (n, replica, signal) each."""
        n, mean, m2 = rows[..., _N], rows[..., _MEAN], rows[..., _M2]
        known = (n > 0) & np.isfinite(mean)
        apart = spread(np.where(known, mean, np.nan), axis=1)
        self._spreads += [np.nansum(apart, axis=0), (~np.isnan(apart)).sum(axis=0)]
        wide = (n >= _SPREAD_OF) & (m2 > 0) & np.isfinite(m2)
        log = 0.5 * np.log(np.where(wide, m2, 1.0) / np.maximum(n, 1.0))
        means, widths = _minus_others(mean, known), _minus_others(log, wide)
        return {"mean": means[0], "means": means[1], "width": widths[0], "widths": widths[1]}

    def _count_sizes(self, change: Floats) -> None:
        signals, places = self._sizes.shape
        place = _SIZES.places(change).reshape(change.shape) - _ZERO
        at = (place + np.arange(signals) * places).ravel()
        self._sizes += np.bincount(at, minlength=self._sizes.size).reshape(self._sizes.shape)

    def _find_shared(self, block: Block) -> None:
        checksum = block.rows[..., self.table.fields.index("checksum")]
        self.shared.observe(checksum, (block.rows[..., _COUNT] > 0).all(axis=-1))


class Broken:
    """Where there is NaN or Inf."""

    def __init__(self, signals: int) -> None:
        #: The first one: step, position of the replica, of the signal.
        self.first: tuple[int, int, int] | None = None
        self.steps = 0
        #: Which signals have any.
        self.signals = np.zeros(signals, bool)
        #: The last step that has any, and whether it is the last one of all.
        self.last = -1
        self.still = False

    def observe(self, block: Block) -> None:
        """Take the next block of at least one step."""
        bad = block.rows[..., _NANS] + block.rows[..., _INFS] > 0
        at = np.flatnonzero(bad.any(axis=(1, 2)))
        self.still = bool(len(at)) and at[-1] == len(block) - 1
        if not len(at):
            return
        if self.first is None:
            replica, signal = np.argwhere(bad[at[0]])[0]
            self.first = (int(block.step[at[0]]), int(replica), int(signal))
        self.steps += len(at)
        self.signals |= bad.any(axis=(0, 1))
        self.last = int(block.step[at[-1]])


def _minus_others(values: Floats, known: Any) -> tuple[Floats, Floats]:
    """Each replica's value minus the mean of the others', and whether it has one.

    Shapes: (n, replica, signal) -> the same, 0 where there is none to compare.
    """
    some = np.where(known, values, 0.0)
    others = known.sum(axis=1, keepdims=True) - known
    rest = (some.sum(axis=1, keepdims=True) - some) / np.maximum(others, 1)
    compared = known & (others > 0) & np.isfinite(rest)
    return np.where(compared, some - rest, 0.0), compared.astype(np.float64)
