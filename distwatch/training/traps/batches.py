"""Data that Keras cannot spread over replicas, or not correctly: errors and warnings."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from distwatch.errors import UnsupportedTrainingError
from distwatch.training.strategies import StrategyFacts
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


class FitData(NamedTuple):
    """What ``fit`` is given as data."""

    x: Any
    #: Rows a batch.
    batch_size: int
    #: The part of the rows that is kept for validation, from 0 to 1.
    validation_split: float

    @property
    def leaves(self) -> list[Any]:
        """The arrays, tensors or specs of ``x``."""
        x = getattr(self.x, "element_spec", self.x)
        return [] if x is None else list(keras.tree.flatten(x))

    @property
    def is_dataset(self) -> bool:
        """Whether it comes in batches, whose number is not known."""
        return hasattr(self.x, "element_spec")

    @property
    def rows(self) -> int | None:
        """Rows of the first array without those for validation, or of a dataset's batch.

        None where that is not known without drawing a batch, which a generator gives once.
        """
        shape = getattr(self.leaves[0], "shape", None) if self.leaves else None
        if not shape or shape[0] is None:
            return None
        return int(shape[0] if self.is_dataset else shape[0] * (1.0 - self.validation_split))


def check_data(data: FitData, facts: StrategyFacts) -> None:
    """Refuse data that Keras cannot spread over the replicas of this process.

    Raises:
        UnsupportedTrainingError: with the reason and the remedy.
    """
    replicas = len(facts.devices)
    if replicas < 2:
        return
    if any(isinstance(leaf, _UNEVEN_KINDS) for leaf in data.leaves):
        raise UnsupportedTrainingError(
            f"Keras cannot spread ragged or sparse inputs over {replicas} replicas: "
            "make them dense (to_tensor(), tf.sparse.to_dense) in the input pipeline."
        )
    first = data.rows
    if first is not None and not data.is_dataset:
        first = min(data.batch_size, first)
    if first is not None and first % replicas:
        raise UnsupportedTrainingError(
            f"Keras cannot spread a first batch of {first} rows over {replicas} replicas: "
            f"use a batch size that {replicas} divides (a shorter last batch is fine)."
        )


def check_last_batch(model: keras.Model, data: FitData, facts: StrategyFacts) -> None:
    """Refuse a last batch that leaves a replica without rows where that ends a training.

    TensorFlow's convolutions, measured with 2.21, give no rows another shape on CPUs than
    some, at which their gradients fail; the other layers can do without rows.

    Raises:
        UnsupportedTrainingError: with the reason and the remedy.
    """
    replicas = len(facts.devices)
    known = data.rows is not None and not data.is_dataset
    if replicas < 2 or not known or not _convolves_on_cpus(model, facts):
        return
    rows = (data.rows or 0) % data.batch_size
    # Each replica is given as many as the first one, as long as there are any.
    each = -(-rows // replicas)
    if rows and -(-rows // each) < replicas:
        raise UnsupportedTrainingError(
            f"the last batch has {rows} rows, which leaves one of {replicas} replicas without "
            "any, and TensorFlow's convolutions fail on a CPU without rows: use another batch "
            f"size, or leave {rows} rows out."
        )


def _convolves_on_cpus(model: keras.Model, facts: StrategyFacts) -> bool:
    layers = model._flatten_layers(include_self=False)
    return "CPU" in facts.device_types and any(isinstance(x, _CONVOLUTIONS) for x in layers)


def data_hazards(data: FitData, facts: StrategyFacts) -> list[Trap]:
    """What the data makes go wrong silently on several replicas."""
    if facts.total_replicas < 2:
        return []
    rows = None if data.is_dataset else data.rows
    return list(hazards.of_data(data.x, rows, data.batch_size, facts.total_replicas))
