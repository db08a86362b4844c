"""Long series in few bins that keep whatever stands out.

A bin is a number of consecutive rows. It keeps the smallest and the largest value, so that a
spike of one step is as high in ten bins as in a million rows, the mean of the finite values,
and whether a value was infinite. Bins end where steps are missing, so that no line is drawn
across a gap.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distwatch.findings.timeline import accumulate

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Steps are missing where a stride is this many times as long as its neighbours.
_GAP = 1.5

#: How many strides on either side are its neighbours.
_NEIGHBOURS = 3


@dataclass(frozen=True)
class Bins:
    """How rows are divided: bin ``i`` starts at row ``starts[i]``.

    Shapes: all (bin,). ``first`` and ``last`` are the first and last step of a bin,
    ``after_gap`` says where steps are missing before a bin.
    """

    starts: Ints
    first: Ints
    last: Ints
    after_gap: Flags
    #: How many rows there are.
    rows: int

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def centre(self) -> Floats:
        """The step in the middle of each bin."""
        return (self.first + self.last) / 2.0

    @property
    def are_steps(self) -> bool:
        """Whether each bin is one step, so that nothing is merged."""
        return len(self) == self.rows


def bins_of(step: Ints, most: int) -> Bins:
    """Divide rows into at most ``most`` bins of about equally many.

    Args:
        step: the rows' steps, rising: shape (row,).
        most: how many bins there may be, at least 1.
    """
    rows = len(step)
    gaps = gaps_in(step)
    if gaps.sum() >= max(1, most // 2):
        gaps[:] = False  # So many gaps would use up all bins.
    edges = np.flatnonzero(gaps)
    size = max(1, -(-rows // most))
    starts = _starts(rows, edges, size)
    while len(starts) > most:
        # A bin before a gap may be partly filled, so there can be too many.
        size += max(1, size // 50)
        starts = _starts(rows, edges, size)
    ends = np.append(starts[1:], rows) - 1
    return Bins(starts, step[starts], step[ends], gaps[starts], rows)


def gaps_in(step: Ints) -> Flags:
    """Before which rows steps are missing: shape (row,).

    Schedules differ, and a run that was thinned out has longer strides in its old part, so a
    stride is compared with its neighbours.
    """
    found = np.zeros(len(step), bool)
    if len(step) > 2:
        stride = np.diff(step)
        # The first and the last stride are repeated, so they are no gaps themselves.
        padded = np.pad(stride, _NEIGHBOURS, mode="edge")
        medians = np.median(
            np.lib.stride_tricks.sliding_window_view(padded, _NEIGHBOURS), axis=1
        )
        before, after = medians[: len(stride)], medians[_NEIGHBOURS + 1 :]
        found[1:] = stride > _GAP * np.maximum(before, after)
    return found


def _starts(rows: int, edges: Ints, size: int) -> Ints:
    ends = [0, *edges.tolist(), rows]
    parts = [np.arange(a, b, size) for a, b in itertools.pairwise(ends)]
    return np.concatenate(parts).astype(np.int64)


@dataclass(frozen=True)
class Binned:
    """What is kept of some series.

    Shapes: (bin, ...). ``low`` and ``high`` are the smallest and the largest finite value
    of a bin and ``mean`` that of them, NaN where there is none; ``infinite`` says where a
    value was not finite although it was known.
    """

    bins: Bins
    low: Floats
    high: Floats
    mean: Floats
    infinite: Flags


class Binning:
    """Reduces the rows of some series to bins, as the rows come.

    Args:
        bins: how they are divided.
        shape: that of a row, of any number of axes.
    """

    def __init__(self, bins: Bins, shape: tuple[int, ...]) -> None:
        self._bins = bins
        self._row = 0
        size = (len(bins), *shape)
        self._low, self._high = np.full((2, *size), np.nan)
        self._total, self._number = np.zeros(size), np.zeros(size, np.int64)
        self._infinite = np.zeros(size, bool)

    def observe(self, values: npt.NDArray[np.floating]) -> None:
        """Take the next rows: shape (n, \\*shape).

        Raises:
            ValueError: there are more of them than the bins are of.
        """
        if not len(values):
            return
        begin, end = self._row, self._row + len(values)
        if end > self._bins.rows:
            raise ValueError(f"{end} rows were given, the bins are of {self._bins.rows}.")
        self._row = end
        starts = self._bins.starts
        places = slice(
            np.searchsorted(starts, begin, "right") - 1, np.searchsorted(starts, end)
        )
        cuts = np.maximum(starts[places] - begin, 0)
        finite = np.isfinite(values)
        known = np.where(finite, values, np.nan)
        with np.errstate(over="ignore"):
            for ufunc, kept, rows in (
                (np.fmin, self._low, known),
                (np.fmax, self._high, known),
                (np.add, self._total, np.where(finite, values, 0.0)),
                (np.add, self._number, finite.astype(np.int64)),
                (np.logical_or, self._infinite, np.isinf(values)),
            ):
                accumulate(ufunc, kept, places, rows, cuts)

    def done(self) -> Binned:
        """What was kept; bins whose rows did not come are NaN."""
        some = self._number > 0
        mean = np.where(some, self._total / np.maximum(self._number, 1), np.nan)
        # Rounding or overflow may have moved a mean out of its range.
        mean = np.clip(mean, self._low, self._high)
        return Binned(self._bins, self._low, self._high, mean, self._infinite)
