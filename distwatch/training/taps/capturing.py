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
from distwatch.training.taps.learning_rates import current_rate
from distwatch.training.taps.loss_scaling import DIVIDING, LossScaling, all_terms_divide
from distwatch.training.taps.step_capture import (
    LOSS,
    OPTIMIZER,
    Applied,
    StepCapture,
    current_graph,
)
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
        rates: whether learning rates are.
    """

    def __init__(
        self, subject: Subject, places: list[Place], *, optimizers: bool, rates: bool
    ) -> None:
        self._local = threading.local()
        patches = [
            InstancePatch(p.layer, "call", functools.partial(self._capture_layer, p.path))
            for p in places
        ]
        patches += [
            InstancePatch(m, "compute_loss", functools.partial(self._capture_loss, m))
            for m in subject.models
        ]
        self._optimizers, self._rates = optimizers, rates
        for each in subject.optimizers:
            around = functools.partial(self._capture_optimizer, each)
            patches.append(InstancePatch(each, "apply", around))
            if optimizers and hasattr(each, _REDUCTION):
                patches.append(InstancePatch(each, _REDUCTION, self._capture_reduction))
        patches.append(InstancePatch(tf.GradientTape, "gradient", self._capture_tape))
        self._patches = InstancePatches(patches)
        #: Applied where there are several replicas, by whose number losses are divided.
        self._scaling_patches = InstancePatches(
            [InstancePatch(*place, self._capture_division) for place in DIVIDING]
        )

    @contextlib.contextmanager
    def capturing(self) -> Iterator[StepCapture]:
        """Capture what this thread does; threads of other replicas have their own capture."""
        capture, before = StepCapture(current_graph()), self._current
        scaling, replicas = getattr(self._local, "scaling", None), replica_count()
        # Both are there, or neither is.
        self._local.capture = capture
        self._local.scaling = LossScaling(capture.graph, replicas)
        self._local.differentiating = False
        several = self._scaling_patches.applied() if replicas > 1 else contextlib.nullcontext()
        try:
            with self._patches.applied(), several:
                yield capture
        finally:
            self._local.capture, self._local.scaling = before, scaling

    def log(self, name: str, value: Any) -> None:
        """Note a number that the step on this thread names, if it is captured."""
        if self._current is not None:
            self._current.log(name, value)

    @property
    def _current(self) -> StepCapture | None:
        return getattr(self._local, "capture", None)

    @property
    def _scaling(self) -> LossScaling:
        """How losses were scaled in the step that is captured."""
        scaling: LossScaling = self._local.scaling
        return scaling

    @contextlib.contextmanager
    def _noting(self) -> Iterator[StepCapture]:
        """Note something in a ``with`` block; what goes wrong there is no error of the step."""
        capture = self._current
        assert capture is not None
        try:
            yield capture
        except Exception as error:
            capture.error = capture.error or error

    def _capture_layer(self, path: str, original: Any, /, *args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        # What is computed again for a gradient (keras.RematScope) is no call of its own.
        if self._current is not None and not self._local.differentiating:
            with self._noting() as capture:
                inputs = next(iter((*args, *kwargs.values())), None)
                capture.add_call(path, inputs, outputs)
        return outputs

    def _capture_loss(self, model: Any, original: Any, /, *args: Any, **kwargs: Any) -> Any:
        loss = original(*args, **kwargs)
        if self._current is None:
            return loss
        with self._noting() as capture:
            if capture.in_reach(LOSS):
                scaling = self._scaling
                scaling.add_loss(loss, all_terms_divide(model))
                times = scaling.times_divided(loss)
                undone = loss * replica_count() ** times if times else tf.identity(loss)
                capture.losses.append(undone)
                if times is None:
                    capture.unknown_scale.add(id(undone))
        return loss

    def _capture_division(self, original: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if self._current is not None:
            with self._noting():
                self._scaling.add_divided(result)
        return result

    def _capture_tape(
        self, original: Any, /, tape: Any, target: Any, sources: Any, *more: Any, **kwargs: Any
    ) -> Any:
        if self._current is None:
            return original(tape, target, sources, *more, **kwargs)
        before, self._local.differentiating = self._local.differentiating, True
        try:
            gradients = original(tape, target, sources, *more, **kwargs)
        finally:
            self._local.differentiating = before
        with self._noting():
            self._scaling.add_gradients(target, sources, gradients)
        return gradients

    def _capture_optimizer(
        self, optimizer: Any, original: Any, /, grads: Any, trainable_variables: Any = None
    ) -> Any:
        if self._current is None:
            return original(grads, trainable_variables)
        grads, before = list(grads), None
        with self._noting() as capture:
            if capture.in_reach(OPTIMIZER):
                variables = list(trainable_variables or optimizer._trainable_variables)
                before = self._before_applying(capture, optimizer, grads, variables)
        result = original(grads, trainable_variables)
        if before is not None:
            with self._noting() as capture:
                after = [value_of(variable) for variable in before.variables]
                reduced, capture.reduced = capture.reduced, {}
                capture.applied.append(before._replace(after=after, reduced=reduced))
        return result

    def _before_applying(
        self, capture: StepCapture, optimizer: Any, grads: list[Any], variables: list[Any]
    ) -> Applied | None:
        """Note what an optimizer is given, and what the variables are, if that is watched."""
        capture.optimizers.append(optimizer)
        capture.undivided |= self._scaling.is_undivided_mean(grads)
        capture.note_gradients(grads, variables)
        # Weights are read around the optimizer, which is not free: only if asked for.
        if not self._optimizers:
            return None
        capture.handed += [part for gradient in grads for part in components(gradient)]
        local = self._local_gradients(capture, optimizer, grads)
        before = [value_of(variable) for variable in variables]
        rate = current_rate(optimizer) if self._rates else None
        return Applied(optimizer, rate, variables, local, before, after=[], reduced={})

    def _local_gradients(
        self, capture: StepCapture, optimizer: Any, grads: list[Any]
    ) -> list[Any]:
        """Gradients of this replica's own loss, as far as it is known how it was scaled."""
        # Read before the optimizer is applied, which may change the scale.
        scale = 1.0 / _loss_scale(optimizer)
        local: list[Any] = []
        for gradient in grads:
            if gradient is None:
                local.append(None)
                continue
            times = self._scaling.times_divided_gradient(gradient)
            undone = scale * replica_count() ** (times or 0)
            own = dense(gradient)
            if tf.is_tensor(undone) or undone != 1.0:
                own *= tf.cast(undone, own.dtype)
            local.append(own)
            if times is None:
                capture.unknown_scale.add(id(local[-1]))
        return local

    def _capture_reduction(self, original: Any, /, grads_and_vars: Any) -> Any:
        reduced = list(original(grads_and_vars))
        if self._current is not None and self._current.graph is current_graph():
            with self._noting() as capture:
                for gradient, variable in reduced:
                    if gradient is not None and capture.belongs(gradient):
                        capture.reduced[id(variable)] = dense(gradient)
                        capture.handed += components(gradient)
        return reduced


def value_of(variable: Any) -> Tensor:
    """What a Keras variable holds now, on this replica."""
    return tf.convert_to_tensor(variable.value)


def dense(gradient: Any) -> Tensor:
    """A gradient as a tensor; that of an embedding comes as rows and their places."""
    return tf.convert_to_tensor(gradient)


def components(gradient: Any) -> list[Tensor]:
    """The tensors that a gradient consists of; none of None."""
    if isinstance(gradient, tf.IndexedSlices):
        return [gradient.values, gradient.indices]
    return [] if gradient is None else [gradient]


def _loss_scale(optimizer: Any) -> Any:
    """What the optimizer multiplied the loss by, against underflow."""
    scale = getattr(optimizer, "loss_scale_factor", None)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        scale = optimizer.dynamic_scale if optimizer.built else optimizer.initial_scale
    return 1.0 if scale is None else tf.convert_to_tensor(scale)
