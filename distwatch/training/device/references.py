"""What a delta is measured against, kept on the replica's own device.

``previous`` keeps the batch of the step before. Keeping it costs no copy: the
variable takes over the activation's buffer. The other kinds are made of the same part:
``batch_mean`` keeps the means of the step before, ``first`` a batch that is kept once,
``ema`` one that is blended in at every step; ``neighbour`` and ``none`` keep nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from distwatch.training.device.deltas import Delta, Deltas, comparable
from distwatch.training.strategies import host_of, on_device

Tensor = Any


class Reference:
    """The references of some tensors of one kind on one replica; this one is "none".

    Args:
        examples: tensors of their dtypes and dims.
        device: where the replica computes.
    """

    #: Whether `keep` or `forget` wants to be called on the step before a look.
    needs_step_before = False
    #: Whether `follow` wants to be called on every step.
    needs_every_step = False
    #: Whether a delta of any elements is made of all elements of its tensor, however few it
    #: has itself; otherwise it is if it has as many.
    reads_all = False

    def __init__(self, examples: Sequence[Tensor], device: str) -> None:
        pass

    def pairs(self, tensors: Sequence[Tensor]) -> list[Delta]:
        """What each tensor is compared with: by default nothing, so the value itself."""
        return [Delta(x) for x in tensors]

    def keep(self, tensors: Sequence[Tensor]) -> None:
        """Make these tensors the reference of the next step."""

    def forget(self) -> None:
        """Leave the next step without a reference."""

    def follow(self, tensors: Sequence[Tensor]) -> None:
        """Take a step into account that may or may not be looked at."""

    def change(self, x: Tensor) -> Tensor:
        """The only tensor minus its reference, row by row; a row without one stays."""
        ((_, before),) = self.pairs([x])
        before = tf.zeros([0], x.dtype) if before is None else tf.cast(before, x.dtype)
        before = tf.reshape(before, [-1])
        missing = tf.zeros([tf.size(x) - tf.size(before)], x.dtype)
        return x - tf.reshape(tf.concat([before, missing], axis=0), tf.shape(x))


class References:
    """The references of all watched tensors of one replica.

    Args:
        kinds: one a tensor, such as "previous" or "ema(0.99)".
        examples: the tensors of the step that is being traced, for dtypes and dims.
        device: where the replica computes.
    """

    def __init__(self, kinds: Sequence[str], examples: Sequence[Tensor], device: str) -> None:
        examples = [_with_rows(x) for x in examples]
        self._host = host_of(device)
        self._positions = {
            kind: [i for i, each in enumerate(kinds) if each == kind]
            for kind in dict.fromkeys(kinds)
        }
        self._kinds = {
            kind: reference_of(kind, [examples[i] for i in positions], device)
            for kind, positions in self._positions.items()
        }
        self._read_all = [self._kinds[kind].reads_all for kind in kinds]

    @property
    def needs_step_before(self) -> bool:
        """Whether `keep` or `forget` is to be called on each step."""
        return any(each.needs_step_before for each in self._kinds.values())

    @property
    def needs_every_step(self) -> bool:
        """Whether `follow` is to be called on each step, after the deltas were taken."""
        return any(each.needs_every_step for each in self._kinds.values())

    def deltas(self, tensors: Sequence[Tensor]) -> Deltas:
        """Measure each tensor against its reference."""
        tensors = [_with_rows(x) for x in tensors]
        each = [Delta(x) for x in tensors]
        for kind, reference in self._kinds.items():
            positions = self._positions[kind]
            found = reference.pairs([tensors[i] for i in positions])
            for i, delta in zip(positions, found, strict=True):
                each[i] = delta
        with tf.device(self._host):
            counts = _sizes([delta.now for delta in each])
            whole = tf.equal(counts, _sizes(tensors))
            if any(self._read_all):
                whole |= tf.logical_and(self._read_all, counts > 0)
        return Deltas(each, tf.cast(counts, tf.float64), whole)

    def keep(self, tensors: Sequence[Tensor]) -> None:
        """Make this step's tensors the reference of the next, which is looked at."""
        for reference, own in self._own(tensors):
            reference.keep(own)

    def forget(self) -> None:
        """Leave the next step, which is not looked at, without a reference."""
        for reference in self._kinds.values():
            reference.forget()

    def follow(self, tensors: Sequence[Tensor]) -> None:
        """Take a step into account that may or may not be looked at."""
        for reference, own in self._own(tensors):
            reference.follow(own)

    def _own(self, tensors: Sequence[Tensor]) -> Iterator[tuple[Reference, list[Tensor]]]:
        """Each reference with those of the tensors that are compared with it."""
        for kind, reference in self._kinds.items():
            yield reference, [_with_rows(tensors[i]) for i in self._positions[kind]]


