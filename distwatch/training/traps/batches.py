"""Data that Keras cannot spread over replicas, or not rightly: refused, said, explained."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distwatch.errors import UnsupportedTrainingError
from distwatch.training.strategies import local_devices, total_replicas
from distwatch.training.traps import hazards
from distwatch.training.traps.kinds import Trap

#: Not the transposed ones, which can.
_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)

_UNEVEN_KINDS = (tf.RaggedTensorSpec, tf.SparseTensorSpec, tf.RaggedTensor, tf.SparseTensor)


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


def check_last_batch(
    model: keras.Model, x: Any, *, batch_size: int | None, validation_split: float
) -> None:
    """Refuse a last batch that leaves a replica without rows where that ends a training.

    The arguments are those of `check_data`. TensorFlow's convolutions, measured with 2.21,
    give no rows another shape on CPUs than some, at which their gradients fail; the other
    layers can do without rows.

    Raises:
        UnsupportedTrainingError: with the reason and the remedy.
    """
    devices = local_devices(model.distribute_strategy)
    replicas = len(devices)
    leaves = keras.tree.flatten(x)
    shape = getattr(leaves[0], "shape", None) if leaves and x is not None else None
    if replicas < 2 or not shape or shape[0] is None or not _convolves_on_cpus(model, devices):
        return
    rows = int(shape[0] * (1.0 - validation_split)) % (batch_size or 32)
    # Each replica is given as many as the first one, as long as there are any.
    each = -(-rows // replicas)
    if rows and -(-rows // each) < replicas:
        raise UnsupportedTrainingError(
            f"the last batch has {rows} rows, which leaves one of {replicas} replicas without "
            "any, and TensorFlow's convolutions fail on a CPU without rows: use another batch "
            f"size, or leave {rows} rows out."
        )


def _convolves_on_cpus(model: keras.Model, devices: tuple[str, ...]) -> bool:
    on_cpus = any(tf.DeviceSpec.from_string(d).device_type == "CPU" for d in devices)
    layers = model._flatten_layers(include_self=False)
    return on_cpus and any(isinstance(layer, _CONVOLUTIONS) for layer in layers)


def data_hazards(
    model: keras.Model, x: Any, *, batch_size: int | None, validation_split: float
) -> list[Trap]:
    """What the data makes go wrong quietly; the arguments are those of `check_data`."""
    replicas = total_replicas(model.distribute_strategy)
    if replicas < 2:
        return []
    leaves = keras.tree.flatten(x)
    shape = getattr(leaves[0], "shape", None) if leaves and x is not None else None
    rows = int(shape[0] * (1.0 - validation_split)) if shape and shape[0] else None
    return list(hazards.of_data(x, rows, batch_size or 32, replicas))


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
