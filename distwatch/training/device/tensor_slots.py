"""Raw deltas on the devices: where they are kept, and how they are read.

A slot takes over the delta's own buffer, so keeping a tensor costs no copy, and it has
as many rows as that step's batch had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from distwatch.records import TensorLayout, Tensors
from distwatch.training import strategies

Tensor = Any
Array = npt.NDArray[Any]


class TensorSlots:
    """The last ``capacity`` deltas of one signal on one replica.

    They are one list in one variable. A variable a slot would be an input of the condition
    in which it is written, and a branch that writes it, for each slot.
    """

    def __init__(self, layout: TensorLayout, capacity: int, device: str) -> None:
        self._features = list(layout.features)
        # Half precision comes last: a sum over replicas is taken in full.
        self._dtype = tf.as_dtype("float32" if layout.reduce else layout.dtype)
        self._shape = [-1, *self._features]
        self._kept = strategies.on_device(device, lambda: self._empty_list(capacity))

    def _empty_list(self, capacity: int) -> Any:
        empty = tf.zeros([capacity, 0, *self._features], self._dtype)
        slots = tf.raw_ops.TensorListFromTensor(
            tensor=empty, element_shape=tf.constant(self._shape)
        )
        return tf.Variable(slots, trainable=False)

    def write(self, slot: Tensor, delta: Tensor) -> None:
        """Keep a delta, inside the graph."""
        values = tf.cast(tf.reshape(delta, self._shape), self._dtype)
        self._put(tf.cast(slot, tf.int32), values)

    def read(self, slots: Array) -> list[Array]:
        """Read deltas, of shape (rows, *features) each."""
        with tf.device(self._kept.device):
            kept = self._kept.read_value()
            return [self._taken(kept, slot).numpy() for slot in slots]

    def free(self, slots: Array) -> None:
        """Let go of deltas that were read."""
        for slot in slots:
            self._put(slot, tf.zeros([0, *self._features], self._dtype))

    def _put(self, slot: Any, values: Tensor) -> None:
        with tf.device(self._kept.device):
            kept = self._kept.read_value()
            changed = tf.raw_ops.TensorListSetItem(input_handle=kept, index=slot, item=values)
            self._kept.assign(changed, read_value=False)

    def _taken(self, kept: Tensor, slot: Any) -> Tensor:
        return tf.raw_ops.TensorListGetItem(
            input_handle=kept,
            index=slot,
            element_shape=tf.constant(self._shape),
            element_dtype=self._dtype,
        )


def collect(
    held: Sequence[Sequence[Array]],
    layout: TensorLayout,
    reducer: Callable[[Sequence[Array]], Array] | None,
) -> Tensors:
    """Join the deltas of all replicas, as the layout asks for.

    Args:
        held: for each replica its deltas, step by step, of shape (rows, *features).
        layout: how they are stored.
        reducer: sums arrays over replicas on their devices; None sums on the host.
    """
    valid = np.asarray([[len(delta) for delta in deltas] for deltas in held], np.int64).T
    rows = max(1, int(valid.max(initial=1)))
    if layout.reduce is None:
        values = np.stack([_padded(deltas, rows, layout) for deltas in held], axis=1)
        return Tensors(values.astype(layout.dtype), valid)
    summands = [_summand(deltas, rows, layout) for deltas in held]
    total = reducer(summands) if reducer else np.sum(summands, axis=0)
    sums, present = total[..., :-1], total[..., -1:]
    if layout.reduce == "mean":
        sums = sums / np.maximum(present, 1.0)
    flat = np.where(present > 0, sums, np.nan)
    values = flat.reshape(len(flat), 1, rows, *layout.features).astype(layout.dtype)
    return Tensors(values, valid.max(axis=1, keepdims=True, initial=0))


def _padded(deltas: Sequence[Array], rows: int, layout: TensorLayout) -> Array:
    values = np.full((len(deltas), rows, *layout.features), np.nan, np.float32)
    for padded, delta in zip(values, deltas, strict=True):
        padded[: len(delta)] = delta
    return values


def _summand(deltas: Sequence[Array], rows: int, layout: TensorLayout) -> Array:
    """What one replica adds: its values, and in the last column whether it has the row.

    So one reduction gives both the sum and how many replicas it is over.
    """
    size = int(np.prod(layout.features, dtype=int))
    values = np.zeros((len(deltas), rows, size + 1), np.float64)
    for padded, delta in zip(values, deltas, strict=True):
        padded[: len(delta), :-1] = delta.reshape(len(delta), size)
        padded[: len(delta), -1] = 1.0
    return values