def keeps_tensors(kind: str) -> bool:
    """Whether a kind of reference keeps anything of a step for later ones."""
    made = _class_of(kind)
    return made.needs_step_before or made.needs_every_step


def reference_of(kind: str, examples: Sequence[Tensor], device: str) -> Reference:
    """The reference of one kind, such as "previous" or "ema(0.99)", of some tensors."""
    made = _class_of(kind)
    if made is _MovingAverage:
        return _MovingAverage(examples, device, decay=float(kind[len("ema(") : -1]))
    return made(examples, device)


def _class_of(kind: str) -> type[Reference]:
    kinds = {
        "previous": Previous,
        "batch_mean": _BatchMean,
        "first": _First,
        "neighbour": _Neighbour,
        "none": Reference,
    }
    return _MovingAverage if kind.startswith("ema(") else kinds[kind]


class _Neighbour(Reference):
    """The next row of the same batch: the delta of a row is itself minus the next."""

    reads_all = True

    def pairs(self, tensors: Sequence[Tensor]) -> list[Delta]:
        return [Delta(x[:-1], x[1:]) for x in tensors]


class Previous(Reference):
    """The batches of the step before, of some tensors of shape (rows, *features).

    Args:
        examples: tensors of their dtypes and dims; the number of rows may vary, and
            so may features whose size is unknown.
        device: where the replica computes.
    """

    needs_step_before = True

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

    def pairs(self, tensors: Sequence[Tensor]) -> list[Delta]:
        """The leading rows that each tensor and its batch before both have."""
        with tf.device(self._host):
            rows = tf.minimum(_row_counts(tensors), self._rows.read_value())
            rows = tf.split(rows, len(tensors))
            leading = _Leading()
        return [
            self._common(leading, x, n, batch.read_value(), features)
            for x, n, batch, features in zip(
                tensors, rows, self._batches, self._features, strict=True
            )
        ]

    def keep(self, tensors: Sequence[Tensor]) -> None:
        """Make these the batches before."""
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

    @property
    def rows(self) -> Tensor:
        """How many rows each batch before has: shape (tensor,)."""
        with tf.device(self._host):
            return self._rows.read_value()

    def beyond(self, x: Tensor, rows: Tensor) -> Tensor:
        """The rows of the only batch before from ``rows`` on, if its features are x's."""
        (batch,), (features,) = self._batches, self._features
        kept = batch.read_value()
        if features is None:
            return kept[rows:]
        return tf.cond(self._alike(x, features), lambda: kept[rows:], lambda: x[:0])

    def _alike(self, x: Tensor, features: Any) -> Tensor:
        with tf.device(self._host):
            return tf.reduce_all(tf.equal(tf.shape(x)[1:], features.read_value()))

    def _common(
        self, leading: _Leading, x: Tensor, rows: Tensor, batch: Tensor, features: Any
    ) -> Delta:
        if features is None:
            return Delta(leading.rows(x, rows), leading.rows(batch, rows))
        with tf.device(self._host):
            # Sequences of another length have no elements in common places.
            rows = tf.where(self._alike(x, features), rows, 0)
        now, before = leading.rows(x, rows), leading.rows(batch, rows)
        return Delta(tf.reshape(now, [-1]), tf.reshape(before, [-1]))

    def _shapes_variable(self, shape: list[int]) -> Any:
        return on_device(
            self._host, lambda: tf.Variable(tf.zeros(shape, tf.int32), trainable=False)
        )


class _BatchMean(Previous):
    """The per-feature mean of the batch before; one row, or none of an empty batch."""

    reads_all = True

    def __init__(self, examples: Sequence[Tensor], device: str) -> None:
        super().__init__([_mean(x) for x in examples], device)

    def pairs(self, tensors: Sequence[Tensor]) -> list[Delta]:
        return super().pairs([_mean(x) for x in tensors])

    def keep(self, tensors: Sequence[Tensor]) -> None:
        super().keep([_mean(x) for x in tensors])

    def change(self, x: Tensor) -> Tensor:
        """Each row minus the mean of the batch before; all rows stay if there was none."""
        ((_, before),) = self.pairs([x])
        # One row or none, which adds up to zeros; flat where features vary in size.
        mean = tf.reshape(before, tf.concat([[-1], tf.shape(x)[1:]], axis=0))
        return x - tf.cast(tf.reduce_sum(mean, axis=0, keepdims=True), x.dtype)


