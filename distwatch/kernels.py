"""One look over each delta inside the training graph.

This is where watching costs time, so every line is chosen by measurement
(``tests/benchmarks/step_time.py``):

- Reading a tensor is what costs. Each delta is reduced by six plain kernels in
  its own dtype (TensorFlow sums pairwise, so float32 keeps seven digits), and the
  results of all signals are stacked into vectors, on which the rest is computed
  at once, in float64.
- NaN-safe and cancellation-free variants cost several times as much. They stand
  behind one ``tf.cond`` and run only for the signals that need them: where the
  plain sum of squares is not finite, and where the mean dominates the spread.

Rejected: ``tf.nn.moments`` and ``tf.math.reduce_std`` (2-3 times the cost of all
six kernels together), float64 throughout (1.8 times), ``count_nonzero`` (casts to
int64), ``tf.sign`` for zeros (10% slower than compare, cast and sum).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from distwatch.statistics import Passes

Tensor = Any

#: A sum of squares more than this many times m2 has lost digits to the mean.
_CANCELLATION = 4.0


def comparable(x: Tensor) -> Tensor:
    """Cast a watched tensor to the dtype its deltas are computed in.

    Half precision is widened to float32, whole numbers to float64 (where every
    int32 is exact); float32 and float64 stay.
    """
    if x.dtype in (tf.float32, tf.float64):
        return x
    return tf.cast(x, tf.float32 if x.dtype.is_floating else tf.float64)


def measure(deltas: Sequence[Tensor], counts: Tensor) -> Passes:
    """Look over the deltas of all signals.

    Args:
        deltas: one float32 or float64 tensor a signal, of any shape, empty ones too.
        counts: their numbers of elements, int64, shape (signal,).

    Returns:
        float64 vectors of shape (signal,), as `distwatch.statistics.measure`
        gives them for one signal on the host.
    """
    plain = _plain(deltas, tf.cast(counts, tf.float64))
    overflown = tf.logical_not(tf.math.is_finite(plain.l2sq))
    # Where m2 is small beside the squares of the mean, the subtraction that gave
    # it has eaten its digits. An empty delta compares 0 > 0.
    cancelled = plain.l2sq > _CANCELLATION * plain.m2
    irregular = tf.logical_or(overflown, cancelled)

    def mended() -> Passes:
        rows = [
            _mended(delta, _row(plain, i), overflown[i], irregular[i])
            for i, delta in enumerate(deltas)
        ]
        return Passes(*tf.unstack(tf.stack(rows), axis=1))

    return Passes(
        *tf.cond(tf.reduce_any(irregular), lambda: tuple(mended()), lambda: tuple(plain))
    )


class _Reduced(NamedTuple):
    total: Tensor
    half_squares: Tensor
    min: Tensor
    max: Tensor
    l1: Tensor


def _plain(deltas: Sequence[Tensor], count: Tensor) -> Passes:
    """Right where every element is finite and the mean does not dominate."""
    reduced = _Reduced(*tf.unstack(tf.stack([_reduce(d) for d in deltas]), axis=1))
    zeros = tf.stack([tf.reduce_sum(tf.cast(tf.equal(d, 0), tf.int32)) for d in deltas])
    nothing = tf.zeros_like(count)
    mean = reduced.total / tf.maximum(count, 1.0)
    l2sq = 2.0 * reduced.half_squares
    return Passes(
        count=count,
        zeros=tf.cast(zeros, tf.float64),
        nans=nothing,
        infs=nothing,
        mean=mean,
        m2=tf.maximum(l2sq - count * mean * mean, 0.0),
        min=reduced.min,
        max=reduced.max,
        l1=reduced.l1,
        l2sq=l2sq,
    )


def _reduce(delta: Tensor) -> Tensor:
    reduced = _Reduced(
        total=tf.reduce_sum(delta),
        half_squares=tf.nn.l2_loss(delta),
        min=tf.reduce_min(delta),
        max=tf.reduce_max(delta),
        l1=tf.reduce_sum(tf.abs(delta)),
    )
    return tf.cast(tf.stack(reduced), tf.float64)


def _row(passes: Passes, signal: int) -> Tensor:
    return tf.stack([column[signal] for column in passes])


def _mended(delta: Tensor, plain: Tensor, overflown: Tensor, irregular: Tensor) -> Tensor:
    def look_again() -> Tensor:
        return tf.cond(overflown, lambda: _masked(delta), lambda: _centred(delta, plain))

    return tf.cond(irregular, look_again, lambda: plain)


def _centred(delta: Tensor, plain: Tensor) -> Tensor:
    """Take the squares about the mean; right where every element is finite."""
    passes = Passes(*tf.unstack(plain))
    centre = tf.cast(passes.mean, delta.dtype)
    deviation = delta - centre
    # The centre is the mean but for its rounding; what is left of it is taken off
    # the squares and added to the mean (both tiny, so nothing cancels).
    rest = tf.cast(tf.reduce_sum(deviation), tf.float64) / tf.maximum(passes.count, 1.0)
    squares = 2.0 * tf.cast(tf.nn.l2_loss(deviation), tf.float64)
    return tf.stack(
        passes._replace(
            mean=tf.cast(centre, tf.float64) + rest,
            m2=tf.maximum(squares - passes.count * rest * rest, 0.0),
        )
    )


def _masked(delta: Tensor) -> Tensor:
    """Right for all values: two passes over the finite elements in float64."""
    values = tf.cast(delta, tf.float64)
    finite = tf.math.is_finite(values)

    def total(x: Tensor) -> Tensor:
        return tf.reduce_sum(tf.where(finite, x, 0.0))

    def number(mask: Tensor) -> Tensor:
        return tf.cast(tf.math.count_nonzero(mask), tf.float64)

    mean = total(values) / tf.maximum(number(finite), 1.0)
    infinity = tf.constant(float("inf"), tf.float64)
    return tf.stack(
        Passes(
            count=tf.cast(tf.size(values, out_type=tf.int64), tf.float64),
            zeros=number(tf.equal(values, 0.0)),
            nans=number(tf.math.is_nan(values)),
            infs=number(tf.math.is_inf(values)),
            mean=mean,
            m2=total(tf.square(values - mean)),
            min=tf.reduce_min(tf.where(finite, values, infinity)),
            max=tf.reduce_max(tf.where(finite, values, -infinity)),
            l1=total(tf.abs(values)),
            l2sq=total(tf.square(values)),
        )
    )


