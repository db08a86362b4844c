"""What is kept of the first NaN and Inf: in which rows they were, and the batch that had them.

All of it stands in the branch of a look that is taken for irregular values only, so a step
without NaN and Inf computes nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from distwatch.records import MOST_ROWS_NAMED, BrokenRows, Ints, KeptBatch
from distwatch.text import listed
from distwatch.training.device.branches import called_only_when_taken
from distwatch.training.device.deltas import Flattening
from distwatch.training.strategies import PerReplica, host_of, on_device

Tensor = Any

#: What is kept of a tensor: the step, how many rows the batch had, how many of them were
#: broken, and the numbers of the first ones; -1 where there is none.
_COLUMNS = 3 + MOST_ROWS_NAMED


class StepBatch(NamedTuple):
    """The batch that a step is given on one replica, and distwatch's count of the step."""

    #: Name -> tensor of each of its parts, such as "x" and "y".
    parts: dict[str, Tensor]
    #: Why others are not among them; empty if there are none.
    left_out: str = ""
    step: Tensor = None

    def rows(self) -> Tensor:
        """How many rows it has, int64; -1 where that is not known."""
        there = [x for x in self.parts.values() if x.shape.rank]
        return tf.shape(there[0], tf.int64)[0] if there else tf.constant(-1, tf.int64)


class FirstBroken:
    """In which rows some tensors had NaN or Inf first, on one replica.

    Args:
        by_rows: which of the tensors have a row for each of the batch's.
        device: where the replica computes.
        rows_of: `rows_function`, made once for each dtype.
    """

    def __init__(
        self, by_rows: Sequence[bool], device: str, rows_of: Callable[[tf.DType], Any]
    ) -> None:
        self._by_rows = by_rows
        self._rows_of = rows_of
        nothing = np.full((len(by_rows), _COLUMNS), -1)
        self._found = on_device(
            host_of(device), lambda: tf.Variable(nothing, dtype=tf.int64, trainable=False)
        )

    def note(self, broken: Tensor, tensors: Sequence[Tensor], batch: StepBatch) -> None:
        """Keep the rows of those that are broken for the first time.

        Args:
            broken: which of the tensors have NaN or Inf: shape (tensor,).
            tensors: the watched tensors.
            batch: what the step was given.
        """
        if not any(self._by_rows):
            return
        found = self._found.read_value()
        new = tf.logical_and(broken, found[:, 0] < 0)

        @called_only_when_taken
        def keep() -> None:
            rows = batch.rows()
            each = self._each(tf.unstack(new, num=len(tensors)), tensors, rows)
            steps = tf.fill([len(tensors), 1], batch.step)
            kept = tf.concat([steps, tf.stack(each)], axis=1)
            self._found.assign(tf.where(new[:, None], kept, found), read_value=False)

        tf.cond(tf.reduce_any(new), keep, lambda: None)

    def _each(
        self, new: Sequence[Tensor], tensors: Sequence[Tensor], rows: Tensor
    ) -> list[Tensor]:
        flat = Flattening()
        nothing = tf.fill([_COLUMNS - 1], tf.constant(-1, tf.int64))
        return [
            self._rows_of(x.dtype)(is_new, flat(x), tf.shape(x, tf.int64), rows)
            if by_rows and x.shape.rank and x.dtype.is_floating
            else nothing
            for x, is_new, by_rows in zip(tensors, new, self._by_rows, strict=True)
        ]

    def read(
        self, signals: Sequence[tuple[str, int]], replica: int, steps: Ints
    ) -> list[BrokenRows]:
        """What was kept of some signals at some steps.

        Args:
            signals: their names, and the position of each one's tensor.
            replica: whose rows these are.
            steps: rising.
        """
        kept, found = self._found.numpy().tolist(), []
        for name, i in signals:
            step, rows, broken, *first = kept[i]
            if rows >= 0 and steps[0] <= step <= steps[-1]:
                named = tuple(number for number in first if number >= 0)
                found.append(BrokenRows(name, replica, step, rows, broken, named))
        return found


