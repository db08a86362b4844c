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
    blocks in which they came.

    Args:
        signals: the number of signals.
        shapes: what is summed: name -> shape of one row.
    """

    def __init__(self, signals: int, shapes: dict[str, tuple[int, ...]]) -> None:
        self.rows = 0
        self.width = 1
        #: Name -> shape (stretch, *shape of a row).
        self._sums = {name: np.zeros((STRETCHES, *shape)) for name, shape in shapes.items()}
        self._peak = np.full((STRETCHES, signals), -np.inf)
        self._peak_step: Ints = np.zeros((STRETCHES, signals), np.int64)
        self._first: Ints = np.zeros(STRETCHES, np.int64)

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
            accumulate(np.add, self._sums[name], at, value, starts)
        self._raise_peaks(step, height, starts, at, stretch - stretch[0])
        begins = (self.rows + starts) % self.width == 0
        self._first[at[begins]] = step[starts[begins]]
        self.rows += len(step)

    @property
    def used(self) -> int:
        """The number of stretches that have rows."""
        return -(-self.rows // self.width)

    @property
    def last(self) -> slice:
        """The stretches of the run's last part."""
        return slice(-(-int(self.rows * _LAST_PART) // self.width), self.used)

    @property
    def first_step(self) -> Ints:
        """The first step of each stretch: shape (stretch,)."""
        return self._first[: self.used]

    @property
    def peak(self) -> Floats:
        """The largest height: shape (stretch, signal); -inf where there is none."""
        return self._peak[: self.used]

    @property
    def peak_step(self) -> Ints:
        """The first step that has it: shape (stretch, signal)."""
        return self._peak_step[: self.used]

    def sums(self, name: str) -> Floats:
        """What was summed: shape (stretch, *shape of a row)."""
        return self._sums[name][: self.used]

    def _raise_peaks(
        self, step: Ints, height: Floats, starts: Ints, at: Ints, stretch: Ints
    ) -> None:
        peak = np.maximum.reduceat(height, starts, axis=0)
        none = np.iinfo(np.int64).max
        reached = np.where(height == peak[stretch], step[:, None], none)
        peak_step = np.minimum.reduceat(reached, starts, axis=0)
        higher = peak > self._peak[at]
        self._peak_step[at] = np.where(higher, peak_step, self._peak_step[at])
        self._peak[at] = np.where(higher, peak, self._peak[at])

    def _halve(self) -> None:
        """Merge pairs of stretches."""
        for name, sums in self._sums.items():
            self._sums[name] = _filled(sums[::2] + sums[1::2], 0.0)
        second = self._peak[1::2] > self._peak[::2]
        step = np.where(second, self._peak_step[1::2], self._peak_step[::2])
        self._peak_step = _filled(step, 0)
        self._peak = _filled(np.maximum(self._peak[::2], self._peak[1::2]), -np.inf)
        self._first = _filled(self._first[::2], 0)
        self.width *= 2


def _filled(half: npt.NDArray[Number], with_: float) -> npt.NDArray[Number]:
    """Half of the stretches, and as many empty ones after them."""
    return np.concatenate([half, np.full_like(half, with_)])
