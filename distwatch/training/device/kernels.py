"""One look over each delta inside the training graph.

This is where watching costs time, so every line is chosen by measurement
(``tests/benchmarks/step_time.py``):

- Memory is what costs, fresh memory most of all. Each delta is reduced by four
  plain kernels in its own dtype (TensorFlow sums pairwise, so float32 keeps seven
  digits); then its absolute values and their signs are taken in its own place,
  which TensorFlow does when nothing else needs the buffer any more. The control
  dependencies are there for that alone.
- The results of all signals are stacked into vectors, on which the rest is
  computed at once, in float64.
- NaN-safe and cancellation-free variants cost several times as much. They stand
  behind one ``tf.cond`` and run only for the signals that need them: where the
  plain squares overflow or vanish, and where the mean dominates the spread.
  They make their delta anew, so that it is not kept alive for them.

Rejected, with ns an element for everything on one core: no control dependencies
and zeros by compare, cast and sum (1.74 against 1.45); ``tf.where`` for zeros
(3.3); ``tf.nn.moments``, ``reduce_std`` and float64 throughout (twice the cost of
all six kernels); zeros by ``minimum(bitcast(x), 1)`` (1.47, but whole numbers run
on the host of a GPU).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from distwatch.statistics import BasicSums, SignalCountsState

Tensor = Any

#: A sum of squares more than this many times m2 has lost digits to the mean.
_CANCELLATION = 4.0

#: Elements whose mean square is below this had squares too small for float32, whose
#: smallest number is 1.2e-38.
_VANISHING = 1e-32

#: As far as float32 counts; the zeros of a larger delta are counted again.
_COUNTED = 2.0**24


def comparable(x: Tensor) -> Tensor:
    """Cast a watched tensor to the dtype its deltas are computed in.

    Half precision is widened to float32, whole numbers to float64 (where every
    int32 is exact); float32 and float64 stay.
    """
    if x.dtype in (tf.float32, tf.float64):
        return x
    return tf.cast(x, tf.float32 if x.dtype.is_floating else tf.float64)


class SharedFunctions(NamedTuple):
    """Functions of one flat tensor, as one ``tf.function`` for each dtype."""

    look_again: Callable[[tf.DType], Any]
    count_special: Callable[[tf.DType], Any]


def shared_functions() -> SharedFunctions:
    """Make the functions that several calls share.

    Each is traced once for all signals. They belong to one recorder: a function kept for
    the whole process fails with "out of scope" after TensorFlow's context was reset, as
    Keras's own test suite does.
    """
    return SharedFunctions(
        functools.cache(_look_again_function), functools.cache(_count_special_function)
    )


def _look_again_function(dtype: tf.DType) -> Any:
    plain = tf.TensorSpec([len(BasicSums._fields)], tf.float64)
    return _compiled(_look_again, dtype, plain, tf.TensorSpec([], tf.bool))


def _count_special_function(dtype: tf.DType) -> Any:
    return _compiled(_count_special, dtype)


def _compiled(function: Callable[..., Tensor], dtype: tf.DType, *further: Any) -> Any:
    return tf.function(
        function,
        input_signature=[tf.TensorSpec([None], dtype), *further],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def measure(
    deltas: Sequence[Callable[[], Tensor]],
    counts: Tensor,
    shared: SharedFunctions | None = None,
) -> BasicSums:
    """Compute the basic sums of the deltas of all signals.

    Args:
        deltas: for each signal a function that makes its delta in the graph where it
            is called: float32 or float64 of any shape, empty or not.
        counts: their numbers of elements, float64 of shape (signal,).
        shared: `shared_functions` of several calls; None for some of this call's own.

    Returns:
        float64 vectors of shape (signal,), as `distwatch.statistics.measure`
        gives them for one signal on the host.
    """
    plain = _plain(deltas, counts)
    vanished = tf.logical_and(plain.l1 > 0.0, plain.l2sq < _VANISHING * counts)
    unsquared = tf.logical_or(tf.logical_not(tf.math.is_finite(plain.l2sq)), vanished)
    # Where m2 is small compared with the squares of the mean, the subtraction that gave
    # it has eaten its digits. An empty delta compares 0 > 0.
    cancelled = plain.l2sq > _CANCELLATION * plain.m2
    uncounted = counts > _COUNTED
    irregular = tf.logical_or(tf.logical_or(unsquared, cancelled), uncounted)

    @_called_only_when_taken
    def corrected() -> Tensor:
        functions = shared or shared_functions()
        rows = [
            _corrected(delta, _row(plain, i), unsquared[i], irregular[i], functions)
            for i, delta in enumerate(deltas)
        ]
        return tf.stack(rows, axis=1)

    columns = tf.cond(tf.reduce_any(irregular), corrected, lambda: tf.stack(plain))
    return BasicSums(*tf.unstack(columns))


def count_special(
    signals: Sequence[Tensor],
    sums: BasicSums,
    whole: Tensor,
    same: Sequence[bool],
    shared: SharedFunctions | None = None,
) -> SignalCountsState:
    """Count NaN and Inf of the signals themselves, which costs nothing where there are none.

    Where a delta is made of all elements of its signal and is finite, so are they. Only the
    others are read; and counted only if their sum is not finite either.

    Args:
        signals: of any shape and dtype, empty or not.
        sums: those of their deltas.
        whole: whether each delta is made of all elements of its signal: shape (signal,).
        same: which deltas are the signals themselves.
        shared: as in `measure`.

    Returns:
        float64 vectors of shape (signal,).
    """
    known = tf.constant(
        [itself or not x.dtype.is_floating for x, itself in zip(signals, same, strict=True)]
    )
    broken = sums.nans + sums.infs > 0.0
    suspected = tf.logical_not(known) & (broken | tf.logical_not(whole))

    @_called_only_when_taken
    def counted() -> Tensor:
        functions = shared or shared_functions()
        rows = [_counted(x, suspected[i], functions) for i, x in enumerate(signals)]
        return tf.stack(rows, axis=1)

    nothing = tf.zeros([2, len(signals)], tf.float64)
    found = nothing
    if not all(tf.get_static_value(known)):
        found = tf.cond(tf.reduce_any(suspected), counted, lambda: nothing)
    found = tf.where(same, tf.stack([sums.nans, sums.infs]), found)
    return SignalCountsState(*tf.unstack(found))


def _counted(signal: Tensor, suspected: Tensor, shared: SharedFunctions) -> Tensor:
    def look() -> Tensor:
        flat = tf.reshape(comparable(signal), [-1])
        count = _count_special if tf.executing_eagerly() else shared.count_special(flat.dtype)
        return count(flat)

    return tf.cond(suspected, look, lambda: tf.zeros([2], tf.float64))


def _count_special(signal: Tensor) -> Tensor:
    # One NaN or Inf is enough for a sum that is neither; a sum may also overflow.
    return tf.cond(
        tf.math.is_finite(tf.reduce_sum(signal)),
        lambda: tf.zeros([2], tf.float64),
        lambda: tf.stack([_number(tf.math.is_nan(signal)), _number(tf.math.is_inf(signal))]),
    )


def _called_only_when_taken(branch: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Keep a branch of a `tf.cond` out of the way of the other.

    TensorFlow spreads both branches out into the graph, and walks through every node
    of the one that is not taken; a function that is not inlined is one node (which
    saves a tenth of a step of 0.8 ms).
    """
    if tf.executing_eagerly():
        return branch
    attributes = {"_noinline": True}
    return tf.function(branch, autograph=False, experimental_attributes=attributes)  # type: ignore[no-any-return]


