"""Thinning out: a table is copied with every second, fourth, ... step of its old part only.

All of the old part keeps the same distance between its steps, so that the start of a training
has as many as its middle; the steps since the last thinning follow it, none left out.

What is committed is never changed. The copy grows by a few windows with every block that
comes; when it is complete, the segment's document is replaced by one that names the copy
in the table's place, in one atomic rename, and the table is removed. A crash before that
leaves the table as it was, and a copy that nothing names, which the next start removes.

Rejected: thinning in place, which would have to change chunks that readers may be reading;
halving what is there each time, which leaves almost nothing of the start of a long training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distwatch.store.readable_tables import ReadableTable
from distwatch.store.table_writer import TableWriter

#: Windows that are copied for each block that comes.
PACE = 16

#: No run has so many steps.
_MOST_STRIDE = 2**53


@dataclass(frozen=True)
class Distances:
    """How far apart the steps of a table are: ``stride`` in its first part, then 1."""

    stride: int = 1
    #: Steps of the first part that are there, and that were there once.
    kept: int = 0
    were: int = 0

    def thinned(self, steps: int, stride: int) -> Distances:
        """The distances after the first part has grown to ``steps``, thinned to ``stride``."""
        were, stride = self.were + steps - self.kept, max(stride, self.stride)
        return Distances(stride, -(-were // stride), were)

    def numbers(self, steps: slice) -> npt.NDArray[np.int64]:
        """The number that each step had before any was taken out: shape (n,)."""
        place = np.arange(steps.start, steps.stop)
        return np.where(place < self.kept, place * self.stride, place - self.kept + self.were)


def halving(steps: int, kept: Callable[[int], int]) -> int:
    """The least stride, a power of two, with which at most half of the steps stay.

    Args:
        steps: how many there are.
        kept: how many stay with a stride.
    """
    stride = 2
    # Of a few short starts, each keeps its first step.
    while kept(stride) > steps // 2 and stride < _MOST_STRIDE:
        stride *= 2
    return stride


def copy_of(group: str) -> str:
    """The name of the group that a table's next copy gets."""
    name, _, generation = group.partition(".")
    return f"{name}.{int(generation or 0) + 1}"


class TableCopy:
    """The unfinished copy of one table.

    Args:
        source: what writes the table.
        target: what writes the copy.
        reread: opens the table as it is committed now.
        distances: how far apart its steps are.
        stride: how far apart those of the copy's first part will be, at least.
    """

    def __init__(
        self,
        source: TableWriter,
        target: TableWriter,
        reread: Callable[[], ReadableTable],
        distances: Distances,
        stride: int,
    ) -> None:
        self.target = target
        #: How far apart the copy's steps will be.
        self.distances = distances.thinned(source.whole, stride)
        self._before = distances
        self._source = source
        self._reread = reread
        self._stored = reread()
        #: How many steps are old; a tail is not.
        self._old = source.whole
        self._copied = 0

    def advance(self) -> bool:
        """Copy some windows; False when everything committed is copied."""
        return all(self._copy_window() for _ in range(PACE))

    def _copy_window(self) -> bool:
        if self._copied == self._stored.steps:
            self._stored = self._reread()
        if self._copied == self._stored.steps:
            return False
        place, window = self._copied, self._stored.table.window
        steps = slice(place, min(place + window, self._stored.steps))
        block = self._stored.block(steps)
        self.target.append(block[np.flatnonzero(self._is_kept(steps))])
        self._copied = steps.stop
        return True

    def _is_kept(self, steps: slice) -> npt.NDArray[np.bool_]:
        numbers = self._before.numbers(steps)
        return np.asarray(
            (numbers % self.distances.stride == 0) | (numbers >= self.distances.were)
        )

    def finish(self) -> None:
        """Copy the rest, so that nothing is missing when the table is replaced."""
        self._source.commit_tail()
        while self.advance():
            pass
        self.target.lost = self._source.lost
        self.target.thinned = self._source.thinned + self._old - self.distances.kept
        self.target.take_over_end(self._source)
        self.target.commit_tail()
