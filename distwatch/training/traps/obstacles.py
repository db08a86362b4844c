"""What Keras 3 cannot do under a strategy, so that it is refused before the first step.

Each entry was measured with Keras 3.15 on TensorFlow 2.21 and is reproduced,
unwatched, by ``tests/training/test_obstacles.py``, so that the list stays true.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from distwatch.training.multiworker import multiworker_fit_is_mended
from distwatch.training.strategies import (
    is_distributed,
    kind_of,
    local_devices,
    total_replicas,
    worker_of,
)
from distwatch.training.traps.kinds import Trap


def of_fit(model: keras.Model, strategy: Any) -> Iterator[Trap]:
    """What keeps ``model.fit`` from working as it is set up."""
    yield from of_strategy(strategy)
    if worker_of(strategy).count > 1:
        yield from _of_several_workers(model, strategy)
    if len(local_devices(strategy)) > 1 and model.steps_per_execution > 1:
        yield from _of_several_steps(model, strategy)
    if _is_mirrored(strategy) and model.jit_compile and not model.run_eagerly:
        yield Trap(
            "jit",
            f"Keras cannot compile a {kind_of(strategy)}'s train step with XLA",
            'fit with jit_compile=True ends in an InvalidArgumentError; "auto" becomes False '
            "under a strategy",
            "compile the model with jit_compile=False",
            fatal=True,
        )


def of_strategy(strategy: Any) -> Iterator[Trap]:
    """Strategies that Keras 3 does not know."""
    kind = kind_of(strategy)
    if "ParameterServer" in kind or "CentralStorage" in kind:
        yield Trap(
            "strategy",
            f"Keras 3 cannot train under {kind}",
            "ParameterServerStrategy refuses Keras's datasets; CentralStorageStrategy fails "
            "with BatchNormalization or Dropout",
            "use MirroredStrategy or MultiWorkerMirroredStrategy",
            fatal=True,
        )


def of_scope(models: Iterable[Any], strategy: Any) -> Iterator[Trap]:
    """Models that were not made under the strategy that is to train them."""
    if total_replicas(strategy) < 2:
        return
    for model in models:
        if not all(is_distributed(variable.value) for variable in model.variables):
            yield Trap(
                "scope",
                f"model {model.name!r} was made outside the scope of the {kind_of(strategy)} "
                "that is to train it",
                "its optimizer ends in a bare AssertionError, or each replica's writes are "
                "added up in one variable",
                "make the model and its optimizer under strategy.scope()",
                fatal=True,
            )


def of_optimizers(optimizers: Iterable[Any], strategy: Any) -> Iterator[Trap]:
    """What an optimizer cannot do under a strategy, by ``fit`` or by a loop."""
    if not _is_mirrored(strategy):
        return
    for optimizer in optimizers:
        # A LossScaleOptimizer wraps the one that matters.
        yield from _of_optimizer(getattr(optimizer, "inner_optimizer", optimizer), strategy)


def _of_optimizer(optimizer: Any, strategy: Any) -> Iterator[Trap]:
    kind = kind_of(strategy)
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


def _of_several_workers(model: keras.Model, strategy: Any) -> Iterator[Trap]:
    if not multiworker_fit_is_mended():
        yield Trap(
            "multiworker_fit",
            f"Keras 3's fit fails under {kind_of(strategy)} with several workers (keras#20585)",
            "its dry run feeds a worker's own rows to a reduction, and metrics are reduced "
            "along an axis that they do not have",
            "put it in 'with distwatch.compat.multiworker_fit():', or write a loop of your "
            "own with distwatch.watching",
            fatal=True,
        )


def _of_several_steps(model: keras.Model, strategy: Any) -> Iterator[Trap]:
    if _on_cpus(strategy) and _collective(strategy):
        yield Trap(
            "virtual_cpus",
            f"{kind_of(strategy)} on virtual CPUs fails with steps_per_execution="
            f"{model.steps_per_execution} and its default reductions",
            'collectives inside the loop end in "You must feed a value for placeholder"',
            "pass cross_device_ops=tf.distribute.ReductionToOneDevice() to it, or make it "
            "with distwatch.testing.mirrored(n)",
            fatal=True,
        )


def _is_mirrored(strategy: Any) -> bool:
    kinds = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
    return isinstance(strategy, kinds)


def _on_cpus(strategy: Any) -> bool:
    kinds = {tf.DeviceSpec.from_string(d).device_type for d in local_devices(strategy)}
    return kinds == {"CPU"}


def _collective(strategy: Any) -> bool:
    """Whether a mirrored strategy reduces by TensorFlow's collective operations."""
    if not isinstance(strategy, tf.distribute.MirroredStrategy):
        return True
    operations = strategy.extended._cross_device_ops or strategy.extended._get_cross_device_ops(
        tf.constant(0.0)
    )
    return type(operations).__name__ == "CollectiveAllReduce"
