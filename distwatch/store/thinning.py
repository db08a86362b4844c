"""Thinning out: a table is copied with every second, fourth, ... step of its old part only.

All of the old part is kept at one distance, so that a training's beginning is as well told as
its middle, and what came since the last time stands whole behind it.

What is committed is never changed. The copy grows beside its table, a few windows with every
block that comes; when it has caught up, the segment's document is replaced to name the copy
in the table's place, in one atomic rename, and the table is removed. A crash in between leaves
the table as it was, and a copy that nothing names, which the next start sweeps away.

Rejected: thinning in place, which would have to change chunks that readers may be reading;
halving what is there each time, after which the beginning of a long training is all but gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from zarr.abc.store import Store
from zarr.core.sync import sync

from distwatch.records import Block
from distwatch.store.joining import ReadableTable
from distwatch.store.table_writer import TableWriter

#: Windows that are copied for each block that comes.
PACE = 16

#: Seconds for which a table that was replaced stays, for those who are reading it.
GRACE = 60.0


@dataclass(frozen=True)
class Distances:
    """How far apart the steps of a table are: ``stride`` in its first part, then 1."""

    stride: int = 1
    #: Steps of the first part that are there, and that were.
    kept: int = 0
    were: int = 0

    def thinned(self, steps: int) -> Distances:
        """With the first part grown over a table's ``steps``, at most half of them kept."""
        were = self.were + steps - self.kept
        stride = max(2, self.stride)
        while -(-were // stride) > steps // 2:
            stride *= 2
        return Distances(stride, -(-were // stride), were)

    def numbers(self, steps: slice) -> npt.NDArray[np.int64]:
        """The number that each step had when nothing was taken out: shape (n,)."""
        place = np.arange(steps.start, steps.stop)
        later = place - self.kept + self.were
        return np.where(place < self.kept, place * self.stride, later)


class TableCopy:
    """The copy of one table, in the making.

    Args:
        source: what writes the table.
        target: what writes the copy.
        reread: opens the table as it is committed now.
        distances: how far apart its steps are.
    """

    def __init__(
        self,
        source: TableWriter,
        target: TableWriter,
        reread: Callable[[], ReadableTable],
        distances: Distances,
    ) -> None:
        self.target = target
        #: How far apart the copy's steps will be.
        self.distances = distances.thinned(source.whole)
        self._before = distances
        self._source = source
        self._reread = reread
        self._stored = reread()
        #: How much is old. Tails are no part of it.
        self._old = source.whole
        self._copied = 0

    def advance(self) -> bool:
        """Copy some windows; False when all that is committed is copied."""
        return all(self._copy_window() for _ in range(PACE))

    def _copy_window(self) -> bool:
        if self._copied == self._stored.steps:
            self._stored = self._reread()
        if self._copied == self._stored.steps:
            return False
        place, window = self._copied, self._stored.table.window
        steps = slice(place, min(place + window, self._stored.steps))
        block = whole_block(self._stored, steps)
        self.target.append(block[np.flatnonzero(self._is_kept(steps))])
        self._copied = steps.stop
        return True

    def _is_kept(self, steps: slice) -> npt.NDArray[np.bool_]:
        numbers = self._before.numbers(steps)
        on_grid = numbers % self.distances.stride == 0
        return np.asarray(on_grid | (numbers >= self.distances.were))

    def finish(self) -> None:
        """Copy what is left, so that nothing is missing when the table is replaced."""
        self._source.commit_tail()
        while self.advance():
            pass
        self.target.take_over(self._source, self._old - self.distances.kept)
        self.target.commit_tail()


def whole_block(stored: ReadableTable, steps: slice) -> Block:
    """Some steps of a table, with all columns of its statistic, as they were written."""
    rows, merged = stored.rows(steps), stored.merged(steps)
    if stored.table.statistic.histogram is not None:
        rows = np.concatenate([rows, stored.histogram(steps)], axis=-1)
        merged = np.concatenate([merged, stored.histogram_merged(steps)], axis=-1)
    return Block(
        table=stored.table.name,
        step=stored.coordinate("step", steps),
        epoch=stored.coordinate("epoch", steps),
        iteration=stored.coordinate("iteration", steps),
        rows=rows,
        merged=merged,
        tensors=stored.tensors(steps),
    )


class Replaced:
    """Tables that were replaced by their copies, and are removed a little later.

    Args:
        store: where they are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[float, str]] = []

    def add(self, group: str) -> None:
        """Remove a group once nobody should be reading it any more."""
        self._waiting.append((time.monotonic() + GRACE, group))

    @property
    def waiting(self) -> bool:
        """Whether there is any that was not removed yet."""
        return bool(self._waiting)

    def remove(self, *, at_once: bool = False) -> None:
        """Remove what has waited long enough."""
        now = time.monotonic()
        due = [each for each in self._waiting if at_once or each[0] <= now]
        for each in due:
            sync(self._store.delete_dir(each[1]))
            self._waiting.remove(each)
