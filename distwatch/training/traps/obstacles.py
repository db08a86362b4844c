"""What Keras 3 cannot do under a strategy, so that it is refused before the first step.

Each entry was measured with Keras 3.15 on TensorFlow 2.21 and is reproduced,
unwatched, by ``tests/training/test_obstacles.py``, so that the list stays true.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras

from distwatch.training.multiworker import multiworker_fit_is_fixed
from distwatch.training.strategies import StrategyFacts, has_copies, reduces_by_collectives
from distwatch.training.traps.kinds import Trap


def of_fit(model: keras.Model, strategy: Any, facts: StrategyFacts) -> Iterator[Trap]:
    """What keeps ``model.fit`` from working as it is set up."""
    yield from of_strategy(facts)
    if facts.workers > 1 and not multiworker_fit_is_fixed():
        yield Trap(
            "multiworker_fit",
            f"Keras 3's fit fails under {facts.kind} with several workers (keras#20585)",
            "its dry run feeds a worker's own rows to a reduction, and metrics are reduced "
            "along an axis that they do not have",
            "put it in 'with distwatch.compat.multiworker_fit():', or write a loop of your "
            "own with distwatch.watching",
            fatal=True,
        )
    several = len(facts.devices) > 1 and model.steps_per_execution > 1
    if several and facts.on_cpus and reduces_by_collectives(strategy):
        yield Trap(
            "virtual_cpus",
            f"{facts.kind} on virtual CPUs fails with steps_per_execution="
            f"{model.steps_per_execution} and its default reductions",
            'collectives inside the loop end in "You must feed a value for placeholder"',
            "pass cross_device_ops=tf.distribute.ReductionToOneDevice() to it, or make it "
            "with distwatch.testing.mirrored(n)",
            fatal=True,
        )
    if facts.mirrored and model.jit_compile and not model.run_eagerly:
        yield Trap(
            "jit",
            f"Keras cannot compile a {facts.kind}'s train step with XLA",
            'fit with jit_compile=True ends in an InvalidArgumentError; "auto" becomes False '
            "under a strategy",
            "compile the model with jit_compile=False",
            fatal=True,
        )


def of_strategy(facts: StrategyFacts) -> Iterator[Trap]:
    """Strategies that Keras 3 does not know."""
    if not facts.supported:
        yield Trap(
            "strategy",
            f"Keras 3 cannot train under {facts.kind}",
            "ParameterServerStrategy refuses Keras's datasets; CentralStorageStrategy fails "
            "with BatchNormalization or Dropout",
            "use MirroredStrategy or MultiWorkerMirroredStrategy",
            fatal=True,
        )


def of_scope(models: Iterable[Any], facts: StrategyFacts) -> Iterator[Trap]:
    """Models that were not made under the strategy that is to train them."""
    if not facts.mirrored or facts.total_replicas < 2:
        return
    for model in models:
        if not all(has_copies(variable.value) for variable in model.variables):
            yield Trap(
                "scope",
                f"model {model.name!r} was made outside the scope of the {facts.kind} "
                "that is to train it",
                "its optimizer ends in a bare AssertionError, or each replica's writes are "
                "added up in one variable",
                "make the model and its optimizer under strategy.scope()",
                fatal=True,
            )


def of_optimizers(optimizers: Iterable[Any], facts: StrategyFacts) -> Iterator[Trap]:
    """What an optimizer cannot do under a strategy, by ``fit`` or by a loop."""
    if not facts.mirrored:
        return
    for optimizer in optimizers:
        # A LossScaleOptimizer wraps the one that matters.
        yield from _of_optimizer(getattr(optimizer, "inner_optimizer", optimizer), facts.kind)


def _of_optimizer(optimizer: Any, kind: str) -> Iterator[Trap]:
    evidence = "a merge_call inside a condition ends in a RuntimeError while the step is traced"
    if getattr(optimizer, "gradient_accumulation_steps", None):
        yield Trap(
            "accumulation",
            f"Keras cannot accumulate gradients under {kind}",
            evidence,
            "leave gradient_accumulation_steps out and use a larger batch",
            fatal=True,
        )
    if getattr(optimizer, "use_ema", False) and getattr(
        optimizer, "ema_overwrite_frequency", None
    ):
        yield Trap(
            "ema_overwrite",
            f"Keras cannot overwrite weights with their moving average under {kind}",
            evidence,
            "leave ema_overwrite_frequency out and call "
            "optimizer.finalize_variable_values after training",
            fatal=True,
        )
