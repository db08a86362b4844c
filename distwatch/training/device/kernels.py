"""One look over all deltas of a step inside the training graph.

In small models it is the number of operations that costs, in large ones the reading. So each
large delta is reduced by itself (`reductions`), and small ones of known sizes are reduced
together (`blocks`). The results of all are stacked into vectors, on which the rest is
computed at once, in float64.

What is right for all values costs several times as much. It stands behind one ``tf.cond`` and
counts only for the deltas that need it: where the plain squares overflow or vanish, and where
the mean dominates the spread. There a large delta is made anew, so that it is not kept alive
for it, by functions that are traced once for all, since tracing costs, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from distwatch.statistics import BasicSums, SignalCountsState
from distwatch.training.device.blocks import Blocks, small
from distwatch.training.device.branches import called_only_when_taken
from distwatch.training.device.deltas import Delta, Deltas, Flattening, comparable
from distwatch.training.device.nonfinite import rows_function
from distwatch.training.device.reductions import Reduced, look_again, reduce

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
    #: Of a dtype.
    rows_of: Callable[[tf.DType], Any]


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
        functools.cache(rows_function),
    )


def _reduce_function(dtype: tf.DType) -> Any:
    return tf.function(reduce, input_signature=[tf.TensorSpec([None], dtype)], autograph=False)


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
    deltas: Deltas,
    signals: Sequence[Tensor],
    shared: SharedFunctions | None = None,
    note: Callable[[Tensor], None] = lambda broken: None,
) -> tuple[BasicSums, SignalCountsState]:
    """Sum up the deltas of all signals, and count NaN and Inf of the signals themselves.

    The latter costs nothing where there are none: where a delta is made of all elements of
    its signal and is finite, so are they. Only the others are read; and counted only if
    their sum is not finite either.

    Args:
        deltas: of any shape, empty or not.
        signals: the watched tensors that they are of, of any shape and dtype.
        shared: `shared_functions` of several calls; None for some of this call's own.
        note: called, where there may be some, with which signals have NaN or Inf: shape
            (signal,).

    Returns:
        float64 vectors of shape (signal,): what `distwatch.statistics.measure` gives for
        one delta on the host, and what `distwatch.statistics.SignalCounts` observes.
    """
    functions = shared or shared_functions()
    groups = _Groups(deltas.each, functions)
    plain = _plain(deltas.counts, groups.reduced())
    unsquared, irregular = _irregular(plain)
    # A delta that is its signal, and one of whole numbers, is special where they are.
    unknown = [
        delta.before is not None and x.dtype.is_floating
        for delta, x in zip(deltas.each, signals, strict=True)
    ]
    unseen = tf.logical_and(unknown, tf.logical_not(deltas.whole))
    # One tensor for both branches: each that one of them takes is a node more.
    regular = tf.stack([*plain, plain.nans, plain.infs], axis=1)

    @called_only_when_taken
    def looked_again() -> Tensor:
        sums = groups.looked_at_again(
            regular[:, : len(BasicSums._fields)], unsquared, irregular
        )
        broken = tf.reduce_any(sums[:, _SPECIAL] > 0.0, axis=1)
        suspected = tf.logical_and(unknown, tf.logical_or(unseen, broken))
        special = _specials(signals, unknown, suspected, sums[:, _SPECIAL], functions)
        note(tf.reduce_any(special > 0.0, axis=1))
        return tf.concat([sums, special], axis=1)

    again = tf.reduce_any(irregular)
    if any(unknown):
        again |= tf.reduce_any(unseen)
    columns = tf.unstack(tf.cond(again, looked_again, lambda: regular), axis=1)
    return BasicSums(*columns[:-2]), SignalCountsState(*columns[-2:])


class _Groups:
    """Some deltas as they are read: small ones together, the others one by one."""

    def __init__(self, deltas: Sequence[Delta], shared: SharedFunctions) -> None:
        self._deltas = deltas
        self._shared = shared
        self._small = small(deltas)
        self._others = sorted({*range(len(deltas))} - {*self._small})
        values = [deltas[i].value() for i in self._small]
        self._blocks = Blocks(values) if values else None

    def reduced(self) -> Reduced:
        """What is read at first, as float64 vectors of shape (delta,)."""
        flat = Flattening()
        others = [self._reduced(flat(self._deltas[i].value())) for i in self._others]
        if self._blocks is None:
            return _columns(others)
        together = self._blocks.reduced()
        rows = [tf.stack(_columns(others), axis=1), together] if others else [together]
        return Reduced(*tf.unstack(self._in_order(rows), axis=1))

    def looked_at_again(self, plain: Tensor, unsquared: Tensor, irregular: Tensor) -> Tensor:
        """Their sums, those of the irregular ones anew: shape (delta, sum)."""
        groups = []
        if self._others:
            facts = [
                tf.unstack(x, num=len(self._deltas)) for x in (plain, unsquared, irregular)
            ]
            flat = Flattening()
            others = [
                self._corrected(
                    [flat(x) for x in self._deltas[i] if x is not None],
                    *(fact[i] for fact in facts),
                )
                for i in self._others
            ]
            groups.append(tf.stack(others))
        if self._blocks is not None:
            groups.append(self._blocks.looked_at_again(tf.gather(irregular, self._small)))
        return tf.where(irregular[:, None], self._in_order(groups), plain)

    def _in_order(self, groups: Sequence[Tensor]) -> Tensor:
        """A row a delta, of the others and then of the small ones, in the deltas' order."""
        if len(groups) == 1:
            return groups[0]
        return tf.gather(tf.concat(groups, axis=0), np.argsort([*self._others, *self._small]))

    def _reduced(self, delta: Tensor) -> Reduced:
        function = reduce if tf.executing_eagerly() else self._shared.reduce(delta.dtype)
        return Reduced(*function(delta))

    def _corrected(self, delta: Sequence[Tensor], plain: Tensor, *flags: Tensor) -> Tensor:
        correct = _correct
        if not tf.executing_eagerly():
            correct = self._shared.correct(delta[0].dtype, len(delta) > 1)
        return correct(plain, *flags, *delta)