class _Reduced(NamedTuple):
    total: Tensor
    half_squares: Tensor
    min: Tensor
    max: Tensor
    l1: Tensor
    nonzeros: Tensor


def _plain(deltas: Sequence[Callable[[], Tensor]], count: Tensor) -> BasicSums:
    """Right where every element is finite and the mean does not dominate."""
    rows = [_reduce(delta()) for delta in deltas]
    reduced = _Reduced(*(_vector(column) for column in zip(*rows, strict=True)))
    nothing = tf.zeros_like(count)
    mean = reduced.total / tf.maximum(count, 1.0)
    l2sq = 2.0 * reduced.half_squares
    return BasicSums(
        count=count,
        zeros=count - reduced.nonzeros,
        nans=nothing,
        infs=nothing,
        mean=mean,
        m2=tf.maximum(l2sq - count * mean * mean, 0.0),
        min=reduced.min,
        max=reduced.max,
        l1=reduced.l1,
        l2sq=l2sq,
    )


def _reduce(delta: Tensor) -> _Reduced:
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
        signs = tf.sign(magnitudes)
    return _Reduced(*first, l1, nonzeros=tf.reduce_sum(signs))


def _operations(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """What control dependencies take: nothing in eager mode, where order is given."""
    return [] if tf.executing_eagerly() else tensors


def _vector(column: Sequence[Tensor]) -> Tensor:
    """One number a signal, as a float64 vector; dtypes may differ between signals."""
    if len({x.dtype for x in column}) > 1:
        column = [tf.cast(x, tf.float64) for x in column]
    return tf.cast(tf.stack(column), tf.float64)


def _row(sums: BasicSums, signal: int) -> Tensor:
    return tf.stack([column[signal] for column in sums])


def _corrected(
    delta: Callable[[], Tensor],
    plain: Tensor,
    unsquared: Tensor,
    irregular: Tensor,
    shared: SharedFunctions,
) -> Tensor:
    def look_again() -> Tensor:
        flat = tf.reshape(delta(), [-1])
        look = _look_again if tf.executing_eagerly() else shared.look_again(flat.dtype)
        return look(flat, plain, unsquared)

    return tf.cond(irregular, look_again, lambda: plain)


def _look_again(delta: Tensor, plain: Tensor, unsquared: Tensor) -> Tensor:
    return tf.cond(unsquared, lambda: _masked(delta), lambda: _centred(delta, plain))


def _centred(delta: Tensor, plain: Tensor) -> Tensor:
    """Take the squares about the mean; right where every element is finite."""
    sums = BasicSums(*tf.unstack(plain))
    centre = tf.cast(sums.mean, delta.dtype)
    deviation = delta - centre
    # The centre is the mean but for its rounding; what is left of it is taken off
    # the squares and added to the mean (both tiny, so nothing cancels).
    rest = tf.cast(tf.reduce_sum(deviation), tf.float64) / tf.maximum(sums.count, 1.0)
    squares = 2.0 * tf.cast(tf.nn.l2_loss(deviation), tf.float64)
    return tf.stack(
        sums._replace(
            zeros=sums.count - _number(tf.not_equal(delta, 0)),
            mean=tf.cast(centre, tf.float64) + rest,
            m2=tf.maximum(squares - sums.count * rest * rest, 0.0),
        )
    )


def _masked(delta: Tensor) -> Tensor:
    """Right for all values: two passes over the finite elements in float64."""
    values = tf.cast(delta, tf.float64)
    finite = tf.math.is_finite(values)

    def total(x: Tensor) -> Tensor:
        return tf.reduce_sum(tf.where(finite, x, 0.0))

    mean = total(values) / tf.maximum(_number(finite), 1.0)
    infinity = tf.constant(float("inf"), tf.float64)
    return tf.stack(
        BasicSums(
            count=tf.cast(tf.size(values, out_type=tf.int64), tf.float64),
            zeros=_number(tf.equal(values, 0.0)),
            nans=_number(tf.math.is_nan(values)),
            infs=_number(tf.math.is_inf(values)),
            mean=mean,
            m2=total(tf.square(values - mean)),
            min=tf.reduce_min(tf.where(finite, values, infinity)),
            max=tf.reduce_max(tf.where(finite, values, -infinity)),
            l1=total(tf.abs(values)),
            l2sq=total(tf.square(values)),
        )
    )


def _number(mask: Tensor) -> Tensor:
    return tf.cast(tf.math.count_nonzero(mask), tf.float64)
