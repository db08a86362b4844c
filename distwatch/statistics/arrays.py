"""The one place that knows whether an array is NumPy's or a tensor.

Statistics are written once, as arithmetic on arrays, and run on the host and
inside the training graph alike. Operators work on both kinds; the few functions
that do not are found here.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

#: Of so many places of each example (of an image, a sequence) `some_rows` are.
_SOME_PLACES = 8


class Namespace:
    """The functions that a statistic may use in addition to the operators, for NumPy arrays."""

    maximum: Any = staticmethod(np.maximum)
    minimum: Any = staticmethod(np.minimum)
    where: Any = staticmethod(np.where)
    isnan: Any = staticmethod(np.isnan)
    isinf: Any = staticmethod(np.isinf)
    stack: Any = staticmethod(np.stack)
    concat: Any = staticmethod(np.concatenate)
    sum: Any = staticmethod(np.sum)
    all: Any = staticmethod(np.all)
    #: ``cast(x, dtype)``: as another dtype, such as "float64".
    cast: Any = staticmethod(np.asarray)
    #: ``flat(x)``: shape (element,).
    flat: Any = staticmethod(np.ravel)
    #: ``shifted(x, places)``: whole numbers without their last bits.
    shifted: Any = staticmethod(np.right_shift)

    def sums_of_squares(self, arrays: Any) -> Any:
        """Of all elements of each array, as float64: shape (array,)."""
        return np.stack([np.square(np.asarray(x, np.float64)).sum() for x in arrays])

    def split(self, x: Any, sizes: Any) -> Any:
        """Parts of these sizes of a flat array."""
        return np.split(x, np.cumsum(sizes)[:-1])

    def size(self, x: Any) -> Any:
        """The number of elements."""
        return x.size

    def last_size(self, x: Any) -> Any:
        """The size of the last axis, if it is not the only one; else 1."""
        return x.shape[-1] if x.ndim > 1 else 1

    def rows(self, x: Any) -> Any:
        """With all axes but the first one as one; of a flat array, in one column."""
        return np.reshape(x, (x.shape[0] if x.ndim else 1, int(np.prod(x.shape[1:]))))

    def columns(self, x: Any, number: Any) -> Any:
        """A flat array in so many columns."""
        return np.reshape(x, (-1, number))

    def some_rows(self, x: Any) -> Any:
        """Some rows of each unit, all over the array: shape (row, ..., unit)."""
        return self.columns(x, self.last_size(x))

    def extremes(self, rows: Any) -> tuple[Any, Any]:
        """The smallest and the largest along all axes but the last; +inf and -inf of none."""
        axes = tuple(range(rows.ndim - 1))
        return rows.min(axis=axes, initial=np.inf), rows.max(axis=axes, initial=-np.inf)

    def either(self, condition: Any, if_true: Any, if_false: Any) -> Any:
        """What one of two functions gives; only that one is called."""
        return if_true() if condition else if_false()

    def shared(self, function: Any, ranks: tuple[int, ...]) -> Any:
        """A function of arrays of these ranks that costs little where it is called often."""
        return function

    def pattern(self, x: Any) -> Any:
        """The bit pattern of each number, flat, as a whole number of as many bytes."""
        flat = np.ravel(x)
        return flat if flat.dtype.kind in "iub" else flat.view(f"i{flat.dtype.itemsize}")

    def odd_numbers(self, x: Any) -> Any:
        """1, 3, 5, ... for each element of a flat array, as int64."""
        return np.arange(1, 2 * len(x) + 1, 2, dtype=np.int64)

    def bincount(self, index: Any, length: int) -> Any:
        """How often each of 0 ... length-1 occurs in a flat array, as float64."""
        return np.bincount(index, minlength=length).astype(np.float64)


@functools.cache
def _tensor_namespace() -> Namespace:
    import tensorflow as tf

    whole = {2: tf.int16, 4: tf.int32, 8: tf.int64}

    class TensorNamespace(Namespace):
        maximum = staticmethod(tf.maximum)
        minimum = staticmethod(tf.minimum)
        isnan = staticmethod(tf.math.is_nan)
        isinf = staticmethod(tf.math.is_inf)
        stack = staticmethod(tf.stack)
        concat = staticmethod(tf.concat)
        sum = staticmethod(tf.reduce_sum)
        all = staticmethod(tf.reduce_all)
        cast = staticmethod(tf.cast)
        flat = staticmethod(functools.partial(tf.reshape, shape=[-1]))

        def where(self, condition: Any, a: Any, b: Any) -> Any:
            # A bare number takes the type of the other side, as in NumPy.
            dtype = (a if is_tensor(a) else b).dtype
            return tf.where(condition, tf.cast(a, dtype), tf.cast(b, dtype))

        def sums_of_squares(self, arrays: Any) -> Any:
            # Squares of half-precision weights soon pass 65504; wider ones are summed as
            # they are, since a cast to float64 would cost a copy.
            tensors = [tf.convert_to_tensor(x) for x in arrays]
            wide = [tf.cast(x, tf.float32) if x.dtype.size == 2 else x for x in tensors]
            halves = [tf.nn.l2_loss(x) for x in wide]
            if len({x.dtype for x in halves}) > 1:
                halves = [tf.cast(x, tf.float64) for x in halves]
            return 2.0 * tf.cast(tf.stack(halves), tf.float64)

        def split(self, x: Any, sizes: Any) -> Any:
            return tf.split(x, tf.stack(sizes), num=len(sizes))

        def size(self, x: Any) -> Any:
            return tf.size(x)

        def last_size(self, x: Any) -> Any:
            return (x.shape[-1] or tf.shape(x)[-1]) if x.shape.rank > 1 else 1

        def rows(self, x: Any) -> Any:
            inner = x.shape[1:]
            known = inner.is_fully_defined()
            size = inner.num_elements() if known else tf.reduce_prod(tf.shape(x)[1:])
            return tf.reshape(x, [-1, size])

        def columns(self, x: Any, number: Any) -> Any:
            return tf.reshape(x, [-1, number])

        def some_rows(self, x: Any) -> Any:
            if x.shape.rank < 2:
                return tf.reshape(x, [-1, 1])
            places = x.shape[1:-1].num_elements()
            if places is None or places <= _SOME_PLACES:
                return x
            # From the middle of equal parts: the margin of an image is often constant. (With
            # strides TensorFlow takes longer for some places than for all.)
            some = (np.arange(_SOME_PLACES) * 2 + 1) * places // (2 * _SOME_PLACES)
            return tf.gather(tf.reshape(x, [-1, places, self.last_size(x)]), some, axis=1)

        def extremes(self, rows: Any) -> tuple[Any, Any]:
            axes = list(range(rows.shape.rank - 1))
            return tf.reduce_min(rows, axis=axes), tf.reduce_max(rows, axis=axes)

        def either(self, condition: Any, if_true: Any, if_false: Any) -> Any:
            if tf.executing_eagerly():
                return if_true() if condition else if_false()
            # A function that is not inlined is one node of the graph, which is walked
            # through also where it is not taken.
            attributes = {"_noinline": True}
            taken = tf.function(if_true, autograph=False, experimental_attributes=attributes)
            return tf.cond(condition, taken, if_false)

        def shared(self, function: Any, ranks: tuple[int, ...]) -> Any:
            if tf.executing_eagerly():
                return function

            @functools.cache
            def traced(*dtypes: Any) -> Any:
                kinds = zip(ranks, dtypes, strict=True)
                signature = [tf.TensorSpec([None] * rank, dtype) for rank, dtype in kinds]
                return tf.function(function, input_signature=signature, autograph=False)

            return lambda *tensors: traced(*(x.dtype for x in tensors))(*tensors)

        def pattern(self, x: Any) -> Any:
            flat = self.flat(x)
            return tf.bitcast(flat, whole[x.dtype.size]) if x.dtype.is_floating else flat

        def odd_numbers(self, x: Any) -> Any:
            return tf.range(1, 2 * tf.size(x, out_type=tf.int64) + 1, 2)

        def shifted(self, x: Any, places: int) -> Any:
            return tf.bitwise.right_shift(x, tf.constant(places, x.dtype))

        def bincount(self, index: Any, length: int) -> Any:
            # In whole numbers: as floats they would stop counting at 2**24. The raw
            # operation takes 2.4 ns an element, a segment sum 6.
            counted = tf.raw_ops.DenseBincount(
                input=index,
                size=tf.constant(length, index.dtype),
                weights=tf.constant([], tf.int32),
                binary_output=False,
            )
            return tf.cast(counted, tf.float64)

    return TensorNamespace()


_NUMPY = Namespace()


def is_tensor(x: Any) -> bool:
    """Tell whether ``x`` is a TensorFlow tensor or variable, without importing TensorFlow."""
    tf = sys.modules.get("tensorflow")
    return tf is not None and isinstance(x, (tf.Tensor, tf.Variable))


def namespace(*arrays: Any) -> Namespace:
    """Return the functions that fit the arrays: tensors win over NumPy."""
    return _tensor_namespace() if any(map(is_tensor, arrays)) else _NUMPY
