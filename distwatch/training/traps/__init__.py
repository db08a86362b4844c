"""Known traps: what Keras 3 cannot do, or does wrongly, under a strategy.

``obstacles`` end a training, so they are refused before it begins; ``hazards`` change its
results without a word, so they are said. ``batches`` is about the data.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from distwatch.errors import BackendError, KnownTrapWarning, UnsupportedTrainingError
from distwatch.training.strategies import is_distributed, total_replicas
from distwatch.training.traps import hazards, obstacles
from distwatch.training.traps.batches import check_data, check_last_batch, data_hazards, explain
from distwatch.training.traps.kinds import Trap

__all__ = [
    "Trap",
    "check_backend",
    "check_fit",
    "check_loop",
    "check_train_on_batch",
    "explain",
    "preflight",
]


def preflight(model: keras.Model, strategy: Any = None) -> list[Trap]:
    """List the known traps that a model runs into when it is trained by ``fit``.

    >>> for trap in distwatch.preflight(model):        # doctest: +SKIP
    ...     print(trap)

    A `Watch` refuses those that are fatal, and warns of the others, before the first
    step. It also looks at the data that ``fit`` is given.

    Args:
        model: a compiled model.
        strategy: what it is going to be trained under; None for the one that it was made
            under.

    Returns:
        Those that end the training first. An empty list says that none is known.
    """
    check_backend()
    chosen = model.distribute_strategy if strategy is None else strategy
    optimizer = getattr(model, "optimizer", None)
    optimizers = [] if optimizer is None else [optimizer]
    fatal = [
        *obstacles.of_fit(model, chosen),
        *obstacles.of_scope([model], chosen),
        *obstacles.of_optimizers(optimizers, chosen),
    ]
    losses = keras.tree.flatten(getattr(model, "loss", None))
    return [*fatal, *_hazards([model], optimizers, losses, chosen)]


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


def check_fit(model: keras.Model, arguments: dict[str, Any], *, trains: bool) -> None:
    """Refuse a ``fit`` that Keras cannot do, and warn of what it does wrongly.

    Args:
        model: the compiled model.
        arguments: what ``fit`` is given.
        trains: False for ``evaluate`` and ``predict``, which run into fewer.

    Raises:
        UnsupportedTrainingError: with the reason and the remedy.
    """
    traps = preflight(model)
    _refuse(traps)
    data = {
        "batch_size": arguments.get("batch_size"),
        "validation_split": arguments.get("validation_split", 0.0),
    }
    check_data(model, arguments.get("x"), **data)
    if trains:
        check_last_batch(model, arguments.get("x"), **data)
        _warn([*traps, *data_hazards(model, arguments.get("x"), **data)])


def check_train_on_batch(model: keras.Model) -> None:
    """The same for ``train_on_batch``.

    Raises:
        UnsupportedTrainingError: with the reason and the remedy.
    """
    traps = preflight(model)
    if total_replicas(model.distribute_strategy) > 1:
        traps.append(hazards.of_train_on_batch())
    _refuse(traps)
    _warn(traps)


def check_loop(models: Sequence[Any], optimizers: Sequence[Any], strategy: Any) -> None:
    """The same for a loop of one's own.

    Raises:
        UnsupportedTrainingError: with the reason and the remedy.
    """
    check_backend()
    _refuse(obstacles.of_strategy(strategy))
    _refuse(obstacles.of_scope(models, strategy))
    _refuse(obstacles.of_optimizers(optimizers, strategy))
    _warn(list(_hazards(models, optimizers, [], strategy)))


def _hazards(
    models: Sequence[Any], optimizers: Sequence[Any], losses: Sequence[Any], strategy: Any
) -> Iterator[Trap]:
    if total_replicas(strategy) < 2:
        return
    layers = [layer for model in models for layer in model._flatten_layers(include_self=False)]
    yield from hazards.of_layers(layers)
    yield from hazards.of_optimizers(optimizers)
    yield from hazards.of_losses(losses)
    yield from hazards.of_scopes(optimizers, is_distributed)


def _refuse(traps: Iterator[Trap] | Sequence[Trap]) -> None:
    for trap in traps:
        if trap.fatal:
            raise UnsupportedTrainingError(str(trap))


def _warn(traps: Sequence[Trap]) -> None:
    if not traps:
        return
    listed = "\n".join(f"- {trap}" for trap in traps)
    warnings.warn(
        "this training runs into known faults of Keras (distwatch.preflight tells of the "
        f"evidence):\n{listed}",
        KnownTrapWarning,
        stacklevel=_level_of_caller(),
    )


def _level_of_caller() -> int:
    """How far up the first frame is that is neither Keras's nor ours, from the caller's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_inside(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    return level


def _is_inside(module: str) -> bool:
    return module.startswith(("keras.", "distwatch."))
