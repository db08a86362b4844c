"""What travels from the training to the store: a run's description and its blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from distwatch.signals import Signal
from distwatch.statistics import ROW

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run before its first row."""

    signals: tuple[Signal, ...]
    replicas: tuple[int, ...]
    strategy: str
    window: int
    schedule: str
    versions: dict[str, str]
    fields: tuple[str, ...] = ROW.fields
    #: What could be watched and is not: layer path -> why.
    unwatched: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The signals' names, in the order of the signal axis."""
        return tuple(signal.name for signal in self.signals)


@dataclass(frozen=True)
class Block:
    """The rows of some steps on all replicas, and the same merged over replicas.

    Shapes: step, epoch, iteration (n,); rows (n, replica, signal, field);
    merged (n, signal, field). ``iteration`` is the optimizer's count as the step
    left it, -1 where the model has no optimizer.
    """

    step: Ints
    epoch: Ints
    iteration: Ints
    rows: Floats
    merged: Floats
    #: Rows that were due before or among these steps and are not here.
    lost: int = 0

    def __len__(self) -> int:
        return len(self.step)

    @property
    def nbytes(self) -> int:
        """Bytes of the block's arrays."""
        arrays = (self.step, self.epoch, self.iteration, self.rows, self.merged)
        return sum(array.nbytes for array in arrays)

    def __getitem__(self, steps: slice) -> Block:
        return replace(
            self,
            step=self.step[steps],
            epoch=self.epoch[steps],
            iteration=self.iteration[steps],
            rows=self.rows[steps],
            merged=self.merged[steps],
            lost=0,
        )


def concatenate(blocks: list[Block]) -> Block:
    """Join consecutive blocks along the step axis."""

    def joined(name: str) -> Any:
        return np.concatenate([getattr(block, name) for block in blocks])

    return Block(
        step=joined("step"),
        epoch=joined("epoch"),
        iteration=joined("iteration"),
        rows=joined("rows"),
        merged=joined("merged"),
        lost=sum(block.lost for block in blocks),
    )
