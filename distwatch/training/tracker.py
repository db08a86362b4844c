"""Tracker: a layer that knows its input of the batch before."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distwatch.errors import ConfigError
from distwatch.signals import check_reference
from distwatch.training import strategies
from distwatch.training.device.references import Previous

Tensor = Any


@keras.saving.register_keras_serializable(package="distwatch")
class Tracker(keras.layers.Layer):
    """Marks a place in a model whose values are watched from batch to batch.

    A `Watch` records what passes a Tracker against the Tracker's own reference.
    With ``output="delta"`` the layer also *returns* the change since the batch
    before, on each replica its own, while training: the leading rows that both
    batches have are subtracted, and rows without a counterpart (all of them in
    the first batch) come through as they are. Outside training (validation,
    ``predict``, an exported model) the input comes through, and the memory of the
    training batches is not touched.

    The memory is no weight: it is neither saved, nor counted, nor cloned; a loaded
    model starts afresh.

    Args:
        reference: "previous" (the same replica's batch before) or "none" (a Watch
            then records the values themselves).
        output: "input" passes the input through, "delta" returns the change.

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
        self._memory = _Memory()
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
    """The batch before on each replica, outside the model's weights."""

    def __init__(self) -> None:
        self._batches: strategies.PerReplica[Previous] = strategies.PerReplica()

    def exchange(self, inputs: Tensor) -> Tensor:
        """The change since the batch before, in whose place these inputs step."""
        batch = self._batches.get(lambda device: Previous([inputs], device))
        ((_, common),) = batch.pairs([inputs])
        before = tf.reshape(common, [-1])
        # A row without a counterpart is measured against nothing, that is zero.
        missing = tf.zeros([tf.size(inputs) - tf.size(before)], inputs.dtype)
        change = inputs - tf.reshape(tf.concat([before, missing], axis=0), tf.shape(inputs))
        batch.keep([inputs])
        return tf.ensure_shape(change, inputs.shape)

    # A copied or pickled layer starts afresh.
    def __deepcopy__(self, _: Any) -> _Memory:
        return _Memory()

    def __reduce__(self) -> Any:
        return (_Memory, ())


def _trains(inputs: Tensor) -> bool:
    """Whether this call is a training step, and not one of Keras's dry runs."""
    # Keras builds layers in cross-replica context and on symbolic tensors, where a
    # per-replica variable has no value.
    return isinstance(inputs, tf.Tensor) and strategies.in_replica()
