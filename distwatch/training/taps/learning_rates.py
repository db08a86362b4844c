"""The learning rate that an optimizer would apply now."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

Tensor = Any


def innermost(optimizer: Any) -> Any:
    """The optimizer that a loss scale or such holds; itself where it holds none."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def is_scheduled(optimizer: Any) -> bool:
    """Whether a schedule of Keras says the rate of each step."""
    return isinstance(
        getattr(innermost(optimizer), "_learning_rate", None),
        keras.optimizers.schedules.LearningRateSchedule,
    )


def current_rate(optimizer: Any) -> Tensor | None:
    """The rate as a tensor, also by a schedule of Keras.

    None where an optimizer has none, or where a function or a schedule of the user's own gives
    it: one call more might change what the next one gives, or which random numbers come.
    """
    optimizer = innermost(optimizer)
    kept = getattr(optimizer, "_learning_rate", None)
    if kept is None or (callable(kept) and not type(kept).__module__.startswith("keras.")):
        return None
    return tf.convert_to_tensor(optimizer.learning_rate)


def current_number(optimizer: Any) -> float | None:
    """The same as a number, outside of any graph."""
    with tf.init_scope():
        rate = current_rate(optimizer)
        return None if rate is None else float(rate)
