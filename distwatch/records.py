"""What goes from the training to the store: the description of a run, and its blocks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distwatch.errors import ConfigError
from distwatch.signals import Canary, Desync, Signal
from distwatch.statistics import ROW, Row

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


#: The phases that a run may have. Each has steps and references of its own.
TRAIN, TEST, PREDICT, TRAIN_ON_BATCH = PHASES = ("train", "test", "predict", "train_on_batch")

#: What ended the writing of a run that was closed in order; otherwise it is an error.
CLOSED = "closed"

#: Why a trainable variable has no gradient that could be watched: it is None.
NO_GRADIENT = "no gradient of the loss reaches it"


#: What the names of checksums begin with: of what replicas compute, and also of what they hold.
_OF_CANARY = tuple(f"{prefix}/" for prefix in Canary.prefixes)
_OF_COPIES = (*(f"{prefix}/" for prefix in Desync.prefixes), *_OF_CANARY)


@dataclass(frozen=True)
class TensorLayout:
    """How a table stores raw deltas: their feature dims, reduction over replicas and dtype."""

    features: tuple[int, ...]
    reduce: str | None
    dtype: str


@dataclass(frozen=True)
class Table:
    """Signals that are recorded at the same steps and with the same statistics.

    ``window`` is how many recorded steps lie between two drains at most, and in a chunk.
    """

    name: str
    signals: tuple[Signal, ...]
    schedule: str
    window: int
    statistic: Row = ROW
    #: For a table of one signal whose raw deltas are stored.
    tensor: TensorLayout | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The signals' names, in the order of the signal axis."""
        return tuple(signal.name for signal in self.signals)

    @property
    def of_copies(self) -> bool:
        """Whether it holds checksums of what all replicas should have: `Desync`, `Canary`."""
        return all(name.startswith(_OF_COPIES) for name in self.names)

    @property
    def of_canary(self) -> bool:
        """Whether these are of what replicas computed, not of what they hold: `Canary`."""
        return all(name.startswith(_OF_CANARY) for name in self.names)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the statistic's scalar columns, in the order of the field axis."""
        return tuple(f for part in self.statistic.parts if not part.wide for f in part.fields)

    @property
    def values(self) -> tuple[str, ...]:
        """The names of what people read of a row, without ``spread``, in order."""
        return tuple(value.name for value in self.statistic.values)

    def read(self, states: Any) -> dict[str, Any]:
        """What people read of packed states of the scalar fields; see `Row.read`."""
        return self.statistic.read(states)


#: The memory of a ring on a replica, at most; wide rows are drained more often.
RING_BYTES = 32 * 2**20


