"""What is trained: a model or several, and the optimizers that train them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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
        #: The one that counts the steps; `count_by` chooses it.
        self._counting = next(iter(self.optimizers), None)

    def count_by(self, applied: Sequence[Any]) -> None:
        """Count steps by an optimizer that a step applied, not by one that only is there.

        Of several (a GAN's) it is the one that is applied least often in a step, since a
        critic may be trained several times for each step of the generator; the first of
        equals.

        Args:
            applied: an optimizer for each call of its ``apply``; none changes nothing.
        """
        times = Counter(map(id, applied))
        if times:
            self._counting = min(applied, key=lambda each: times[id(each)])

    @property
    def iterations(self) -> Any:
        """The optimizer's count of its steps; None without an optimizer."""
        return None if self._counting is None else self._counting.iterations

    def count_iterations(self) -> int:
        """The optimizer's count as it stands now, also while a step is traced."""
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
            values = [variable.value for variable in variables]
            return any(
                isinstance(value, tf.Variable) and not value.is_initialized()
                for value in values
            )


def of_model(model: keras.Model) -> Subject:
    """A model as ``fit`` trains it, with all optimizers that it and its layers have.

    They are found in attributes, and in dicts and lists there.
    """
    optimizers = [
        each
        for layer in (model, *model._flatten_layers(include_self=False))
        for each in _optimizers_in([getattr(layer, "optimizer", None), *vars(layer).values()])
    ]
    return Subject(model, [model], optimizers)


def _optimizers_in(values: Iterable[Any]) -> Iterator[Any]:
    waiting, seen = list(values), set()
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, keras.optimizers.Optimizer):
            yield each
        elif isinstance(each, (dict, list, tuple)) and id(each) not in seen:
            seen.add(id(each))
            waiting += each.values() if isinstance(each, dict) else each


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
