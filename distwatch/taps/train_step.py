"""Putting the listening into a model's train function, and taking it out again.

Keras builds its train function from ``model.train_step`` when ``fit`` begins, and
keeps it. For the length of one fit the model gets a train function of the same
making whose step also hands what was heard to a recorder. Nothing else of the
model is touched, and the kept function is put back afterwards.

Under ``jit_compile=True`` the step itself is compiled as before, with the heard
tensors among its results; the recording stays outside, since XLA fixes the shape
of every variable while the reference's number of rows changes from batch to batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import keras
import tensorflow as tf

from distwatch.errors import WatcherError
from distwatch.recorder import Fed
from distwatch.taps.covers import restore
from distwatch.taps.plan import Given, Heard, Taps

Tensor = Any


class StepRecorder(Protocol):
    """What takes the tensors of a step, on each replica, inside the graph."""

    def record(self, fed: list[Fed], iteration: Tensor) -> None: ...


class WatchedTraining:
    """A model's training for the length of one fit, heard by ``taps``.

    Args:
        model: the compiled model.
        taps: what listens to it.
        recorder: makes, from what the first step was heard to put out, the
            recorder that takes every step's tensors.
        failed: told of an error in the watching of a step; it may raise.
    """

    def __init__(
        self,
        model: keras.Model,
        taps: Taps,
        recorder: Callable[[Heard], StepRecorder],
        failed: Callable[[Exception], None],
    ) -> None:
        self._model = model
        self._taps = taps
        self._make_recorder = recorder
        self._failed = failed
        self._heard: Heard | None = None
        self._recorder: StepRecorder | None = None
        self._compiled = bool(model.jit_compile) and not model.run_eagerly
        self._step = model.train_step
        self._forward = self._hear
        if self._compiled:
            self._forward = tf.function(
                self._hear, jit_compile=True, reduce_retracing=True, autograph=False
            )

    def install(self) -> None:
        """Give the model a train function that is heard."""
        model = self._model
        self._kept = model.train_function
        jit_compile = model._jit_compile
        own = model.__dict__.get("train_step")
        model.__dict__["train_step"] = self.train_step
        # The step is compiled here, inside, and must not be compiled again around
        # its recording. The private attribute: setting the property has effects.
        model._jit_compile = False
        try:
            model.make_train_function(force=True)
        finally:
            model._jit_compile = jit_compile
            restore(model, "train_step", own)
        self._installed = model.train_function

    @property
    def in_place(self) -> bool:
        """Whether the model still trains by the function that is heard."""
        return self._model.train_function is self._installed

    def remove(self) -> None:
        """Put the model's own train function back."""
        if self.in_place:
            self._model.train_function = self._kept

    def train_step(self, data: Any) -> Any:
        """One step on one replica, heard and recorded."""
        result, given = self._forward(data)
        try:
            self._record(given)
        except Exception as error:
            self._failed(error)
        return result

    def _hear(self, data: Any) -> tuple[Any, Given]:
        with self._taps.listening(data) as notes:
            result = self._step(data)
        try:
            heard, given = self._taps.choose(notes)
            self._settle(heard)
        except Exception as error:
            self._failed(error)
            given = []
        return result, given

    def _settle(self, heard: Heard) -> None:
        if self._heard is None:
            self._heard = heard
            self._recorder = self._make_recorder(heard)
        elif heard.names != self._heard.names or heard.carriers != self._heard.carriers:
            changed = set(heard.names) ^ set(self._heard.names)
            names = ", ".join(sorted(changed)) or "shared tensors"
            raise WatcherError(
                "the model called other layers in a later trace of its train step than "
                f"in the first ({names} differ); only a fixed set of signals can be kept."
            )

    def _record(self, given: Given) -> None:
        if self._recorder is not None and given:
            self._recorder.record(self._taps.fed(given), self._iteration())

    def _iteration(self) -> Tensor:
        optimizer = getattr(self._model, "optimizer", None)
        if optimizer is None:
            return tf.constant(-1, tf.int64)
        return tf.cast(tf.convert_to_tensor(optimizer.iterations), tf.int64)
