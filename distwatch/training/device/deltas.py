"""What a delta is: a watched tensor minus its reference, made where it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

Tensor = Any


def comparable(x: Tensor) -> Tensor:
    """Cast a watched tensor to the dtype its deltas are computed in.

    Half precision is widened to float32, whole numbers to float64 (where every
    int32 is exact); float32 and float64 stay.
    """
    if x.dtype in (tf.float32, tf.float64):
        return x
    return tf.cast(x, tf.float32 if x.dtype.is_floating else tf.float64)


class Delta(NamedTuple):
    """What is compared: some values, and as many that they are measured against, if any."""

    now: Tensor
    before: Tensor | None = None

    def value(self) -> Tensor:
        """The delta, made anew at each call: float32 or float64."""
        if self.before is None:
            return comparable(self.now)
        return comparable(self.now) - comparable(self.before)


class Flattening:
    """Makes tensors flat, by one constant for all of them."""

    def __init__(self) -> None:
        self._shape = tf.constant([-1])

    def __call__(self, x: Tensor) -> Tensor:
        return x if x.shape.rank == 1 else tf.reshape(x, self._shape)


class Deltas(NamedTuple):
    """What some tensors are against their references.

    Shapes: counts and whole (tensor,).
    """

    each: Sequence[Delta]
    #: How many elements each has, float64.
    counts: Tensor
    #: Whether each is made of all elements of its tensor: then it is finite only if they are.
    whole: Tensor
