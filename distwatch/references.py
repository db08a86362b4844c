"""What a delta is measured against, kept on the replica's own device.

``previous`` keeps the batch of the step before. Keeping it costs no copy: the
variable takes over the activation's buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distwatch.kernels import comparable
from distwatch.replicas import host_of, on_device

Tensor = Any


class References:
    """The references of all watched tensors of one replica.

    Args:
        kinds: "previous" or "none", one a tensor.
        examples: the tensors of the step that is being traced, for dtypes and dims.
        device: where the replica computes.
    """

    def __init__(
        self, kinds: Sequence[str], examples: Sequence[Tensor], device: str
    ) -> None:
        self._host = host_of(device)
        self._previous = [
            Previous(_with_rows(x), device) if kind == "previous" else None
            for kind, x in zip(kinds, examples, strict=True)
        ]

    def deltas(self, tensors: Sequence[Tensor], known: Tensor) -> tuple[list[Tensor], Tensor]:
        """Measure each tensor against its reference.

        Args:
            tensors: this step's tensors.
            known: bool scalar: whether the step before was kept.

        Returns:
            Flat deltas, and how many elements each has, int64 of shape (tensor,).
        """
        pairs = zip(tensors, self._previous, strict=True)
        deltas = [_delta(x, reference, known) for x, reference in pairs]
        with tf.device(self._host):
            counts = tf.stack([tf.size(delta, out_type=tf.int64) for delta in deltas])
        return deltas, counts

    def keep(self, tensors: Sequence[Tensor]) -> None:
        """Make this step's tensors the reference of the next."""
        for x, reference in zip(tensors, self._previous, strict=True):
            if reference is not None:
                reference.keep(_with_rows(x))


class Previous:
    """The batch of the step before, of one tensor of shape (rows, *features).

    Args:
        example: a tensor of its dtype and dims; the number of rows may vary, and
            so may features whose size is unknown.
        device: where the replica computes.
    """

    def __init__(self, example: Tensor, device: str) -> None:
        features = example.shape[1:]
        self._host = host_of(device)
        self._fixed = features.is_fully_defined()
        # Kept apart from the batch: TensorFlow's graph optimizer takes the shape of
        # a variable of unknown shape for the shape of what is assigned to it later.
        self._shape = on_device(
            self._host,
            lambda: tf.Variable(tf.zeros([example.shape.rank], tf.int32), trainable=False),
        )
        self._batch = on_device(
            device,
            lambda: tf.Variable(
                tf.zeros([0] + [size or 0 for size in features], example.dtype),
                shape=tf.TensorShape([None]).concatenate(features),
                trainable=False,
            ),
        )

    def common(self, x: Tensor, known: Tensor | bool = True) -> tuple[Tensor, Tensor]:
        """The leading rows that ``x`` and the batch before both have, each flat.

        Args:
            x: the batch of this step.
            known: bool scalar; where it is false nothing is in common.
        """
        with tf.device(self._host):
            before, now = self._shape.read_value(), tf.shape(x)
            alike = tf.convert_to_tensor(known)
            if not self._fixed:
                # Sequences of another length have no elements in common places.
                alike = tf.logical_and(alike, tf.reduce_all(now[1:] == before[1:]))
            rows = tf.where(alike, tf.minimum(now[:1], before[:1]), 0)
        return _leading(x, rows), _leading(self._batch.read_value(), rows)

    def keep(self, x: Tensor) -> None:
        """Make ``x`` the batch before."""
        self._batch.assign(x, read_value=False)
        with tf.device(self._host):
            self._shape.assign(tf.shape(x), read_value=False)


def _leading(x: Tensor, rows: Tensor) -> Tensor:
    """The first rows of a batch, flat; no copy is made."""
    return tf.reshape(tf.strided_slice(x, [0], rows, [1]), [-1])


def _delta(x: Tensor, reference: Previous | None, known: Tensor) -> Tensor:
    if reference is None:
        return comparable(tf.reshape(x, [-1]))
    now, before = reference.common(_with_rows(x), known)
    return comparable(now) - comparable(before)


def _with_rows(x: Tensor) -> Tensor:
    return x if x.shape.rank else tf.reshape(x, [1])