class _First(Reference):
    """The first batch with rows that the replica saw."""

    needs_every_step = True

    def __init__(self, examples: Sequence[Tensor], device: str) -> None:
        # One by one: they need not get their first rows together.
        self._kept = [Previous([x], device) for x in examples]

    def pairs(self, tensors: Sequence[Tensor]) -> list[Delta]:
        return [
            pair
            for kept, x in zip(self._kept, tensors, strict=True)
            for pair in kept.pairs([x])
        ]

    def follow(self, tensors: Sequence[Tensor]) -> None:
        for kept, x in zip(self._kept, tensors, strict=True):
            self._follow(kept, x)

    def _follow(self, kept: Previous, x: Tensor) -> None:
        tf.cond(kept.rows[0] > 0, lambda: None, lambda: kept.keep([x]))


class _MovingAverage(_First):
    """A moving average of the batches, row by row.

    Rows that a longer batch has beyond it join it as they are; rows beyond a shorter
    batch stay. Where the features are of another size it starts anew. Elements that are
    NaN or infinite are left out.
    """

    def __init__(self, examples: Sequence[Tensor], device: str, *, decay: float) -> None:
        super().__init__([comparable(x) for x in examples], device)
        self._decay = decay

    def pairs(self, tensors: Sequence[Tensor]) -> list[Delta]:
        return super().pairs([comparable(x) for x in tensors])

    def _follow(self, kept: Previous, x: Tensor) -> None:
        kept.keep([self._blended(kept, comparable(x))])

    def _blended(self, average: Previous, x: Tensor) -> Tensor:
        ((now, before),) = average.pairs([x])
        # Not by a cast, which would take it for a float32.
        decay = tf.constant(self._decay, x.dtype)
        mixed = decay * before + (1.0 - decay) * now
        # NaN and Inf would stay in an average for ever.
        mixed = tf.where(tf.math.is_finite(before), mixed, now)
        mixed = tf.where(tf.math.is_finite(now), mixed, before)
        features = tf.shape(x)[1:]
        rows = tf.size(mixed) // tf.maximum(tf.reduce_prod(features), 1)
        mixed = tf.reshape(mixed, tf.concat([[rows], features], axis=0))
        return tf.concat([mixed, x[rows:], average.beyond(x, rows)], axis=0)


def _mean(x: Tensor) -> Tensor:
    some = tf.minimum(tf.shape(x)[0], 1)
    return tf.reduce_mean(comparable(x), axis=0, keepdims=True)[:some]


def _batch_variable(example: Tensor, device: str) -> Any:
    features = example.shape[1:]
    empty = [0] + [size or 0 for size in features]

    def make() -> Any:
        shape = tf.TensorShape([None]).concatenate(features)
        return tf.Variable(tf.zeros(empty, example.dtype), shape=shape, trainable=False)

    return on_device(device, make)


def _sizes(tensors: Sequence[Tensor]) -> Tensor:
    """How many elements each has: shape (tensor,)."""
    known = [x.shape.num_elements() for x in tensors]
    unknown = [i for i, size in enumerate(known) if size is None]
    sizes = tf.constant([size or 0 for size in known])
    if not unknown:
        return sizes
    # One constant for all that are known.
    found = tf.stack([tf.size(tensors[i]) for i in unknown])
    return tf.tensor_scatter_nd_update(sizes, np.array(unknown)[:, None], found)


def _row_counts(tensors: Sequence[Tensor]) -> Tensor:
    """How many rows each has: shape (tensor,), int32."""
    if len({x.dtype for x in tensors}) > 1:
        return tf.stack([tf.shape(x)[0] for x in tensors])
    # As few operations as there can be, however many tensors there are.
    ranks = [x.shape.rank for x in tensors]
    firsts = np.cumsum([0, *ranks[:-1]])
    return tf.gather(tf.concat(tf.shape_n(tensors), axis=0), firsts)


class _Leading:
    """Takes leading rows; whole rows are contiguous, so no copy is made."""

    def __init__(self) -> None:
        # Constants that all of its slices share.
        self._begin, self._strides = tf.constant([0]), tf.constant([1])

    def rows(self, x: Tensor, number: Tensor) -> Tensor:
        """So many rows: a tensor of shape (1,)."""
        return tf.strided_slice(x, self._begin, number, self._strides)


def _with_rows(x: Tensor) -> Tensor:
    return x if x.shape.rank else tf.reshape(x, [1])
