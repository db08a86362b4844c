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
  They make their delta anew, so that it is not kept alive for them; and they are
  functions that are traced once for all signals, since tracing costs, too.

Rejected: the deltas of all signals in one matrix of blocks, reduced block by block (a fifth
of the nodes, but 1.3 to 2 times the time a step for activations, whose parts no longer fit
into the caches between two kernels). And, with ns an element for everything on one core: no
control dependencies and zeros by compare, cast and sum (1.74 against 1.45); ``tf.where`` for
zeros (3.3); ``tf.nn.moments``, ``reduce_std`` and float64 throughout (twice the cost of all
six kernels); zeros by ``sign(x)`` on CPUs (1.45, where ``minimum(bitcast(x), 1)`` takes 1.47,
but denormal numbers count as zeros).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from distwatch.statistics import BasicSums, SignalCountsState
from distwatch.training.device.deltas import Delta, Deltas, comparable

Tensor = Any

#: A sum of squares more than this many times m2 has lost digits to the mean.
_CANCELLATION = 4.0

#: Elements whose mean square is below this had squares too small for float32, whose
#: smallest number is 1.2e-38.
_VANISHING = 1e-32

#: As far as float32 counts; the zeros of a larger delta are counted again.
_COUNTED = 2.0**24

#: Where NaN and Inf stand among the basic sums.
_SPECIAL = slice(BasicSums._fields.index("nans"), BasicSums._fields.index("infs") + 1)


class SharedFunctions(NamedTuple):
    """Functions of flat tensors, as one ``tf.function`` for each kind of tensor."""

    #: Of a dtype. Inlined: only tracing it once for all signals is what saves time.
    reduce: Callable[[tf.DType], Any]
    #: Of a dtype, and of whether there is something to measure against.
    correct: Callable[[tf.DType, bool], Any]
    #: Of a dtype.
    count_special: Callable[[tf.DType], Any]


def shared_functions() -> SharedFunctions:
    """Make the functions that several calls share.

    Each is traced once for all signals. They belong to one recorder: a function kept for
    the whole process fails with "out of scope" after TensorFlow's context was reset, as
    Keras's own test suite does.
    """
    return SharedFunctions(
        functools.cache(_reduce_function),
        functools.cache(_correct_function),
        functools.cache(_count_special_function),
    )


def _reduce_function(dtype: tf.DType) -> Any:
    return tf.function(_reduce, input_signature=[tf.TensorSpec([None], dtype)], autograph=False)


def _correct_function(dtype: tf.DType, compared: bool) -> Any:
    flag, values = tf.TensorSpec([], tf.bool), tf.TensorSpec([None], dtype)
    plain = tf.TensorSpec([len(BasicSums._fields)], tf.float64)
    return _compiled(_correct, plain, flag, flag, values, *[values] * compared)


def _count_special_function(dtype: tf.DType) -> Any:
    return _compiled(
        _count_special_if, tf.TensorSpec([], tf.bool), tf.TensorSpec([None], dtype)
    )


