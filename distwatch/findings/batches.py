"""What is known of the batches by their checksums, and by the epochs they are in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from distwatch.findings.equal_batches import EqualBatches
from distwatch.findings.findings import WARNING, Finding
from distwatch.findings.timeline import STRETCHES
from distwatch.records import Block, Floats, Ints, Table
from distwatch.text import counted, listed

#: So many times in a row, one batch is not met by chance.
_STUCK = 8


class Batches:
    """Which batches are equal: on two replicas in one step, or on one in following steps."""

    def __init__(self, table: Table, replicas: int) -> None:
        self._checksum = table.fields.index("checksum")
        #: At how many steps two replicas had the same batches.
        self.shared = EqualBatches(replicas)
        #: How often in a row each replica had the same batch, the longest time, and from
        #: which step on.
        self.longest: Ints = np.zeros(replicas, np.int64)
        self.since: Ints = np.zeros(replicas, np.int64)
        #: At how many steps the batch was another one than at the step before.
        self.changed = 0
        self._length: Ints = np.zeros(replicas, np.int64)
        self._begun: Ints = np.zeros(replicas, np.int64)
        self._last: Any = None

    def observe(self, block: Block) -> None:
        """Take the next block."""
        checksum = block.rows[..., self._checksum]
        # Of no elements it is 0, also where a change has nothing to be measured against.
        there = (checksum > 0).all(axis=-1)
        self.shared.observe(checksum, there)
        self._find_stuck(block, checksum, there)

    def _find_stuck(self, block: Block, checksum: Floats, there: Any) -> None:
        now = (checksum, there, block.epoch)
        last = self._last or [each[:1] for each in now]
        values, were, epoch = (np.concatenate([a, b]) for a, b in zip(last, now, strict=True))
        known = were[1:] & were[:-1]
        same = known & (values[1:] == values[:-1]).all(axis=-1)
        # The first row of all has none before it.
        same[0] &= self._last is not None
        self.changed += int((known & ~same).any(axis=1).sum()) - (self._last is None)
        # An epoch of one batch has the same one again and again, as it should.
        same &= (epoch[1:] == epoch[:-1])[:, None]
        rows = np.arange(len(block))[:, None]
        new = np.maximum.accumulate(np.where(same, -1, rows), axis=0)
        length = np.where(new < 0, self._length + rows + 1, rows - new + 1)
        begun = np.where(new < 0, self._begun, block.step[new])
        self._keep_longest(length, begun)
        self._length, self._begun = length[-1], begun[-1]
        self._last = [each[-1:] for each in now]

    def _keep_longest(self, length: Ints, begun: Ints) -> None:
        at = np.argmax(length, axis=0)
        best, replicas = length.max(axis=0), np.arange(length.shape[1])
        longer = best > self.longest
        self.longest = np.where(longer, best, self.longest)
        self.since = np.where(longer, begun[at, replicas], self.since)


def same_inputs(table: Table, batches: Batches, replicas: Any, steps: int) -> Iterator[Finding]:
    """Which replicas are given the same batches."""
    most = batches.shared.most()
    if most is None:
        return
    text = (
        f"Replicas {replicas[most.first]} and {replicas[most.second]} were given the same "
        f"input at {most.steps} of {counted(steps, 'step')}."
    )
    if most.more:
        more = counted(most.more, "more pair")
        text += f" The same holds for {more}, at as many steps or fewer."
    yield Finding("same_inputs", WARNING, text, table.names[0])


def stuck_inputs(table: Table, batches: Batches, replicas: Any) -> Iterator[Finding]:
    """Which replicas are given one batch again and again within an epoch."""
    stuck = np.flatnonzero(batches.longest >= _STUCK)
    if not len(stuck):
        return
    longest = int(stuck[np.argmax(batches.longest[stuck])])
    step, times = int(batches.since[longest]), int(batches.longest[longest])
    who = (
        "Every replica"
        if len(stuck) == len(replicas) > 1
        else f"Replica{'s' * (len(stuck) > 1)} {listed(replicas[i] for i in stuck)}"
    )
    if len(replicas) == 1:
        who = "The training"
    text = (
        f"{who} {'were' if who.startswith('Replicas') else 'was'} given the same batch in "
        f"{table.names[0]} at {times} steps in a row, from step {step} on. Look for an "
        "iterator that is not advanced."
    )
    replica = replicas[longest] if len(stuck) == 1 else None
    yield Finding("stuck_inputs", WARNING, text, table.names[0], step, replica)


class OverEpochs:
    """Sums over the places of an epoch, of all epochs together.

    Data come again in each epoch, so rows of the same place are no independent evidence;
    those of different places are. Places are joined in stretches as a `Timeline` joins
    steps; without epochs it is the same.

    Args:
        shapes: what is summed: name -> shape of one row.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        #: Name -> what was summed: shape (stretch, *shape of a row).
        self.sums = {name: np.zeros((STRETCHES, *shape)) for name, shape in shapes.items()}
        #: Rows of the longest epoch.
        self.longest = 0
        self._width = 1
        self._epoch: int | None = None
        self._rows = 0

    def add(self, epoch: Ints, values: dict[str, Floats]) -> None:
        """Take the next rows: epoch (n,), values (n, *shape of a row)."""
        place = self._places(epoch)
        self.longest = max(self.longest, int(place.max()) + 1)
        while self.longest > STRETCHES * self._width:
            for name, sums in self.sums.items():
                half = sums[::2] + sums[1::2]
                self.sums[name] = np.concatenate([half, np.zeros_like(half)])
            self._width *= 2
        stretch = place // self._width
        starts = np.flatnonzero(np.diff(stretch, prepend=-1))
        for name, value in values.items():
            # A stretch may come several times, once in each epoch.
            np.add.at(self.sums[name], stretch[starts], np.add.reduceat(value, starts, axis=0))

    def _places(self, epoch: Ints) -> Ints:
        new = np.diff(epoch, prepend=epoch[0] if self._epoch is None else self._epoch) != 0
        rows = np.arange(len(epoch))
        begin = np.maximum.accumulate(np.where(new, rows, -1))
        place: Ints = np.where(begin < 0, self._rows + rows, rows - begin)
        self._epoch, self._rows = int(epoch[-1]), int(place[-1]) + 1
        return place
