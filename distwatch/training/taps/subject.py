"""What is trained: a model or several, and the optimizers that train them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from distwatch.errors import ConfigError


class Subject:
    """A model, or several side by side, with the optimizers that train them.

    Args:
        root: what stands above all layers.
        models: what computes losses.
        optimizers: each captured at its ``apply``.
        by_hand: whether a loop of the user's own trains it, rather than ``fit``.
    """

    def __init__(
        self,
        root: keras.layers.Layer,
        models: Sequence[Any],
        optimizers: Iterable[Any],
        *,
        by_hand: bool = False,
    ) -> None:
        self.root = root
        self.by_hand = by_hand
        self.models = tuple(models)
        self.optimizers = tuple({id(each): each for each in optimizers}.values())

    @property
    def iterations(self) -> Any:
        """The first optimizer's count of its steps; None without an optimizer."""
        return self.optimizers[0].iterations if self.optimizers else None

    def count_iterations(self) -> int:
        """The first optimizer's count as it stands now, also while a step is traced."""
        if self.iterations is None:
            return -1
        with tf.init_scope():
            return int(tf.convert_to_tensor(self.iterations).numpy())

    def is_being_made(self) -> bool:
        """Whether variables wait for the end of the current trace to get their values."""
        variables = [
            *self.root.variables,
            *(variable for model in self.models for variable in model.metrics_variables),
            *(variable for optimizer in self.optimizers for variable in optimizer.variables),
        ]
        with tf.init_scope():
            return not all(variable.value.is_initialized() for variable in variables)


def of_model(model: keras.Model) -> Subject:
    """A model as ``fit`` trains it, with all optimizers that it has as attributes."""
    own = [getattr(model, "optimizer", None), *vars(model).values()]
    optimizers = [each for each in own if isinstance(each, keras.optimizers.Optimizer)]
    return Subject(model, [model], optimizers)


def of_loop(models: Any, optimizers: Any) -> Subject:
    """What a loop of the user's own trains: one model or several, one optimizer or several.

    Raises:
        ConfigError: something else was given, or two models have one name.
    """
    listed = _listed(models, keras.Model, "model")
    chosen = _listed(optimizers, keras.optimizers.Optimizer, "optimizer")
    if not listed:
        raise ConfigError("watching(model): give a keras.Model, or a list of them.")
    if len(listed) == 1:
        chosen = chosen or list(of_model(listed[0]).optimizers)
        return Subject(listed[0], listed, chosen, by_hand=True)
    names = [model.name for model in listed]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"watching(models): their names are {names}; give each a name of its own, by "
            "which its signals are called."
        )
    return Subject(_SideBySide(listed), listed, chosen, by_hand=True)


def _listed(given: Any, kind: Any, word: str) -> list[Any]:
    several = isinstance(given, (list, tuple))
    listed = [] if given is None else list(given) if several else [given]
    for each in listed:
        if not isinstance(each, kind):
            raise ConfigError(
                f"watching: expected a Keras {word} or a list of them, found a "
                f"{type(each).__name__}."
            )
    return listed


class _SideBySide(keras.layers.Layer):
    """Several models under one root; each model's name begins its signals' paths."""

    def __init__(self, models: list[Any]) -> None:
        super().__init__(name="models")
        self._models = models
        self.built = all(model.built for model in models)