def rows_function(dtype: tf.DType) -> Any:
    """`_broken_rows` of tensors of a dtype, as a function that is not inlined."""
    sizes, number = tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.int64)
    flag, values = tf.TensorSpec([], tf.bool), tf.TensorSpec([None], dtype)
    return tf.function(
        _broken_rows,
        input_signature=[flag, values, sizes, number],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def _broken_rows(asked: Tensor, flat: Tensor, shape: Tensor, rows: Tensor) -> Tensor:
    """Which rows of a tensor have NaN or Inf: the columns after the step.

    Args:
        asked: whether that is asked.
        flat: the tensor's elements.
        shape: of the tensor.
        rows: of the batch. Where its first dim is another number, that is not the batch's.
    """
    own = shape[0]

    def found() -> Tensor:
        finite = tf.math.is_finite(tf.reshape(flat, tf.stack([own, -1])))
        at = tf.where(tf.logical_not(tf.reduce_all(finite, axis=1)))[:, 0]
        first = at[:MOST_ROWS_NAMED]
        padding = tf.fill([MOST_ROWS_NAMED - tf.size(first)], tf.constant(-1, tf.int64))
        sizes = tf.stack([own, tf.size(at, tf.int64)])
        return tf.ensure_shape(tf.concat([sizes, first, padding], axis=0), [_COLUMNS - 1])

    nothing = tf.fill([_COLUMNS - 1], tf.constant(-1, tf.int64))
    return tf.cond(tf.logical_and(asked, own == rows), found, lambda: nothing)


class _Keeper:
    """The variables that keep a batch of one replica."""

    def __init__(self, batch: StepBatch, device: str) -> None:
        host = host_of(device)
        #: The step, how many bytes the batch has, and which of ``forms`` it has; -1 before
        #: there is one.
        self.about = on_device(host, lambda: _variable([3], tf.int64, -1))
        self.parts = {
            name: on_device(host, lambda x=x: _variable([0] * x.shape.rank, x.dtype))  # type: ignore[misc]
            for name, x in batch.parts.items()
        }
        #: Of each trace of the step: the names that are kept, and why others are not.
        self.forms: list[tuple[list[str], str]] = []

    def fitting(self, batch: StepBatch) -> dict[str, Tensor]:
        """The parts that the variables can keep: a later trace may be given others."""
        return {
            name: x
            for name, x in batch.parts.items()
            if (own := self.parts.get(name)) is not None
            and (own.dtype, own.shape.rank) == (x.dtype, x.shape.rank)
        }

    def add_form(self, batch: StepBatch, kept: dict[str, Tensor]) -> int:
        """Note what a trace of the step keeps; returns its place."""
        others = [name for name in batch.parts if name not in kept]
        why = f"{listed(others)}: not as in the first step." if others else ""
        self.forms.append((list(kept), " ".join(filter(None, [batch.left_out, why]))))
        return len(self.forms) - 1

    def read(self, replica: int, most: int) -> KeptBatch | None:
        """The batch of this replica, if one is kept and has at most so many bytes."""
        step, nbytes, form = self.about.numpy().tolist()
        if step < 0:
            return None
        if nbytes > most:
            why = (
                f"it has {nbytes:,} bytes, and keep_batch keeps up to {most:,} of a replica; "
                f'give it more: keep_batch="{-(-nbytes // 2**20)}MiB".'
            )
            return KeptBatch(replica, step, left_out=why)
        names, left_out = self.forms[form]
        parts = {name: _stored(self.parts[name].numpy()) for name in names}
        return KeptBatch(replica, step, parts, left_out)


def _variable(shape: Sequence[int], dtype: tf.DType, value: int = 0) -> Any:
    """A variable that may be assigned tensors of as many dims, whatever their sizes."""
    first = tf.cast(tf.fill(shape, value), dtype)
    return tf.Variable(first, trainable=False, shape=tf.TensorShape([None] * len(shape)))


class KeptBatches:
    """Keeps the first batch on each replica in which NaN or Inf were seen.

    Args:
        most: bytes that a replica's batch may have; a larger one is not kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._keepers: PerReplica[_Keeper] = PerReplica()
        self._taken: set[int] = set()

    def note(self, broken: Tensor, batch: StepBatch) -> None:
        """Keep a step's batch if it is the first that is broken.

        Args:
            broken: whether there is NaN or Inf: a scalar.
            batch: what the step was given.
        """
        keeper = self._keepers.get(lambda device: _Keeper(batch, device))
        first = tf.logical_and(broken, keeper.about.read_value()[0] < 0)
        parts = keeper.fitting(batch)
        form = keeper.add_form(batch, parts)

        @called_only_when_taken
        def keep() -> None:
            sizes = [tf.size(x, tf.int64) * x.dtype.size for x in parts.values()]
            nbytes = tf.add_n(sizes) if sizes else tf.constant(0, tf.int64)

            @called_only_when_taken
            def assign() -> Tensor:
                for name, x in parts.items():
                    keeper.parts[name].assign(x, read_value=False)
                return nbytes

            tf.cond(nbytes <= self._most, assign, lambda: nbytes)
            about = tf.stack([batch.step, nbytes, tf.constant(form, tf.int64)])
            keeper.about.assign(about, read_value=False)

        tf.cond(first, keep, lambda: None)

    def take(self, replicas: Sequence[int]) -> tuple[KeptBatch, ...]:
        """The batches that were kept and not taken yet, of these replicas."""
        found = []
        for number in replicas:
            keeper = self._keepers.made.get(number)
            if keeper is not None and number not in self._taken:
                batch = keeper.read(number, self._most)
                if batch is not None:
                    self._taken.add(number)
                    found.append(batch)
        return tuple(found)


def _stored(value: Any) -> Any:
    """An array of a dtype that NumPy has: what has none, bfloat16, is exact in float32."""
    own = value.dtype.kind in "biufc"
    return value if own else value.astype(np.float32)
