"""The batch of a step, by the names of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from distwatch.text import listed
from distwatch.training.device.nonfinite import StepBatch
from distwatch.training.taps.layer_paths import parts


def batch_of(data: Any) -> StepBatch:
    """The batch that a step is given, as far as dense tensors of numbers go."""
    named = dict(_named(data))
    kept = {name: x for name, x in named.items() if _is_of_numbers(x)}
    others = [name for name, x in named.items() if name not in kept and x is not None]
    why = f"{listed(others)}: only dense tensors of numbers are kept." if others else ""
    return StepBatch(kept, why)


def _named(data: Any) -> Iterator[tuple[str, Any]]:
    try:
        each = keras.utils.unpack_x_y_sample_weight(data)
    except ValueError:
        # A step of the user's own may be given anything.
        yield from parts("batch", data)
        return
    for name, values in zip(("x", "y", "sample_weight"), each, strict=True):
        yield from parts(name, values)


def _is_of_numbers(x: Any) -> bool:
    if not isinstance(x, tf.Tensor) or x.shape.rank is None:
        return False
    return bool(x.dtype.is_floating or x.dtype.is_integer or x.dtype.is_bool)