def _plain(count: Tensor, reduced: Reduced) -> BasicSums:
    """Right where every element is finite and the mean does not dominate."""
    nothing = tf.zeros_like(count)
    mean = reduced.total / tf.maximum(count, 1.0)
    l2sq = 2.0 * reduced.half_squares
    # The squares of a single element are those of its mean, but for their rounding.
    spread = tf.where(count > 1.0, l2sq - count * mean * mean, 0.0)
    return BasicSums(
        count=count,
        zeros=count - reduced.nonzeros,
        nans=nothing,
        infs=nothing,
        mean=mean,
        m2=tf.maximum(spread, 0.0),
        min=reduced.min,
        max=reduced.max,
        l1=reduced.l1,
        l2sq=l2sq,
    )


def _columns(rows: Sequence[Reduced]) -> Reduced:
    """What was reduced of each signal, as float64 vectors of shape (signal,)."""
    # As few operations as there can be: one tensor of each dtype.
    numbers = _vector([x for row in rows for x in row[:-1]])
    columns = tf.unstack(tf.reshape(numbers, [len(rows), -1]), num=len(rows[0]) - 1, axis=1)
    return Reduced(*[*columns, _vector([row.nonzeros for row in rows])])


def _vector(numbers: Sequence[Tensor]) -> Tensor:
    """Numbers as a float64 vector; the dtypes of signals may differ."""
    if len({x.dtype for x in numbers}) > 1:
        numbers = [tf.cast(x, tf.float64) for x in numbers]
    return tf.cast(tf.stack(numbers), tf.float64)


def _irregular(plain: BasicSums) -> tuple[Tensor, Tensor]:
    """Which deltas need another look for their squares, and which need one at all."""
    vanished = tf.logical_and(plain.l1 > 0.0, plain.l2sq < _VANISHING * plain.count)
    unsquared = tf.logical_or(tf.logical_not(tf.math.is_finite(plain.l2sq)), vanished)
    # Where m2 is small compared with the squares of the mean, the subtraction that gave
    # it has eaten its digits. A single element, as a loss is, has none to lose.
    several = plain.count > 1.0
    cancelled = tf.logical_and(several, plain.l2sq > _CANCELLATION * plain.m2)
    uncounted = plain.count > _COUNTED
    return unsquared, tf.logical_or(tf.logical_or(unsquared, cancelled), uncounted)


def _correct(plain: Tensor, unsquared: Tensor, irregular: Tensor, *tensors: Tensor) -> Tensor:
    return tf.cond(
        irregular, lambda: look_again(Delta(*tensors).value(), plain, unsquared), lambda: plain
    )


def _specials(
    signals: Sequence[Tensor],
    unknown: Sequence[bool],
    suspected: Tensor,
    of_deltas: Tensor,
    shared: SharedFunctions,
) -> Tensor:
    """NaN and Inf of the suspected signals; else those of their deltas: shape (signal, 2)."""
    if not any(unknown):
        return of_deltas
    flat = Flattening()
    counted = tf.unstack(of_deltas, num=len(signals))
    suspects = tf.unstack(suspected, num=len(signals))
    for i, signal in enumerate(signals):
        if unknown[i]:
            eager = tf.executing_eagerly()
            count = _count_special_if if eager else shared.count_special(signal.dtype)
            counted[i] = count(suspects[i], flat(signal))
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


def _number(mask: Tensor) -> Tensor:
    return tf.cast(tf.math.count_nonzero(mask), tf.float64)
