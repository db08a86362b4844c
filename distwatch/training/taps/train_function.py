"""Putting the capturing into a model's train function, and taking it out again.

Keras builds its train function from ``model.train_step`` when ``fit`` begins, and
keeps it; so with ``test_step`` and ``predict_step``. For the length of one fit the
model gets a function of the same making whose step also gives what was captured to a
recorder. Nothing else of the model is touched, and the kept function is put back
afterwards.

Under ``jit_compile=True`` the step itself is compiled as before, with the captured
tensors among its results; the recording stays outside, since XLA fixes the shape
of every variable while the reference's number of rows changes from batch to batch.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from distwatch.records import PREDICT, TEST, TRAIN, TRAIN_ON_BATCH
from distwatch.training.taps.instance_patches import restore
from distwatch.training.taps.plan import TracedTensors
from distwatch.training.taps.steps import Steps

#: Phase -> the model's step, its function, and what makes the function.
_NAMES = {
    TRAIN: ("train_step", "train_function", "make_train_function"),
    TRAIN_ON_BATCH: ("train_step", "train_function", "make_train_function"),
    TEST: ("test_step", "test_function", "make_test_function"),
    PREDICT: ("predict_step", "predict_function", "make_predict_function"),
}


class WatchedFunction:
    """One of a model's functions, watched for the length of one fit.

    Args:
        model: the compiled model.
        phase: which of its functions.
        steps: captures and records.
        done: called, in the phase "train_on_batch", after each batch.
        expected: whether a batch is one of those that are to be recorded; others go to the
            function that the model had.
    """

    def __init__(
        self,
        model: keras.Model,
        phase: str,
        steps: Steps,
        *,
        done: Callable[[], None] | None = None,
        expected: Callable[[], bool] = lambda: True,
    ) -> None:
        self._model = model
        self._phase = phase
        self._steps = steps
        self._done = done
        self._expected = expected
        #: Whether its call of ``fit`` is under way.
        self.begun = False
        #: The model's attribute that holds the function.
        self._step_name, self.name, self._maker = _NAMES[phase]
        self._step = getattr(model, self._step_name)
        self._made: Any = None
        self._forward = self._capture
        if below := self._beside():
            # Its step is watched, too, and compiled in there if at all.
            self._step = below._watched_step
        elif model.jit_compile and not model.run_eagerly:
            self._forward = tf.function(
                self._capture, jit_compile=True, reduce_retracing=True, autograph=False
            )

    def log(self, name: str, value: Any) -> None:
        """Note a number that the step on this thread names, if it is captured here."""
        self._steps.log(name, value)

    def install(self) -> None:
        """Give the model a function that is watched."""
        self._kept = getattr(self._model, self.name)
        self._own_step = self._model.__dict__.get(self._step_name)
        # The step is compiled in here, and must not be compiled again around its
        # recording.
        self._watched = self._made_of(self._watched_step, jit_compile=False)
        self._installed = self._predict if self._phase == PREDICT else self._call
        setattr(self._model, self.name, self._installed)

    @property
    def in_place(self) -> bool:
        """Whether the model still uses the watched function."""
        return self in self._stack()

    def remove(self) -> None:
        """Put the model's own function back."""
        stack = list(self._stack())
        if self in stack[:1]:
            setattr(self._model, self.name, self._kept)
        elif self in stack:
            stack[stack.index(self) - 1]._kept = self._kept
        self._steps.forget_graphs()

    def _stack(self) -> Iterator[WatchedFunction]:
        """The watched functions of the model in this place, the last one first."""
        function = getattr(self._model, self.name)
        while isinstance(watched := getattr(function, "__self__", None), WatchedFunction):
            yield watched
            function = watched._kept

    def _beside(self) -> WatchedFunction | None:
        """Another Watch's function of the same call and phase."""
        same = (each for each in self._stack() if each._phase == self._phase)
        return next((each for each in same if not each.begun), None)

    def _call(self, iterator: Any) -> Any:
        # Keras gives what train_on_batch and test_on_batch work on as a generator, and
        # what fit and evaluate work on as an iterator of a dataset.
        by_hand = isinstance(iterator, types.GeneratorType)
        if by_hand is not (self._phase == TRAIN_ON_BATCH) or not self._expected():
            return self._unwatched()(iterator)
        result = self._watched(iterator)
        self._steps.check()
        if self._done is not None:
            self._done()
        return result

    def _predict(self, data: Any) -> Any:
        if not self._expected():
            return self._unwatched()(data)
        # This function asks for the model's step anew whenever it is traced.
        self._model.__dict__[self._step_name] = self._watched_step
        try:
            result = self._watched(data)
            self._steps.check()
            return result
        finally:
            restore(self._model, self._step_name, self._own_step)

    def _unwatched(self) -> Any:
        """The function that the model had, or would have made by now."""
        if self._kept is not None:
            return self._kept
        if self._made is None:
            self._made = self._made_of(self._step, jit_compile=self._model._jit_compile)
        return self._made

    def _made_of(self, step: Callable[[Any], Any], *, jit_compile: Any) -> Any:
        """The function that the model makes of a step."""
        model = self._model
        before, own_compile = getattr(model, self.name), model._jit_compile
        model.__dict__[self._step_name] = step
        # The private attribute: setting the property has effects.
        model._jit_compile = jit_compile
        try:
            getattr(model, self._maker)(force=True)
            return getattr(model, self.name)
        finally:
            model._jit_compile = own_compile
            setattr(model, self.name, before)
            restore(model, self._step_name, self._own_step)

    def _watched_step(self, data: Any) -> Any:
        """One step on one replica, captured and recorded."""
        result, given = self._forward(data)
        self._steps.record(given, data)
        return result

    def _capture(self, data: Any) -> tuple[Any, TracedTensors | None]:
        with self._steps.capturing(data) as capture:
            result = self._step(data)
        return result, self._steps.choose(capture)
