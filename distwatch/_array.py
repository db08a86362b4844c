"""The one place that knows whether an array is NumPy's or a tensor.

Statistics are written once, as arithmetic on arrays, and run on the host and
inside the training graph alike. Operators work on both kinds; the few functions
that do not are found here.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Protocol

import numpy as np


class Namespace(Protocol):
    """The functions that a statistic may use beside the operators."""

    def maximum(self, a: Any, b: Any) -> Any: ...
    def minimum(self, a: Any, b: Any) -> Any: ...
    def stack(self, arrays: Any, axis: int) -> Any: ...


class _NumpyNamespace:
    maximum = staticmethod(np.maximum)
    minimum = staticmethod(np.minimum)
    stack = staticmethod(np.stack)


@functools.cache
def _tensor_namespace() -> Namespace:
    import tensorflow as tf

    class TensorNamespace:
        maximum = staticmethod(tf.maximum)
        minimum = staticmethod(tf.minimum)
        stack = staticmethod(tf.stack)

    return TensorNamespace()


def is_tensor(x: Any) -> bool:
    """Tell whether ``x`` is a TensorFlow tensor or variable, without importing TensorFlow."""
    tf = sys.modules.get("tensorflow")
    return tf is not None and isinstance(x, (tf.Tensor, tf.Variable))


def namespace(*arrays: Any) -> Namespace:
    """Return the functions that fit the arrays: tensors win over NumPy."""
    return _tensor_namespace() if any(map(is_tensor, arrays)) else _NumpyNamespace()
