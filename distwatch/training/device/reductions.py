"""What is read of the elements of one delta, and what is read again where that is not enough.

This is where watching costs time, so every line is chosen by measurement
(``tests/benchmarks/step_time.py``):

- Memory is what costs, fresh memory most of all. Each delta is reduced by four
  plain kernels in its own dtype (TensorFlow sums pairwise, so float32 keeps seven
  digits); then its absolute values and their signs are taken in its own place,
  which TensorFlow does when nothing else needs the buffer any more. The control
  dependencies are there for that alone.
- NaN-safe and cancellation-free variants cost several times as much, so they are
  apart, for the deltas that need them.

Rejected, with ns an element for everything on one core: no control dependencies and zeros by
compare, cast and sum (1.74 against 1.45); ``tf.where`` for zeros (3.3); ``tf.nn.moments``,
``reduce_std`` and float64 throughout (twice the cost of all six kernels); zeros by
``sign(x)`` on CPUs (1.45, where ``minimum(bitcast(x), 1)`` takes 1.47, but denormal numbers
count as zeros).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from distwatch.statistics import BasicSums

Tensor = Any


class Reduced(NamedTuple):
    """What is read of a delta at first."""

    total: Tensor
    half_squares: Tensor
    min: Tensor
    max: Tensor
    l1: Tensor
    nonzeros: Tensor


class Grouping:
    """Which elements of a tensor are of one delta: here, all of them."""

    def total(self, numbers: Tensor) -> Tensor:
        """The sums over each delta of a number an element."""
        return tf.reduce_sum(numbers)

    def least(self, numbers: Tensor) -> Tensor:
        """The smallest over each delta of a number an element."""
        return tf.reduce_min(numbers)

    def at_each(self, numbers: Tensor) -> Tensor:
        """A number a delta, at each of its elements."""
        return numbers

    def without_padding(self, mask: Tensor) -> Tensor:
        """A mask over elements, False where there is none."""
        return mask


def reduce(delta: Tensor) -> Reduced:
    """Reduce a flat delta: right where all is finite and the mean does not dominate."""
    first = (
        tf.reduce_sum(delta),
        tf.nn.l2_loss(delta),
        tf.reduce_min(delta),
        tf.reduce_max(delta),
    )
    with tf.control_dependencies(_operations(first)):
        magnitudes = tf.abs(delta)
    l1 = tf.reduce_sum(magnitudes)
    with tf.control_dependencies(_operations([l1])):
        nonzeros = tf.reduce_sum(nonzero(magnitudes))
    return Reduced(*first, l1, nonzeros)


def nonzero(magnitudes: Tensor) -> Tensor:
    """1 for each of some numbers from 0 on that is not zero, else 0."""
    if tf.config.list_logical_devices("GPU"):
        # Whole numbers would be counted on the host.
        return tf.sign(magnitudes)
    # By their bits: TensorFlow has CPUs take denormal numbers for zeros.
    whole = tf.int32 if magnitudes.dtype.size == 4 else tf.int64
    return tf.minimum(tf.bitcast(magnitudes, whole), 1)


def _operations(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """What control dependencies take: nothing in eager mode, where order is given."""
    return [] if tf.executing_eagerly() else tensors


def look_again(delta: Tensor, plain: Tensor, unsquared: Tensor) -> Tensor:
    """Sum up a flat delta that needs it; ``unsquared`` tells whether its squares are no use.

    ``plain`` and the result are `BasicSums` as one tensor.
    """
    sums = BasicSums(*tf.unstack(plain))
    return tf.cond(
        unsquared,
        lambda: tf.stack(masked(delta, sums.count, Grouping())),
        lambda: tf.stack(_centred(delta, sums)),
    )


def _centred(delta: Tensor, plain: BasicSums) -> BasicSums:
    """Take the squares about the mean; right where every element is finite."""
    centre = tf.cast(plain.mean, delta.dtype)
    deviation = delta - centre
    # The centre is the mean but for its rounding; what is left of it is taken off
    # the squares and added to the mean (both tiny, so nothing cancels).
    rest = tf.cast(tf.reduce_sum(deviation), tf.float64) / tf.maximum(plain.count, 1.0)
    squares = 2.0 * tf.cast(tf.nn.l2_loss(deviation), tf.float64)
    nonzeros = tf.reduce_sum(nonzero(tf.abs(delta)))
    return plain._replace(
        zeros=plain.count - tf.cast(nonzeros, tf.float64),
        mean=tf.cast(centre, tf.float64) + rest,
        m2=tf.maximum(squares - plain.count * rest * rest, 0.0),
    )


def masked(delta: Tensor, count: Tensor, grouping: Grouping) -> BasicSums:
    """Right for all values: two passes over the finite elements in float64.

    ``count`` is how many elements each delta has.
    """
    values = tf.cast(delta, tf.float64)
    finite = grouping.without_padding(tf.math.is_finite(values))

    def total(x: Tensor) -> Tensor:
        return grouping.total(tf.where(finite, x, 0.0))

    def number(mask: Tensor) -> Tensor:
        return grouping.total(tf.cast(mask, tf.float64))

    def least(x: Tensor) -> Tensor:
        return grouping.least(tf.where(finite, x, tf.constant(float("inf"), tf.float64)))

    mean = total(values) / tf.maximum(number(finite), 1.0)
    return BasicSums(
        count=count,
        zeros=count - number(nonzero(tf.abs(delta))),
        nans=number(tf.math.is_nan(values)),
        infs=number(tf.math.is_inf(values)),
        mean=mean,
        m2=total(tf.square(values - grouping.at_each(mean))),
        min=least(values),
        max=-least(-values),
        l1=total(tf.abs(values)),
        l2sq=total(tf.square(values)),
    )
