"""Capturing what a train step computes: layers, gradients, the loss, without changing them.

While a step is traced, the ``call`` of each layer, ``compute_loss`` of the model and
``apply`` of the optimizer are patched on the *instance*; the patches store what passes
through them and return it unchanged.

Rejected: patching ``Layer.__call__`` on the class (replica threads of a mirrored
trace interleave and leave it patched; every other model is captured, too), and a
second functional model (computes twice and moves BatchNorm twice).
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from distwatch.training.strategies import replica_count
from distwatch.training.taps.instance_patches import InstancePatch, InstancePatches
from distwatch.training.taps.layer_paths import Place
from distwatch.training.taps.step_capture import Applied, StepCapture, current_graph
from distwatch.training.taps.subject import Subject

Tensor = Any

#: The private method in which Keras's optimizers add up gradients over the replicas.
_REDUCTION = "_all_reduce_sum_gradients"


class StepCapturer:
    """Captures train steps, one at a time on each thread.

    Args:
        subject: what is trained.
        places: the layers whose calls are captured.
        optimizers: whether gradients and updates are captured, too.
    """

    def __init__(self, subject: Subject, places: list[Place], *, optimizers: bool) -> None:
        self._local = threading.local()
        patches = [
            InstancePatch(p.layer, "call", functools.partial(self._capture_layer, p.path))
            for p in places
        ]
        patches += [
            InstancePatch(m, "compute_loss", self._capture_loss) for m in subject.models
        ]
        for each in subject.optimizers:
            # Weights are read around the optimizer, which is not free: only if asked for.
            capture = self._capture_optimizer if optimizers else self._note_gradients
            patches.append(InstancePatch(each, "apply", functools.partial(capture, each)))
            if optimizers and hasattr(each, _REDUCTION):
                patches.append(InstancePatch(each, _REDUCTION, self._capture_reduction))
        self._patches = InstancePatches(patches)

    @contextlib.contextmanager
    def capturing(self) -> Iterator[StepCapture]:
        """Capture what this thread does; threads of other replicas have their own capture."""
        capture, before = StepCapture(current_graph()), self._current
        self._local.capture = capture
        try:
            with self._patches.applied():
                yield capture
        finally:
            self._local.capture = before

    @property
    def _current(self) -> StepCapture | None:
        return getattr(self._local, "capture", None)

    def _capture_layer(self, path: str, original: Any, /, *args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        if self._current is not None:
            inputs = next(iter((*args, *kwargs.values())), None)
            self._current.add_call(path, inputs, outputs)
        return outputs

    def _capture_loss(self, original: Any, /, *args: Any, **kwargs: Any) -> Any:
        loss = original(*args, **kwargs)
        if self._current is not None and self._current.belongs(loss):
            # Keras divides it by the number of replicas, for the sum over them.
            self._current.losses.append(loss * replica_count())
        return loss

    def _capture_optimizer(
        self, optimizer: Any, original: Any, /, grads: Any, trainable_variables: Any = None
    ) -> Any:
        if self._current is None:
            return original(grads, trainable_variables)
        grads = list(grads)
        variables = list(trainable_variables or optimizer._trainable_variables)
        self._current.note_gradients(grads, variables)
        # Read before: applying may change the scale.
        factor = _unscaling(optimizer)
        local = [None if g is None else dense(g) * factor(g) for g in grads]
        before = [value_of(variable) for variable in variables]
        result = original(grads, trainable_variables)
        after = [value_of(variable) for variable in variables]
        reduced, self._current.reduced = self._current.reduced, {}
        self._current.applied.append(
            Applied(optimizer, variables, local, before, after, reduced)
        )
        return result

    def _note_gradients(
        self, optimizer: Any, original: Any, /, grads: Any, trainable_variables: Any = None
    ) -> Any:
        grads = list(grads)
        if self._current is not None:
            variables = list(trainable_variables or optimizer._trainable_variables)
            self._current.note_gradients(grads, variables)
        return original(grads, trainable_variables)

    def _capture_reduction(self, original: Any, /, grads_and_vars: Any) -> Any:
        reduced = list(original(grads_and_vars))
        if self._current is not None:
            for gradient, variable in reduced:
                if gradient is not None and self._current.belongs(dense(gradient)):
                    self._current.reduced[id(variable)] = dense(gradient)
        return reduced


def value_of(variable: Any) -> Tensor:
    """What a Keras variable holds now, on this replica."""
    return tf.convert_to_tensor(variable.value)


def dense(gradient: Any) -> Tensor:
    """A gradient as a tensor; that of an embedding comes as rows and their places."""
    return tf.convert_to_tensor(gradient)


def _unscaling(optimizer: Any) -> Any:
    """What undoes, for each gradient, Keras's division by replicas and any loss scale."""
    scale = getattr(optimizer, "loss_scale_factor", None)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        scale = optimizer.dynamic_scale if optimizer.built else optimizer.initial_scale
    undone = replica_count() / (1.0 if scale is None else tf.convert_to_tensor(scale))
    return lambda gradient: tf.cast(undone, gradient.dtype)
