"""The functions of a model that are watched for the length of one call: put in and taken out.

Which phases are watched, and when, is for `Watch` to say; how one function is watched is known
to `distwatch.training.taps`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from distwatch.config import WatchConfig
from distwatch.records import PHASES, TEST, TRAIN_ON_BATCH
from distwatch.training.session import Session
from distwatch.training.strategies import facts_of
from distwatch.training.taps import Steps, Subject, Taps, WatchedFunction, of_model


class WatchedFunctions:
    """The watched functions that are in a model now; true if there are any.

    Args:
        config: what is picked up in them.
    """

    def __init__(self, config: WatchConfig) -> None:
        self._config = config
        #: In the order in which they were installed.
        self._functions: list[WatchedFunction] = []

    def __bool__(self) -> bool:
        return bool(self._functions)

    @property
    def names(self) -> set[str]:
        """The model's attributes that hold them."""
        return {function.name for function in self._functions}

    @property
    def in_place(self) -> bool:
        """Whether the model still uses all of them."""
        return all(function.in_place for function in self._functions)

    def install(
        self,
        model: keras.Model,
        subject: Subject,
        session: Session,
        *,
        phases: Sequence[str],
        expects: Callable[[str], bool],
    ) -> None:
        """Watch a function for each phase, before Keras makes its own.

        Args:
            model: the compiled model.
            subject: the model with its optimizers; the session counts iterations by it, too.
            session: records what is picked up.
            phases: those that were asked for and happen in the call.
            expects: whether a batch that comes in a phase belongs to the call.

        Raises:
            UnknownSignalError, UnwatchableError: the signals cannot be watched.
        """
        # Validation begins when the training is under way, which nothing then may end.
        first = min(phases, key=PHASES.index)
        facts = facts_of(model.distribute_strategy)
        taps = {
            phase: Taps(subject, self._config, facts, phase, lenient=phase != first)
            for phase in phases
        }
        for phase in phases:
            steps = _steps(session, taps[phase], phase)
            # Keras calls no callback for train_on_batch.
            done = functools.partial(session.after_steps, 1, phase)
            by_hand = phase == TRAIN_ON_BATCH
            expected = functools.partial(expects, phase)
            self._put_in(
                WatchedFunction(
                    model, phase, steps, done=done if by_hand else None, expected=expected
                )
            )

    def add_validation(
        self, model: keras.Model, session: Session, name: str, expected: Callable[[], bool]
    ) -> None:
        """Have the batches of a validation set recorded by themselves, as a phase of its name.

        The fit is under way, so a signal that cannot be watched is left out.
        """
        facts = facts_of(model.distribute_strategy)
        taps = Taps(of_model(model), self._config, facts, TEST, lenient=True)
        steps = _steps(session, taps, name)
        function = WatchedFunction(model, TEST, steps, expected=expected)
        self._put_in(function, begun=True)

    def begin(self) -> None:
        """Note that the call is under way: from here on, nothing may end it."""
        for function in self._functions:
            function.begun = True

    def log(self, name: str, value: Any) -> None:
        """Note a number that a step names, in the function that captures the step."""
        for function in self._functions:
            function.log(name, value)

    def remove(self) -> None:
        """Put the model's own functions back, the last one first."""
        while self._functions:
            self._functions.pop().remove()

    def _put_in(self, function: WatchedFunction, *, begun: bool = False) -> None:
        function.install()
        function.begun = begun
        self._functions.append(function)


def _steps(session: Session, taps: Taps, phase: str) -> Steps:
    recorder = functools.partial(session.make_recorder, phase=phase)
    failed = functools.partial(session.fail, phase=phase)
    return Steps(taps, recorder, failed, session.training_goes_on)
