"""Known traps: what Keras 3 cannot do, or does wrongly, under a strategy.

``obstacles`` end a training, so they are refused before it begins; ``hazards`` change its
results without a word, so they are said. ``batches`` is about the data.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from distwatch.errors import BackendError, KnownTrapWarning, UnsupportedTrainingError
from distwatch.replicas import total_replicas
from distwatch.traps import hazards, obstacles
from distwatch.traps.batches import check_data, explain
from distwatch.traps.kinds import Trap

__all__ = [
    "Trap",
    "check_backend",
    "check_data",
    "check_loop",
    "check_training",
    "explain",
    "preflight",
]


def preflight(model: keras.Model, strategy: Any = None) -> list[Trap]:
    """List the known traps that a model runs into when it is trained by ``fit``.

    >>> for trap in distwatch.preflight(model):        # doctest: +SKIP
    ...     print(trap)

    A `Watch` refuses those that are fatal, and warns of the others, before the first
    step.

    Args:
        model: a compiled model.
        strategy: what it is going to be trained under; None for the one that it was made
            under.

    Returns:
        Those that end the training first. An empty list says that none is known.
    """
    check_backend()
    chosen = model.distribute_strategy if strategy is None else strategy
    optimizers = [model.optimizer] if getattr(model, "optimizer", None) else []
    fatal = [*obstacles.of_fit(model, chosen), *obstacles.of_optimizers(optimizers, chosen)]
    return [*fatal, *_hazards([model], optimizers, chosen)]


def check_backend() -> None:
    """Refuse a Keras that does not run on TensorFlow.

    Raises:
        BackendError: it runs on another backend.
    """
    if keras.backend.backend() != "tensorflow":
        raise BackendError(
            f"Keras runs on the {keras.backend.backend()!r} backend; distwatch watches "
            "TensorFlow training: set KERAS_BACKEND=tensorflow before keras is imported."
        )


def check_training(model: keras.Model) -> None:
    """Refuse a ``fit`` that Keras cannot do, and warn of what it does wrongly.

    Raises:
        UnsupportedTrainingError: with the reason and the remedy.
    """
    _tell(preflight(model))


def check_loop(models: Sequence[Any], optimizers: Sequence[Any], strategy: Any) -> None:
    """The same for a loop of one's own.

    Raises:
        UnsupportedTrainingError: with the reason and the remedy.
    """
    check_backend()
    fatal = [
        *obstacles.of_strategy(strategy),
        *obstacles.of_optimizers(optimizers, strategy),
    ]
    _tell([*fatal, *_hazards(models, optimizers, strategy)])


def _hazards(models: Sequence[Any], optimizers: Sequence[Any], strategy: Any) -> list[Trap]:
    if total_replicas(strategy) < 2:
        return []
    layers: Iterable[Any] = (
        layer for model in models for layer in model._flatten_layers(include_self=False)
    )
    return [*hazards.of_layers(layers), *hazards.of_optimizers(optimizers)]


def _tell(traps: Sequence[Trap]) -> None:
    for trap in traps:
        if trap.fatal:
            raise UnsupportedTrainingError(str(trap))
    if traps:
        listed = "\n".join(f"- {trap}" for trap in traps)
        warnings.warn(
            "this training runs into known faults of Keras (distwatch.preflight tells of the "
            f"evidence):\n{listed}",
            KnownTrapWarning,
            stacklevel=4,
        )
