"""What Keras's own ``fit`` cannot do under a strategy, said before it is tried.

Each entry was measured with Keras 3.15 on TensorFlow 2.21 and is reproduced,
unwatched, by ``tests/test_preflight.py``, so that the list stays true.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from distwatch.errors import BackendError, UnsupportedTrainingError
from distwatch.replicas import local_devices


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
    """Refuse a training that Keras cannot do, or that cannot be watched.

    Raises:
        UnsupportedTrainingError: with the reason and the remedy.
    """
    for reason in obstacles(model):
        raise UnsupportedTrainingError(reason)


def obstacles(model: keras.Model) -> Iterator[str]:
    """Name, one sentence each, what keeps ``model.fit`` from working as it is set up."""
    strategy = model.distribute_strategy
    kind = type(strategy).__name__
    if "ParameterServer" in kind or "CentralStorage" in kind:
        yield (
            f"Keras 3 cannot train under {kind}: use MirroredStrategy or "
            "MultiWorkerMirroredStrategy."
        )
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and (
        strategy.extended._in_multi_worker_mode()
    ):
        yield (
            "Keras 3's fit fails under MultiWorkerMirroredStrategy with several workers "
            "(keras#20585): use one worker per run, or a strategy.run loop."
        )
    if isinstance(strategy, tf.distribute.MirroredStrategy):
        yield from _mirrored_obstacles(model, strategy)


def _mirrored_obstacles(model: keras.Model, strategy: Any) -> Iterator[str]:
    if _on_virtual_cpus(strategy) and model.steps_per_execution > 1 and _collective(strategy):
        yield (
            "MirroredStrategy on virtual CPUs fails with steps_per_execution="
            f"{model.steps_per_execution} and its default reductions: pass "
            "cross_device_ops=tf.distribute.ReductionToOneDevice() to it, or make it "
            "with distwatch.testing.mirrored(n)."
        )
    if model.jit_compile and not model.run_eagerly:
        yield (
            "Keras cannot compile a MirroredStrategy's train step with XLA: "
            "compile the model with jit_compile=False."
        )
    optimizer = getattr(model, "optimizer", None)
    # A LossScaleOptimizer wraps the one that matters.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if getattr(optimizer, "gradient_accumulation_steps", None):
        yield (
            "Keras cannot accumulate gradients under MirroredStrategy: leave "
            "gradient_accumulation_steps out and use a larger batch."
        )
    if getattr(optimizer, "use_ema", False) and getattr(
        optimizer, "ema_overwrite_frequency", None
    ):
        yield (
            "Keras cannot overwrite weights with their moving average under "
            "MirroredStrategy: leave ema_overwrite_frequency out and call "
            "optimizer.finalize_variable_values after training."
        )


def _on_virtual_cpus(strategy: Any) -> bool:
    kinds = [tf.DeviceSpec.from_string(d).device_type for d in local_devices(strategy)]
    return len(kinds) > 1 and set(kinds) == {"CPU"}


def _collective(strategy: Any) -> bool:
    """Whether a mirrored strategy reduces by TensorFlow's collective operations."""
    operations = strategy.extended._cross_device_ops or strategy.extended._get_cross_device_ops(
        tf.constant(0.0)
    )
    return type(operations).__name__ == "CollectiveAllReduce"
