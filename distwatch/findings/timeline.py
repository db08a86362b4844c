"""Sums over stretches of a run, in constant memory however long the run is."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from distwatch.records import Floats, Ints

Number = TypeVar("Number", np.float64, np.int64)

#: Into how many stretches a run is cut at most; a long one has more than half as many.
STRETCHES = 64

#: Where the last part of a run begins; a fault at its start may be over.
_LAST_PART = 0.75


def accumulate(ufunc: np.ufunc, kept: Any, places: Any, rows: Any, starts: Ints) -> None:
    """Combine consecutive rows into the places that they belong to.

    Args:
        ufunc: such as `numpy.add`.
        kept: what is accumulated: shape (place, ...); changed in place.
        places: which of them the rows belong to: a slice or indices, shape (k,).
        rows: the next rows: shape (n, ...).
        starts: where the rows of each of these places start: shape (k,).
    """
    kept[places] = ufunc(kept[places], ufunc.reduceat(rows, starts, axis=0))


class Timeline:
    """Sums of several values, and the maximum of one, for each stretch of a run.

    All stretches have ``width`` rows, except the last one: the smallest power of two with
    which the run fits into `STRETCHES`. So they depend on the rows alone, not on the
    blocks in which they came. Stretches beyond the end have sums of 0 and no peak.

    Args:
        signals: the number of signals.
        shapes: what is summed: name -> shape of one row.
    """

    def __init__(self, signals: int, shapes: dict[str, tuple[int, ...]]) -> None:
        self.rows = 0
        self.width = 1
        #: Name -> what was summed: shape (stretch, *shape of a row).
        self.sums = {name: np.zeros((STRETCHES, *shape)) for name, shape in shapes.items()}
        #: The largest height: shape (stretch, signal); -inf where there is none.
        self.peak = np.full((STRETCHES, signals), -np.inf)
        #: The first step that has it: shape (stretch, signal).
        self.peak_step: Ints = np.zeros((STRETCHES, signals), np.int64)
        #: The first step of each stretch: shape (stretch,).
        self.first_step: Ints = np.zeros(STRETCHES, np.int64)

    def add(self, step: Ints, height: Floats, values: dict[str, Floats]) -> None:
        """Take the next rows.

        Args:
            step: shape (n,).
            height: of which the largest is kept, -inf for none: shape (n, signal).
            values: name -> what is summed: shape (n, *shape of a row).
        """
        while self.rows + len(step) > STRETCHES * self.width:
            self._halve()
        stretch = (self.rows + np.arange(len(step))) // self.width
        starts = np.flatnonzero(np.diff(stretch, prepend=-1))
        at = stretch[starts]
        for name, value in values.items():
            accumulate(np.add, self.sums[name], at, value, starts)
        self._raise_peaks(step, height, starts, at, stretch - stretch[0])
        begins = (self.rows + starts) % self.width == 0
        self.first_step[at[begins]] = step[starts[begins]]
        self.rows += len(step)

    @property
    def stretches(self) -> int:
        """How many stretches the run has so far."""
        return -(-self.rows // self.width)

    @property
    def last_part(self) -> int:
        """The first stretch of the run's last part."""
        return -(-int(self.rows * _LAST_PART) // self.width)

    def in_last_part(self, name: str) -> Floats:
        """The sum over the run's last part: of the shape of a row."""
        return np.asarray(self.sums[name][self.last_part :].sum(axis=0))

    def _raise_peaks(
        self, step: Ints, height: Floats, starts: Ints, at: Ints, stretch: Ints
    ) -> None:
        peak = np.maximum.reduceat(height, starts, axis=0)
        none = np.iinfo(np.int64).max
        reached = np.where(height == peak[stretch], step[:, None], none)
        peak_step = np.minimum.reduceat(reached, starts, axis=0)
        higher = peak > self.peak[at]
        self.peak_step[at] = np.where(higher, peak_step, self.peak_step[at])
        self.peak[at] = np.maximum(peak, self.peak[at])

    def _halve(self) -> None:
        """Merge pairs of stretches."""
        for name, sums in self.sums.items():
            self.sums[name] = _filled(sums[::2] + sums[1::2], 0.0)
        second = self.peak[1::2] > self.peak[::2]
        step = np.where(second, self.peak_step[1::2], self.peak_step[::2])
        self.peak_step = _filled(step, 0)
        self.peak = _filled(np.maximum(self.peak[::2], self.peak[1::2]), -np.inf)
        self.first_step = _filled(self.first_step[::2], 0)
        self.width *= 2


def _filled(half: npt.NDArray[Number], with_: float) -> npt.NDArray[Number]:
    """Half of the stretches, and as many empty ones after them."""
    return np.concatenate([half, np.full_like(half, with_)])
