"""What a table's rows add up to: all that findings are derived from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distwatch.findings.batches import Batches, OverEpochs
from distwatch.findings.broken import Broken
from distwatch.findings.copies import Copies
from distwatch.findings.copy_digest import CopyDigest
from distwatch.findings.streaks import Streaks
from distwatch.findings.timeline import Timeline
from distwatch.records import CLOSED, Block, Epoch, Floats, Ints, RunInfo, Table
from distwatch.statistics import ROW, LogHistogram, Ratio, Units, merge_axis, spread

#: How many columns of a row are those of every row.
_USUAL = len(ROW.fields)
_COUNT, _ZEROS, _N, _MEAN, _M2, _MIN, _MAX, _L1, _L2SQ = (
    ROW.fields.index(name)
    for name in ("count", "zeros", "n", "mean", "m2", "min", "max", "l1", "l2sq")
)

#: For medians of change sizes, to 6%, which is enough for "about 12 times".
_SIZES = LogHistogram(accuracy=0.06, smallest=1e-20, largest=1e20)
_ZERO = len(_SIZES.centres) // 2

#: The spread of fewer elements than this is not compared: on average the logarithm of a
#: standard deviation lies about 1 / (2 n) too low, so that smaller batches would look odd.
_SPREAD_OF = 8

#: Into how many levels shares are divided: numbers of up to so many units are exact.
_LEVELS = 64

#: Sums over steps: of all finite elements, of their squares, and of how many there are.
_OF_VALUES = ("total", "squares", "finite")

#: Sums over steps: of the numbers of units, of those that are zero or constant for the
#: whole batch, of the latter's squares, and of how many steps.
_OF_UNITS = ("units", "zero_units", "constant_units", "constant_squares", "unit_steps")

#: Sums of how far a replica's mean and the logarithm of its width lie from the others', of
#: how many steps, and of the squares.
_COMPARED = ("mean", "means", "mean_squares", "width", "widths", "width_squares")


class Recorded(NamedTuple):
    """What rules look at: a run, its tables that have rows, how many steps were lost, and
    what ended the writing ("closed" or an error; None while it goes on, or if killed).
    ``copies`` are the tables of checksums of the replicas' copies of variables, ``epochs``
    what the epochs of ``fit`` came to."""

    info: RunInfo
    tables: Sequence[TableDigest]
    lost: int
    ended: str | None = CLOSED
    copies: Sequence[CopyDigest] = ()
    epochs: Sequence[Epoch] = ()


class TableDigest:
    """What one table's rows add up to."""

    def __init__(self, info: RunInfo, table: Table) -> None:
        self.table = table
        self.replicas = info.replicas
        self.steps = 0
        self.lost = 0
        #: The first and the last step.
        self.extent = (0, 0)
        signals, shape = len(table.signals), (len(info.replicas), len(table.signals))
        #: States over all steps: per replica, shape (replica, signal, field).
        self.totals = merge_axis(ROW, np.zeros((0, *shape, _USUAL)), axis=0)
        #: Sum of the replicas' spreads over the steps that have one, and their number.
        self._spreads = np.zeros((2, signals))
        self.broken = Broken(info, table)
        self.copies = Copies(info, table)
        self.batches = Batches(table, len(info.replicas)) if self.of_inputs else None
        #: Since when which share of the elements is zero; and of the units.
        self.zeros = Streaks(_LEVELS, signals)
        self.units = Streaks(_LEVELS, signals) if self.has_units else None
        #: How often a mean absolute delta was of which size, from zero on; NaN last.
        self._sizes = np.zeros((signals, len(_SIZES.centres) - _ZERO + 1), np.int64)
        self._smallest = np.full(signals, np.inf)
        #: Whether the smallest and the largest element of every row are whole numbers.
        self.whole = np.ones(signals, bool)
        names = ["count", "zeros", "change", "changes", *_OF_VALUES]
        names += [*Ratio().fields] * self.has_ratio + [*_OF_UNITS] * self.has_units
        compared: dict[str, tuple[int, ...]] = {}
        if len(info.replicas) > 1:
            compared = dict.fromkeys(_COMPARED, shape)
        self.timeline = Timeline(signals, compared | dict.fromkeys(names, (signals,)))
        self.over_epochs = OverEpochs(compared)

    @property
    def of_changes(self) -> bool:
        """Whether it holds changes, not only values."""
        return any(signal.reference != "none" for signal in self.table.signals)

    @property
    def of_data(self) -> bool:
        """Whether it holds the data's own values, which are looked at now and then."""
        return all(name.startswith("data/") for name in self.table.names)

    @property
    def of_inputs(self) -> bool:
        """Whether it can recognize equal batches."""
        return "checksum" in self.table.fields

    @property
    def has_ratio(self) -> bool:
        """Whether it holds update-to-weight ratios."""
        return "change_l2sq" in self.table.fields

    @property
    def has_units(self) -> bool:
        """Whether it holds how many units are the same for a whole batch."""
        return "constant_units" in self.table.fields

    def observe(self, block: Block) -> None:
        """Take the next block."""
        if len(block):
            first = self.extent[0] if self.steps else int(block.step[0])
            self.extent = (first, int(block.step[-1]))
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
        """The median of the steps' mean absolute deltas: (signal,); NaN where there is none.

        It is known to the width of a bin, and lies between the smallest and the largest.
        """
        largest = self.timeline.peak.max(axis=0)
        return np.clip(self._median(self._sizes[:, :-1]), self._smallest, largest)

    def usual_but_zero(self) -> Floats:
        """The same of those steps whose delta is not zero."""
        sizes = self._sizes[:, :-1].copy()
        sizes[:, 0] = 0
        return self._median(sizes)

    def _median(self, sizes: Ints) -> Floats:
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
            compared = self._of_replicas(rows)
            self.over_epochs.add(block.epoch, compared)
            values |= compared
        low, high = (block.merged[..., place] for place in (_MIN, _MAX))
        self.whole &= ((low == np.rint(low)) & (high == np.rint(high))).all(axis=0)
        known = values["changes"] > 0
        height = np.where(known, values["change"], -np.inf)
        self._count_sizes(np.where(known, values["change"], np.nan))
        self.timeline.add(block.step, height, values)
        self.zeros.observe(block.step, _share(values["zeros"], values["count"]))
        if self.units is not None:
            share = _share(values["constant_units"], values["units"])
            self.units.observe(block.step, share)
        self.broken.observe(block)
        self.copies.observe(block)
        if self.batches is not None:
            self.batches.observe(block)

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
            "total": np.where(known, n * merged[..., _MEAN], 0.0),
            "squares": np.where(known, merged[..., _L2SQ], 0.0),
            "finite": np.where(known, n, 0.0),
        }
        if self.has_ratio:
            fields = self.table.fields
            values |= {name: merged[..., fields.index(name)] for name in Ratio().fields}
        if self.has_units:
            fields = self.table.fields
            units, *some = (merged[..., fields.index(name)] for name in Units().fields)
            there = (units > 0) & np.isfinite(some).all(axis=0)
            zero, same = (np.where(there, each, 0.0) for each in some)
            numbers = (np.where(there, units, 0.0), zero, same, same**2, 1.0 * there)
            values |= dict(zip(_OF_UNITS, numbers, strict=True))
        return values

    def _of_replicas(self, rows: Floats) -> dict[str, Floats]:
        """Each replica relative to the others: shape (n, replica, signal) each."""
        n, mean, m2 = rows[..., _N], rows[..., _MEAN], rows[..., _M2]
        known = (n > 0) & np.isfinite(mean)
        # One replica alone is not apart from any other.
        several = known.sum(axis=1, keepdims=True) > 1
        apart = spread(np.where(known & several, mean, np.nan), axis=1)
        self._spreads += [np.nansum(apart, axis=0), (~np.isnan(apart)).sum(axis=0)]
        wide = (n >= _SPREAD_OF) & (m2 > 0) & np.isfinite(m2)
        log = 0.5 * np.log(np.where(wide, m2, 1.0) / np.maximum(n, 1.0))
        means, widths = _minus_others(mean, known), _minus_others(log, wide)
        return {
            name: numbers
            for key, (off, some) in (("mean", means), ("width", widths))
            for name, numbers in ((key, off), (f"{key}s", some), (f"{key}_squares", off**2))
        }

    def _count_sizes(self, change: Floats) -> None:
        signals, places = self._sizes.shape
        place = _SIZES.places(change).reshape(change.shape) - _ZERO
        at = (place + np.arange(signals) * places).ravel()
        self._sizes += np.bincount(at, minlength=self._sizes.size).reshape(self._sizes.shape)
        self._smallest = np.fmin(self._smallest, np.nanmin(np.fmin(change, np.inf), axis=0))


def _share(part: Floats, whole: Floats) -> Floats:
    return np.where(whole > 0, part / np.maximum(whole, 1.0), np.nan)


def _minus_others(values: Floats, known: Any) -> tuple[Floats, Floats]:
    """Each replica's value minus the mean of the others', and whether it has one.

    Shapes: (n, replica, signal) -> the same, 0 where there is none to compare.
    """
    some = np.where(known, values, 0.0)
    others = known.sum(axis=1, keepdims=True) - known
    rest = (some.sum(axis=1, keepdims=True) - some) / np.maximum(others, 1)
    compared = known & (others > 0) & np.isfinite(rest)
    return np.where(compared, some - rest, 0.0), compared.astype(np.float64)