def fitting(table: Table) -> Table:
    """The table with a window small enough that two fit into `RING_BYTES`."""
    row = 8 * (2 + len(table.signals) * table.statistic.columns)
    return replace(table, window=min(table.window, max(1, RING_BYTES // (2 * row))))


@dataclass(frozen=True)
class Origin:
    """Where a start of a training begins; one that ended too early can be resumed."""

    start: int = 0
    #: Its first step, as distwatch counts the phase's batches.
    step: int = 0
    #: The optimizer's count before that step; -1 without an optimizer.
    iteration: int = -1
    #: Whether the steps before it were counted, also those that a kill took.
    counted: bool = False


@dataclass(frozen=True)
class Provenance:
    """When and how a start of a training was begun, and of which code.

    ``began`` is in seconds since 1970. ``command`` is the command line, without what looks like
    a password, ``commit`` the git commit that was checked out where the script is; None where
    there is none, or it is not to be recorded.
    """

    began: float
    command: str | None = None
    commit: str | None = None


@dataclass(frozen=True)
class Layer:
    """What is known of one layer of a model that is trained."""

    path: str
    #: The class, such as "Dense".
    kind: str
    #: The name of its activation function, such as "relu"; None where it has none.
    activation: str | None = None
    #: The size of the last dim of what it puts out; None where that varies.
    units: int | None = None
    #: The class of the initializer of its kernel, such as "GlorotUniform".
    initializer: str | None = None
    #: Whether it has weights that are trained; None without weights.
    trained: bool | None = None
    #: Which part of its inputs a layer such as Dropout leaves out; None for others.
    dropout: float | None = None
    #: How many times as wide as Glorot's the first weights of its kernel are spread, where its
    #: initializer says that whatever the layer's size; None elsewhere.
    spread: float | None = None
    #: The largest factor of its L1 and L2 regularizers; None without them.
    penalty: float | None = None
    #: Of a layer that is not trained: whether its biases and scales are, at the first step, as
    #: initializers leave them; None of others, and where it has neither.
    fresh: bool | None = None


@dataclass(frozen=True)
class Card:
    """What is trained, and how: asked of the model when its first step was traced.

    ``loss`` and ``optimizer`` are the names that Keras has for them. What is not known, as of
    several losses or of a loop written by hand, is None.
    """

    #: In the order in which a step calls them; those that hold other layers are left out.
    layers: tuple[Layer, ...] = ()
    #: The path of the layer that puts out the model's output; None if there are several.
    last: str | None = None
    loss: str | None = None
    #: Whether that is a function of the user's own.
    own_loss: bool = False
    #: Whether the loss applies the last activation itself.
    from_logits: bool = False
    optimizer: str | None = None
    #: As it was at the first step; None where a schedule changes it.
    learning_rate: float | None = None
    #: Whether the loss has further terms or weights, or is a sum: it is no mean over examples.
    further_terms: bool = False
    #: Whether the loss compares the output for each example with the targets of all.
    of_pairs: bool | None = None

    @property
    def last_layer(self) -> Layer | None:
        """The layer that puts out the model's output, where it is known."""
        return next((layer for layer in self.layers if layer.path == self.last), None)


@dataclass(frozen=True)
class Epoch:
    """What an epoch of ``fit`` came to.

    ``step`` is how many steps were done at its end, ``metrics`` has Keras's logs: "loss" and
    the other metrics, and "val_loss" and so on where it ended with a validation; NaN where
    they were not finite. ``learning_rate`` is the optimizer's at its end.
    """

    number: int
    step: int
    metrics: Mapping[str, float]
    learning_rate: float | None = None


def with_epoch(epochs: Sequence[Epoch], epoch: Epoch) -> list[Epoch]:
    """Epochs with one more, in place of the last if that is the same one, noted before."""
    last = [(each.number, each.step) for each in epochs[-1:]]
    kept = epochs[:-1] if last == [(epoch.number, epoch.step)] else epochs
    return [*kept, epoch]


@dataclass(frozen=True)
class RunInfo:
    """The description of a run, known before its first row."""

    tables: tuple[Table, ...]
    replicas: tuple[int, ...]
    strategy: str
    versions: dict[str, str]
    #: What could be watched, or was asked for, and is not: name -> why. A name is the path of
    #: a layer or weight, a kind of signal, or "KIND: PATTERN".
    unwatched: dict[str, str] = field(default_factory=dict)
    #: What the model was doing: see `PHASES`.
    phase: str = TRAIN
    #: The number of the process that has these replicas, and how many trained together.
    worker: int = 0
    workers: int = 1
    #: From where on these rows were written.
    origin: Origin = Origin()
    #: What is trained; None in runs from before it was recorded.
    card: Card | None = None
    #: How this start was begun; None in runs from before it was recorded.
    provenance: Provenance | None = None

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The signals of all tables; checksums of copies are not among them."""
        return tuple(
            signal for table in self.tables if not table.of_copies for signal in table.signals
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(signal.name for signal in self.signals)


@dataclass(frozen=True)
class Tensors:
    """Raw deltas of one signal.

    Shapes: values (n, replica, row, *features), or (n, 1, row, *features) where they are
    reduced over replicas; valid (n, replica) or (n, 1) is the number of rows, beyond which
    values are NaN.
    """

    values: npt.NDArray[Any]
    valid: Ints

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.values.nbytes + self.valid.nbytes


#: How many broken rows of a batch are named, at most.
MOST_ROWS_NAMED = 8


@dataclass(frozen=True)
class BrokenRows:
    """Which rows of a replica's batch had NaN or Inf, at the first step that had any.

    ``rows`` is how many rows the batch had, ``broken`` how many of them were, ``first`` the
    numbers of the first ones, from 0 on.
    """

    signal: str
    replica: int
    step: int
    rows: int
    broken: int
    first: tuple[int, ...]


@dataclass(frozen=True)
class Amplification:
    """How much a perturbation of the inputs by rounding grows; see `distwatch.amplification`.

    ``factors`` has, by signal, the largest relative difference over ``steps`` steps, divided
    by ``rounding``, the relative distance of a number to the next one.
    """

    factors: Mapping[str, float]
    rounding: float
    steps: int

    def save(self, path: str | Path) -> None:
        """Write it as a file of JSON, to be kept with runs; `load` reads it.

        Raises:
            OSError: the file cannot be written.
        """
        given = {"factors": {**self.factors}, "rounding": self.rounding, "steps": self.steps}
        Path(path).write_text(json.dumps(given, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Amplification:
        """Read what `save` wrote.

        Raises:
            ConfigError: the file is not there, or is none.
        """
        try:
            given = json.loads(Path(path).read_text(encoding="utf-8"))
            factors = {str(name): float(value) for name, value in given["factors"].items()}
            made = cls(factors, float(given["rounding"]), int(given["steps"]))
            valid = all(0 <= value < math.inf for value in (*factors.values(), made.rounding))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path} is no amplification ({type(error).__name__}: {error}); make one with "
                "distwatch.amplification(model, batch).save(path)."
            ) from error
        if not valid:
            raise ConfigError(f"{path}: a factor is below zero or not finite.")
        return made


@dataclass(frozen=True, eq=False)
class KeptBatch:
    """The first batch of a replica in which NaN or Inf were seen; see ``Watch(keep_batch=)``.

    ``parts`` has its arrays by name: "x", "y" and "sample_weight", of nested data
    "x:key.0"; a step of one's own that takes something else has "batch:0", .... Numbers of
    bfloat16 are float32 there. ``left_out`` says why something of it is missing; it is empty
    if nothing is.
    """

    replica: int
    step: int
    parts: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    left_out: str = ""


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
    #: Steps before or among these that should have been recorded and are missing.
    lost: int = 0
    #: Where signals had NaN or Inf at the first step that had any, if it is among these.
    broken: tuple[BrokenRows, ...] = ()
    #: Batches that were kept since the last block.
    kept: tuple[KeptBatch, ...] = ()

    def __len__(self) -> int:
        return len(self.step)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows; a kept batch, which comes once, has a bound of its own."""
        arrays = (self.step, self.epoch, self.iteration, self.rows, self.merged, self.tensors)
        return sum(array.nbytes for array in arrays if array is not None)

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
            kept=(),
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
        broken=tuple(each for block in blocks for each in block.broken),
        kept=tuple(each for block in blocks for each in block.kept),
    )


def joined_tensors(tensors: list[Tensors]) -> Tensors:
    """Join raw deltas along the step axis, padded with NaN to the longest batch."""
    most = max(each.values.shape[2] for each in tensors)
    return Tensors(
        np.concatenate([padded(each.values, most) for each in tensors]),
        np.concatenate([each.valid for each in tensors]),
    )


def padded(values: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Pad deltas of shape (n, replica, row, ...) with NaN to a number of rows."""
    missing = rows - values.shape[2]
    if not missing:
        return values
    widths = [(0, missing) if axis == 2 else (0, 0) for axis in range(values.ndim)]
    return np.pad(values, widths, constant_values=np.nan)
