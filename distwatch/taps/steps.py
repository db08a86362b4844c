"""One step, heard and recorded: the same for Keras's own steps and for a loop's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import tensorflow as tf

from distwatch.errors import WatcherError
from distwatch.recorder import Fed
from distwatch.taps.notes import Notes
from distwatch.taps.plan import Given, Heard, Taps

Tensor = Any


class StepRecorder(Protocol):
    """What takes the tensors of a step, on each replica, inside the graph."""

    def record(self, fed: list[Fed], iteration: Tensor) -> None: ...


class Steps:
    """Hears steps by ``taps``, and hands what they put out to a recorder.

    Args:
        taps: what listens.
        recorder: makes, from what the first step was heard to put out, the recorder
            that takes every step's tensors.
        failed: told of an error in the watching of a step; it may raise.
    """

    def __init__(
        self,
        taps: Taps,
        recorder: Callable[[Heard], StepRecorder],
        failed: Callable[[Exception], None],
    ) -> None:
        self._taps = taps
        self._make_recorder = recorder
        self._failed = failed
        self._heard: Heard | None = None
        self._recorder: StepRecorder | None = None

    @contextlib.contextmanager
    def listening(self, data: Any) -> Iterator[Notes]:
        """Hear one step on ``data``, on this thread."""
        with self._taps.listening(data) as notes:
            yield notes

    def choose(self, notes: Notes) -> Given:
        """The tensors of what is watched, among what was heard."""
        try:
            heard, given = self._taps.choose(notes)
            self._settle(heard)
        except Exception as error:
            # TensorFlow traces a step once more if variables were made in it, and gives
            # them their values in between; without that they would be useless for ever.
            if not self._taps.subject.is_being_made():
                self._failed(error)
            return []
        return given

    def record(self, given: Given) -> None:
        """Record them, in the graph that the step is in."""
        try:
            if self._recorder is not None and given:
                self._recorder.record(self._taps.fed(given), self._iteration())
        except Exception as error:
            self._failed(error)

    def _settle(self, heard: Heard) -> None:
        if self._heard is None:
            self._recorder = self._make_recorder(heard)
            self._heard = heard
        elif heard.names != self._heard.names or heard.carriers != self._heard.carriers:
            changed = set(heard.names) ^ set(self._heard.names)
            names = ", ".join(sorted(changed)) or "shared tensors"
            raise WatcherError(
                "the model called other layers in a later trace of its train step than "
                f"in the first ({names} differ); only a fixed set of signals can be kept."
            )

    def _iteration(self) -> Tensor:
        iterations = self._taps.subject.iterations
        if iterations is None:
            return tf.constant(-1, tf.int64)
        return tf.cast(tf.convert_to_tensor(iterations), tf.int64)
