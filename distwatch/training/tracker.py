"""Tracker: a layer that knows its input of the batch before."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distwatch.errors import ConfigError
from distwatch.signals import check_reference
from distwatch.training import strategies
from distwatch.training.device.references import Reference, reference_of

Tensor = Any


@keras.saving.register_keras_serializable(package="distwatch")
class Tracker(keras.layers.Layer):
    """Marks a place in a model whose values are watched from batch to batch.

    A `Watch` records what passes a Tracker against the Tracker's own reference.
    With ``output="delta"`` the layer also *returns* the change against that reference,
    on each replica its own, while training: with "previous", the leading rows that a batch
    and the one before both have are subtracted, and rows without a counterpart (all of
    them in the first batch) come through as they are; with "batch_mean" the mean of the
    batch before is subtracted from every row. Outside training (validation,
    ``predict``, an exported model) the input comes through, and the memory of the
    training batches is not touched.

    The memory is no weight: it is neither saved, nor counted, nor cloned; a loaded
    model starts afresh.

    Args:
        reference: "previous" (the same replica's batch before), "batch_mean", "first",
            "ema(0.99)", "neighbour" (the next row of the batch) or "none" (a Watch then
            records the values themselves).
        output: "input" passes the input through, "delta" returns the change against the
            reference.

    Shapes: any (batch, ...), float or integer -> the same.

    Raises:
        ConfigError: unknown reference or output, or a delta of reference "none".
    """

    def __init__(
        self,
        *,
        reference: str = "previous",
        output: str = "input",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.watched_reference = check_reference(reference)
        if output not in ("input", "delta"):
            raise ConfigError(f"unknown output {output!r}: choose 'input' or 'delta'.")
        if output == "delta" and reference == "none":
            raise ConfigError(
                'output="delta" needs something to measure against: use reference="previous".'
            )
        self.output_mode = output
        # A plain object: Keras looks for variables in attributes, lists and dicts only.
        self._memory = _Memory(self.watched_reference)
        self.supports_masking = True
        # XLA fixes the shape of every variable at its first compilation, but the last
        # batch of an epoch is shorter. Keras asks this, falls back and says so.
        self.supports_jit = output == "input"
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Return the inputs, or in training with ``output="delta"`` their change."""
        if self.output_mode == "input" or not training or not _trains(inputs):
            return inputs
        return self._memory.exchange(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments, for Keras to save the layer."""
        return {
            **super().get_config(),
            "reference": self.watched_reference,
            "output": self.output_mode,
        }


class _Memory:
    """What each replica's batches are measured against, outside the model's weights."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._kept: strategies.PerReplica[Reference] = strategies.PerReplica()

    def exchange(self, inputs: Tensor) -> Tensor:
        """The change against the reference, which then takes these inputs into account."""
        kept = self._kept.get(lambda device: reference_of(self._kind, [inputs], device))
        change = kept.change(inputs)
        if kept.needs_step_before:
            kept.keep([inputs])
        if kept.needs_every_step:
            kept.follow([inputs])
        return tf.ensure_shape(change, inputs.shape)

    # A copied or pickled layer starts afresh.
    def __deepcopy__(self, _: Any) -> _Memory:
        return _Memory(self._kind)

    def __reduce__(self) -> Any:
        return (_Memory, (self._kind,))


def _trains(inputs: Tensor) -> bool:
    """Whether this call is a training step, and not one of Keras's dry runs."""
    # Keras builds layers in cross-replica context and on symbolic tensors, where a
    # per-replica variable has no value.
    return isinstance(inputs, tf.Tensor) and strategies.in_replica()