def _compiled(function: Callable[..., Tensor], *signature: Any) -> Any:
    return tf.function(
        function,
        input_signature=signature,
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def measure(
    deltas: Deltas, signals: Sequence[Tensor], shared: SharedFunctions | None = None
) -> tuple[BasicSums, SignalCountsState]:
    """Sum up the deltas of all signals, and count NaN and Inf of the signals themselves.

    The latter costs nothing where there are none: where a delta is made of all elements of
    its signal and is finite, so are they. Only the others are read; and counted only if
    their sum is not finite either.

    Args:
        deltas: of any shape, empty or not.
        signals: the watched tensors that they are of, of any shape and dtype.
        shared: `shared_functions` of several calls; None for some of this call's own.

    Returns:
        float64 vectors of shape (signal,): what `distwatch.statistics.measure` gives for
        one delta on the host, and what `distwatch.statistics.SignalCounts` observes.
    """
    functions = shared or shared_functions()
    plain = _plain(deltas, functions)
    unsquared, irregular = _irregular(plain)
    # A delta that is its signal, and whole numbers, need no look of their own.
    unknown = [
        delta.before is not None and x.dtype.is_floating
        for delta, x in zip(deltas.each, signals, strict=True)
    ]
    unseen = tf.logical_and(unknown, tf.logical_not(deltas.whole))
    # One tensor for both branches: each that one of them takes is a node more.
    regular = tf.stack([*plain, plain.nans, plain.infs], axis=1)

    @_called_only_when_taken
    def looked_again() -> Tensor:
        sums = _corrected(deltas.each, regular, unsquared, irregular, functions)
        broken = tf.reduce_any(sums[:, _SPECIAL] > 0.0, axis=1)
        suspected = tf.logical_and(unknown, tf.logical_or(unseen, broken))
        special = _specials(signals, suspected, functions)
        same = [delta.before is None for delta in deltas.each]
        special = tf.where(tf.constant(same)[:, None], sums[:, _SPECIAL], special)
        return tf.concat([sums, special], axis=1)

    again = tf.reduce_any(irregular)
    if any(unknown):
        again |= tf.reduce_any(unseen)
    columns = tf.unstack(tf.cond(again, looked_again, lambda: regular), axis=1)
    return BasicSums(*columns[:-2]), SignalCountsState(*columns[-2:])


def _irregular(plain: BasicSums) -> tuple[Tensor, Tensor]:
    """Which deltas need another look for their squares, and which need one at all."""
    vanished = tf.logical_and(plain.l1 > 0.0, plain.l2sq < _VANISHING * plain.count)
    unsquared = tf.logical_or(tf.logical_not(tf.math.is_finite(plain.l2sq)), vanished)
    # Where m2 is small compared with the squares of the mean, the subtraction that gave
    # it has eaten its digits. An empty delta compares 0 > 0.
    cancelled = plain.l2sq > _CANCELLATION * plain.m2
    uncounted = plain.count > _COUNTED
    return unsquared, tf.logical_or(tf.logical_or(unsquared, cancelled), uncounted)


def _corrected(
    deltas: Sequence[Delta],
    plain: Tensor,
    unsquared: Tensor,
    irregular: Tensor,
    shared: SharedFunctions,
) -> Tensor:
    """The sums of all deltas, those of the irregular ones anew: shape (signal, sum)."""
    rows = tf.unstack(plain[:, : len(BasicSums._fields)], num=len(deltas))
    flags = zip(tf.unstack(unsquared), tf.unstack(irregular), strict=True)
    corrected = []
    for delta, row, (unsquare, again) in zip(deltas, rows, flags, strict=True):
        tensors = [tf.reshape(x, [-1]) for x in delta if x is not None]
        correct = _correct
        if not tf.executing_eagerly():
            correct = shared.correct(delta.now.dtype, delta.before is not None)
        corrected.append(correct(row, unsquare, again, *tensors))
    return tf.stack(corrected)


def _correct(plain: Tensor, unsquared: Tensor, irregular: Tensor, *tensors: Tensor) -> Tensor:
    return tf.cond(
        irregular, lambda: _look_again(Delta(*tensors).value(), plain, unsquared), lambda: plain
    )


def _specials(signals: Sequence[Tensor], suspected: Tensor, shared: SharedFunctions) -> Tensor:
    """NaN and Inf of the suspected signals: shape (signal, 2)."""
    counted = []
    for signal, suspect in zip(signals, tf.unstack(suspected), strict=True):
        eager = tf.executing_eagerly()
        count = _count_special_if if eager else shared.count_special(signal.dtype)
        counted.append(count(suspect, tf.reshape(signal, [-1])))
    return tf.stack(counted)


def _count_special_if(suspected: Tensor, signal: Tensor) -> Tensor:
    nothing = tf.zeros([2], tf.float64)
    return tf.cond(suspected, lambda: _count_special(comparable(signal)), lambda: nothing)


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


def _plain(deltas: Deltas, shared: SharedFunctions) -> BasicSums:
    """Right where every element is finite and the mean does not dominate."""
    count = deltas.counts
    reduced = _columns([_reduced(delta.value(), shared) for delta in deltas.each])
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


def _columns(rows: Sequence[_Reduced]) -> _Reduced:
    """What was reduced of each signal, as float64 vectors of shape (signal,)."""
    # As few operations as there can be: one tensor of each dtype.
    numbers = _vector([x for row in rows for x in row[:-1]])
    columns = tf.unstack(tf.reshape(numbers, [len(rows), -1]), num=len(rows[0]) - 1, axis=1)
    return _Reduced(*[*columns, _vector([row.nonzeros for row in rows])])


def _vector(numbers: Sequence[Tensor]) -> Tensor:
    """Numbers as a float64 vector; the dtypes of signals may differ."""
    if len({x.dtype for x in numbers}) > 1:
        numbers = [tf.cast(x, tf.float64) for x in numbers]
    return tf.cast(tf.stack(numbers), tf.float64)


def _reduced(delta: Tensor, shared: SharedFunctions) -> _Reduced:
    reduce = _reduce if tf.executing_eagerly() else shared.reduce(delta.dtype)
    return _Reduced(*reduce(tf.reshape(delta, [-1])))


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
        nonzeros = _count_nonzeros(magnitudes)
    return _Reduced(*first, l1, nonzeros)


def _count_nonzeros(magnitudes: Tensor) -> Tensor:
    """How many of some numbers from 0 on are not zero."""
    if tf.config.list_logical_devices("GPU"):
        # Whole numbers would be counted on the host.
        return tf.reduce_sum(tf.sign(magnitudes))
    # By their bits: TensorFlow has CPUs take denormal numbers for zeros.
    whole = tf.int32 if magnitudes.dtype.size == 4 else tf.int64
    return tf.reduce_sum(tf.minimum(tf.bitcast(magnitudes, whole), 1))


def _operations(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """What control dependencies take: nothing in eager mode, where order is given."""
    return [] if tf.executing_eagerly() else tensors


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
            zeros=sums.count - tf.cast(_count_nonzeros(tf.abs(delta)), tf.float64),
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

    count = tf.cast(tf.size(values, out_type=tf.int64), tf.float64)
    mean = total(values) / tf.maximum(_number(finite), 1.0)
    infinity = tf.constant(float("inf"), tf.float64)
    return tf.stack(
        BasicSums(
            count=count,
            zeros=count - tf.cast(_count_nonzeros(tf.abs(delta)), tf.float64),
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
