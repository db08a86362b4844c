"""What travels from the training to the store: a run's description and its blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from distwatch.signals import Signal
from distwatch.statistics import ROW, Row

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


#: The phases that a run may have. Each has steps and references of its own.
TRAIN, TEST, PREDICT, TRAIN_ON_BATCH = PHASES = ("train", "test", "predict", "train_on_batch")


@dataclass(frozen=True)
class TensorLayout:
    """How a table keeps raw deltas: their features, reduction over replicas and dtype."""

    features: tuple[int, ...]
    reduce: str | None
    dtype: str


@dataclass(frozen=True)
class Table:
    """Signals that are looked at on the same steps and by the same statistics.

    ``window`` is the number of steps between two drains, and that of a chunk.
    """

    name: str
    signals: tuple[Signal, ...]
    schedule: str
    window: int
    statistic: Row = ROW
    #: Of a table of one signal whose raw deltas are kept.
    tensor: TensorLayout | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The signals' names, in the order of the signal axis."""
        return tuple(signal.name for signal in self.signals)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the statistic's scalar columns, in the order of the field axis."""
        return tuple(f for part in self.statistic.parts if not part.wide for f in part.fields)


#: A ring takes at most this much of a replica's memory; wide rows are drained more often.
RING_BYTES = 32 * 2**20


def fitting(table: Table) -> Table:
    """The table with a window of which two fit into a ring."""
    row = 8 * (2 + len(table.signals) * table.statistic.columns)
    return replace(table, window=min(table.window, max(1, RING_BYTES // (2 * row))))


@dataclass(frozen=True)
class Origin:
    """Where a start begins: a training that ended too early may be started again."""

    start: int = 0
    #: Its first step, as distwatch counts the phase's batches.
    step: int = 0
    #: The optimizer's count before that step; -1 without an optimizer.
    iteration: int = -1


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run before its first row."""

    tables: tuple[Table, ...]
    replicas: tuple[int, ...]
    strategy: str
    versions: dict[str, str]
    #: What could be watched and is not: path -> why.
    unwatched: dict[str, str] = field(default_factory=dict)
    #: What the model was doing: see `PHASES`.
    phase: str = TRAIN
    #: The process that these replicas are of, and how many trained together.
    worker: int = 0
    workers: int = 1
    #: Since when these rows were written.
    origin: Origin = Origin()

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The signals of all tables."""
        return tuple(signal for table in self.tables for signal in table.signals)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(signal.name for signal in self.signals)


@dataclass(frozen=True)
class Tensors:
    """Raw deltas of one signal.

    Shapes: values (n, replica, row, *features), or (n, 1, row, *features) where they are
    reduced over replicas; valid (n, replica) or (n, 1) says how many rows there are, and
    what is beyond is NaN.
    """

    values: npt.NDArray[Any]
    valid: Ints

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.values.nbytes + self.valid.nbytes


@dataclass(frozen=True)
class Block:
    """The rows of some steps of one table on all replicas, and the same merged.

    Shapes: step, epoch, iteration (n,); rows (n, replica, signal, field); merged
    (n, signal, field), where the fields are all columns of the table's statistic, wide
    ones too. ``iteration`` is the optimizer's count as the step left it, -1 where the
    model has no optimizer.
    """

    table: str
    step: Ints
    epoch: Ints
    iteration: Ints
    rows: Floats
    merged: Floats
    tensors: Tensors | None = None
    #: Rows that were due before or among these steps and are not here.
    lost: int = 0

    def __len__(self) -> int:
        return len(self.step)

    @property
    def nbytes(self) -> int:
        """Bytes of the block's arrays."""
        arrays = (self.step, self.epoch, self.iteration, self.rows, self.merged)
        tensors = self.tensors.nbytes if self.tensors is not None else 0
        return sum(array.nbytes for array in arrays) + tensors

    def __getitem__(self, steps: slice | Ints) -> Block:
        tensors = self.tensors
        return replace(
            self,
            step=self.step[steps],
            epoch=self.epoch[steps],
            iteration=self.iteration[steps],
            rows=self.rows[steps],
            merged=self.merged[steps],
            tensors=tensors and Tensors(tensors.values[steps], tensors.valid[steps]),
            lost=0,
        )


def concatenate(blocks: list[Block]) -> Block:
    """Join consecutive blocks of one table along the step axis."""

    def joined(name: str) -> Any:
        return np.concatenate([getattr(block, name) for block in blocks])

    tensors = [block.tensors for block in blocks if block.tensors is not None]
    return Block(
        table=blocks[0].table,
        step=joined("step"),
        epoch=joined("epoch"),
        iteration=joined("iteration"),
        rows=joined("rows"),
        merged=joined("merged"),
        tensors=joined_tensors(tensors) if tensors else None,
        lost=sum(block.lost for block in blocks),
    )


def joined_tensors(tensors: list[Tensors]) -> Tensors:
    """Join raw deltas along the step axis, filled up to the longest batch with NaN."""
    most = max(each.values.shape[2] for each in tensors)
    return Tensors(
        np.concatenate([padded(each.values, most) for each in tensors]),
        np.concatenate([each.valid for each in tensors]),
    )


def padded(values: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Fill deltas of shape (n, replica, row, ...) up to a number of rows with NaN."""
    missing = rows - values.shape[2]
    if not missing:
        return values
    widths = [(0, missing) if axis == 2 else (0, 0) for axis in range(values.ndim)]
    return np.pad(values, widths, constant_values=np.nan)


#: What a row says of a delta, as people read it.
STATISTICS = ("count", "mean", "std", "min", "max", "l1", "l2", "zeros", "nans", "infs")

#: NaN, where no two elements could be compared: nothing is known, not zero.
_KNOWN_IF_COMPARED = ("mean", "std", "min", "max", "l1", "l2")


def readable(states: Any, table: Table | None = None) -> dict[str, Any]:
    """Derive what people read from packed states of shape (..., field).

    Where a worker left no row, its states are NaN, and so is all that is read of them.

    Args:
        states: rows of the usual fields, or of all scalar fields of ``table``.
        table: whose rows they are; None for the usual fields alone.
    """
    absent = np.isnan(states[..., 0])
    if absent.any():
        found = readable(np.where(absent[..., None], 0.0, states), table)
        return {name: np.where(absent, np.nan, values) for name, values in found.items()}
    usual = len(ROW.fields)
    return {**_usual(states[..., :usual]), **_readable_further(states[..., usual:], table)}


def _usual(states: Any) -> dict[str, Any]:
    computed = ROW.compute(ROW.unpack(states))
    compared = computed["count"] > 0
    return {
        name: np.where(compared, computed[name], np.nan)
        if name in _KNOWN_IF_COMPARED
        else computed[name]
        for name in STATISTICS
    }


def _readable_further(states: Any, table: Table | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    start = 0
    for statistic in table.statistic.further if table else ():
        if not statistic.wide:
            stop = start + len(statistic.fields)
            found |= statistic.compute(statistic.unpack(states[..., start:stop]))
            start = stop
    return found
