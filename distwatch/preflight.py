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


def check_data(
    model: keras.Model, x: Any, *, batch_size: int | None, validation_split: float
) -> None:
    """Refuse data that Keras cannot spread over the replicas of this model.

    Args:
        model: the model that is to be trained.
        x: what ``fit`` is given as x.
        batch_size: as given to ``fit``; Keras takes 32 for None.
        validation_split: as given to ``fit``.

    Raises:
        UnsupportedTrainingError: with the reason and the remedy.
    """
    replicas = len(local_devices(model.distribute_strategy))
    if replicas < 2:
        return
    leaves = keras.tree.flatten(getattr(x, "element_spec", x))
    if any(isinstance(leaf, _UNEVEN_KINDS) for leaf in leaves):
        raise UnsupportedTrainingError(
            f"Keras cannot spread ragged or sparse inputs over {replicas} replicas: "
            "make them dense (to_tensor(), tf.sparse.to_dense) in the input pipeline."
        )
    rows = _rows_of_first_batch(x, leaves, batch_size, validation_split)
    if rows is not None and rows % replicas:
        raise UnsupportedTrainingError(
            f"Keras cannot spread a first batch of {rows} rows over {replicas} replicas: "
            f"use a batch size that {replicas} divides (a shorter last batch is fine)."
        )


def explain(model: keras.Model, error: BaseException) -> None:
    """Add a sentence to an error that Keras made of data it could not spread.

    The size of a dataset's first batch is not known before it is drawn, so this one
    cannot be refused beforehand.
    """
    replicas = len(local_devices(model.distribute_strategy))
    unlike = isinstance(error, tf.errors.InvalidArgumentError) and (
        "must have the same size and shape" in str(error)
    )
    if replicas > 1 and unlike:
        error.add_note(
            f"distwatch: Keras cannot spread a first batch over {replicas} replicas "
            f"that {replicas} does not divide; use another batch size."
        )


_UNEVEN_KINDS = (tf.RaggedTensorSpec, tf.SparseTensorSpec, tf.RaggedTensor, tf.SparseTensor)


def _rows_of_first_batch(
    x: Any, leaves: list[Any], batch_size: int | None, validation_split: float
) -> int | None:
    """As far as it is known without drawing a batch, which a generator gives once."""
    shape = getattr(leaves[0], "shape", None) if leaves else None
    if not shape or shape[0] is None:
        return None
    if hasattr(x, "element_spec"):
        return int(shape[0])
    return min(batch_size or 32, int(shape[0] * (1.0 - validation_split)))


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
