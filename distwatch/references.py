"""What a delta is measured against, kept on the replica's own device.

``previous`` keeps the batch of the step before. Keeping it costs no copy: the
variable takes over the activation's buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from distwatch.kernels import comparable
from distwatch.replicas import host_of, on_device

Tensor = Any

#: Makes a delta in the graph it is called in.
Delta = Callable[[], Tensor]


class References:
    """The references of all watched tensors of one replica.

    Args:
        kinds: "previous" or "none", one a tensor.
        examples: the tensors of the step that is being traced, for dtypes and dims.
        device: where the replica computes.
    """

    def __init__(self, kinds: Sequence[str], examples: Sequence[Tensor], device: str) -> None:
        examples = [_with_rows(x) for x in examples]
        self._host = host_of(device)
        self._against_previous = [kind == "previous" for kind in kinds]
        self._previous = Previous(
            [x for x, ask in zip(examples, self._against_previous, strict=True) if ask],
            device,
        )

    def deltas(self, tensors: Sequence[Tensor]) -> tuple[list[Delta], Tensor]:
        """Measure each tensor against its reference.

        Returns:
            Makers of the deltas, and how many elements each has, float64 (tensor,).
        """
        tensors = [_with_rows(x) for x in tensors]
        compared = iter(self._previous.common(self._asking(tensors)))
        pairs = [
            next(compared) if ask else (x, None)
            for x, ask in zip(tensors, self._against_previous, strict=True)
        ]
        with tf.device(self._host):
            counts = tf.stack([tf.size(now) for now, _ in pairs])
        return [_delta(*pair) for pair in pairs], tf.cast(counts, tf.float64)

    def keep(self, tensors: Sequence[Tensor]) -> None:
        """Make this step's tensors the reference of the next."""
        self._previous.keep(self._asking([_with_rows(x) for x in tensors]))

    def forget(self) -> None:
        """Leave the next step without a reference."""
        self._previous.forget()

    def _asking(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [x for x, ask in zip(tensors, self._against_previous, strict=True) if ask]


class Previous:
    """The batches of the step before, of some tensors of shape (rows, *features).

    Args:
        examples: tensors of their dtypes and dims; the number of rows may vary, and
            so may features whose size is unknown.
        device: where the replica computes.
    """

    def __init__(self, examples: Sequence[Tensor], device: str) -> None:
        self._host = host_of(device)
        # Shapes are kept apart from the batches: TensorFlow's graph optimizer takes
        # the shape of a variable of unknown shape for that of what it is assigned
        # later. The rows of all batches share one variable, to save operations.
        self._rows = self._shapes_variable([len(examples)])
        self._batches = [_batch_variable(x, device) for x in examples]
        self._features = [
            None
            if x.shape[1:].is_fully_defined()
            else self._shapes_variable([x.shape.rank - 1])
            for x in examples
        ]

    def common(self, tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The leading rows that each tensor and its batch before both have."""
        if not tensors:
            return []
        with tf.device(self._host):
            rows = tf.minimum(_row_counts(tensors), self._rows.read_value())
            rows = tf.split(rows, len(tensors))
        return [
            self._leading(x, n, batch.read_value(), features)
            for x, n, batch, features in zip(
                tensors, rows, self._batches, self._features, strict=True
            )
        ]

    def keep(self, tensors: Sequence[Tensor]) -> None:
        """Make these the batches before."""
        if not tensors:
            return
        for x, batch, features in zip(tensors, self._batches, self._features, strict=True):
            batch.assign(x, read_value=False)
            if features is not None:
                with tf.device(self._host):
                    features.assign(tf.shape(x)[1:], read_value=False)
        with tf.device(self._host):
            self._rows.assign(_row_counts(tensors), read_value=False)

    def forget(self) -> None:
        """Have no batches before: nothing is in common with the next."""
        with tf.device(self._host):
            self._rows.assign(tf.zeros_like(self._rows), read_value=False)

    def _leading(
        self, x: Tensor, rows: Tensor, batch: Tensor, features: Any
    ) -> tuple[Tensor, Tensor]:
        if features is None:
            return _slice(x, rows), _slice(batch, rows)
        with tf.device(self._host):
            # Sequences of another length have no elements in common places.
            alike = tf.reduce_all(tf.equal(tf.shape(x)[1:], features.read_value()))
            rows = tf.where(alike, rows, 0)
        return tf.reshape(_slice(x, rows), [-1]), tf.reshape(_slice(batch, rows), [-1])

    def _shapes_variable(self, shape: list[int]) -> Any:
        return on_device(
            self._host, lambda: tf.Variable(tf.zeros(shape, tf.int32), trainable=False)
        )


def _batch_variable(example: Tensor, device: str) -> Any:
    features = example.shape[1:]
    empty = [0] + [size or 0 for size in features]

    def make() -> Any:
        shape = tf.TensorShape([None]).concatenate(features)
        return tf.Variable(tf.zeros(empty, example.dtype), shape=shape, trainable=False)

    return on_device(device, make)


def _row_counts(tensors: Sequence[Tensor]) -> Tensor:
    return tf.stack([tf.shape(x)[0] for x in tensors])


def _slice(x: Tensor, rows: Tensor) -> Tensor:
    """The leading rows; whole rows are contiguous, so no copy is made."""
    return tf.strided_slice(x, [0], rows, [1])


def _delta(now: Tensor, before: Tensor | None) -> Delta:
    if before is None:
        return lambda: comparable(now)
    return lambda: comparable(now) - comparable(before)


def _with_rows(x: Tensor) -> Tensor:
    return x if x.shape.rank else tf.reshape(x, [1])
