"""Known traps: what Keras 3 cannot do, or does wrongly, under a strategy.

``obstacles`` end a training with an error, so they are refused before its first step;
``hazards`` change its results silently, so a warning names them. ``batches`` is about the
data; ``explaining`` adds to errors that can be told by none of these.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from distwatch.errors import (
    BackendError,
    KnownTrapWarning,
    RoundingWarning,
    UnsupportedTrainingError,
)
from distwatch.training.strategies import StrategyFacts, facts_of, has_copies
from distwatch.training.traps import hazards, obstacles
from distwatch.training.traps.batches import (
    FitData,
    check_data,
    check_last_batch,
    data_hazards,
)
from distwatch.training.traps.explaining import explain
from distwatch.training.traps.kinds import Trap

__all__ = [
    "Trap",
    "check_backend",
    "check_fit",
    "check_loop",
    "check_train_on_batch",
    "explain",
    "preflight",
    "warn_of_undivided_loss",
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
    return _traps_of_fit(model, chosen, facts_of(chosen))


def _traps_of_fit(model: keras.Model, strategy: Any, facts: StrategyFacts) -> list[Trap]:
    optimizer = getattr(model, "optimizer", None)
    optimizers = [] if optimizer is None else [optimizer]
    fatal = [
        *obstacles.of_fit(model, strategy, facts),
        *obstacles.of_scope([model], facts),
        *obstacles.of_optimizers(optimizers, facts),
    ]
    losses = keras.tree.flatten(getattr(model, "loss", None))
    return [*fatal, *_hazards([model], optimizers, losses, facts)]


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
    facts = facts_of(model.distribute_strategy)
    traps = _traps_of_fit(model, model.distribute_strategy, facts)
    _refuse(traps)
    data = FitData(
        arguments.get("x"),
        arguments.get("batch_size") or 32,  # what Keras takes for None
        arguments.get("validation_split", 0.0),
    )
    check_data(data, facts)
    if trains:
        check_last_batch(model, data, facts)
        _warn([*traps, *data_hazards(data, facts)])
    _warn_of_xla(model)


def check_train_on_batch(model: keras.Model) -> None:
    """As `check_fit`, for ``train_on_batch``.

    Raises:
        UnsupportedTrainingError: with the reason and the remedy.
    """
    facts = facts_of(model.distribute_strategy)
    traps = _traps_of_fit(model, model.distribute_strategy, facts)
    if facts.total_replicas > 1:
        traps.append(hazards.of_train_on_batch())
    _refuse(traps)
    _warn(traps)
    _warn_of_xla(model)


def check_loop(models: Sequence[Any], optimizers: Sequence[Any], strategy: Any) -> None:
    """As `check_fit`, for a training loop that is not Keras's.

    Raises:
        UnsupportedTrainingError: with the reason and the remedy.
    """
    check_backend()
    facts = facts_of(strategy)
    _refuse(
        [
            *obstacles.of_strategy(facts),
            *obstacles.of_scope(models, facts),
            *obstacles.of_optimizers(optimizers, facts),
        ]
    )
    _warn(list(_hazards(models, optimizers, [], facts)))


def _hazards(
    models: Sequence[Any],
    optimizers: Sequence[Any],
    losses: Sequence[Any],
    facts: StrategyFacts,
) -> Iterator[Trap]:
    if facts.total_replicas < 2:
        return
    layers = [layer for model in models for layer in model._flatten_layers(include_self=False)]
    yield from hazards.of_layers(layers)
    yield from hazards.of_optimizers(optimizers)
    yield from hazards.of_losses(losses)
    yield from hazards.of_scopes(optimizers, has_copies)


def _warn_of_xla(model: keras.Model) -> None:
    if not model.jit_compile or model.run_eagerly:
        return
    warnings.warn(
        "jit_compile=True: XLA compiles the whole step anew with the watched tensors among its "
        "results, so the last digits of what this call computes (weights, losses, outputs) may "
        "differ from those of an unwatched one. Compile the model with jit_compile=False to "
        "have them equal.",
        RoundingWarning,
        stacklevel=_level_of_caller(),
    )


def _refuse(traps: Sequence[Trap]) -> None:
    for trap in traps:
        if trap.fatal:
            raise UnsupportedTrainingError(str(trap))


def warn_of_undivided_loss(replicas: int) -> None:
    """Warn, while the first step is traced, of a loss that is too large for its replicas."""
    warnings.warn(str(hazards.of_undivided_loss(replicas)), KnownTrapWarning, stacklevel=2)


def _warn(traps: Sequence[Trap]) -> None:
    if not traps:
        return
    listed = "\n".join(f"- {trap}" for trap in traps)
    warnings.warn(
        "this training runs into known faults of Keras (distwatch.preflight gives the "
        f"evidence):\n{listed}",
        KnownTrapWarning,
        stacklevel=_level_of_caller(),
    )


def _level_of_caller() -> int:
    """How far up the first frame is that is neither Keras's nor ours, from the caller's."""
    level, frame = 1, sys._getframe(1)
    inside = ("keras.", "distwatch.")
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(inside):
        level, frame = level + 1, frame.f_back
    return level
