"""Validation sets under names of their own: each is a phase, with metrics in each epoch."""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from distwatch.errors import UnwatchedWarning
from distwatch.phases import is_validation
from distwatch.records import TEST, TRAIN
from distwatch.text import printable
from distwatch.training.epoch_logs import numbers_of
from distwatch.training.session import Session

Rate = Callable[[], "float | None"]


class Validations:
    """The named validation sets of one fit.

    Args:
        model: what is trained.
        session: the fit's.
        recorded: whether the phase "test" was asked for, and with it the sets' steps.
        noted: whether the phase "train" was asked for, whose epochs have the sets' metrics.
        watched: makes and installs the function that a set's batches are recorded by, given
            the set's name and whether a batch is one of them.
        workers: how many processes train together.
        observer: the class of what records an evaluation of its own.
    """

    def __init__(
        self,
        model: keras.Model,
        session: Session,
        *,
        recorded: bool,
        noted: bool,
        watched: Callable[[str, Callable[[], bool]], None],
        workers: int,
        observer: type,
    ) -> None:
        self._model = model
        self._session = session
        self._recorded, self._noted = recorded, noted
        self._watched = watched
        self._workers, self._observer = workers, observer
        self._known: set[str] = set()
        self._told: set[str] = set()
        #: The set that is evaluated now, and whether its next batch is to come.
        self._now: str | None = None
        self._announced = False
        #: Whether it was said already that what is evaluated now is not recorded.
        self.is_told = False
        #: What the sets of this epoch came to.
        self._metrics: dict[str, float] = {}
        self._ended: tuple[int, dict[str, Any], Rate] | None = None

    def begin_epoch(self) -> None:
        """Forget what the sets of the last epoch came to."""
        self._metrics, self._ended = {}, None

    def end_epoch(self, number: int, logs: Mapping[str, Any], rate: Rate) -> None:
        """Note what the epoch came to; callbacks after the Watch's may still add sets."""
        # A callback may change the rate before the epoch is noted again.
        self._ended = number, dict(logs), functools.cache(rate)
        self._note()

    def validate(self, name: str, *data: Any, **options: Any) -> dict[str, Any]:
        """Evaluate a set, see `Watch.validate`."""
        data, options = _by_name(self._model, data, options)
        why = self._refusal(name, options.get("callbacks"))
        if why is not None:
            self._tell(f"validate({printable(repr(name))}): {why}")
            with self._evaluating(self._now, told=True):
                return _evaluate(self._model, *data, **options)
        recorded = self._is_recorded(name)
        if recorded:
            # Theirs may evaluate other data: none comes between ours and the batch.
            options["callbacks"] = [*_listed(options.get("callbacks")), _Steps(self, name)]
        with self._evaluating(name, told=not recorded):
            logs = _evaluate(self._model, *data, **options)
        self._metrics |= {f"{name}_{key}": value for key, value in numbers_of(logs).items()}
        if not self._noted:
            self._tell(_NO_EPOCHS)
        self._note()
        return logs

    @contextlib.contextmanager
    def _evaluating(self, name: str | None, *, told: bool) -> Iterator[None]:
        before = self._now, self.is_told
        self._now, self.is_told = name, told
        try:
            yield
        finally:
            self._now, self.is_told = before
            self._announced = False

    def announce(self) -> None:
        """Expect a batch of the set that is evaluated now."""
        self._announced = True

    def _takes(self, name: str) -> bool:
        """Whether a batch is one of a set: it was announced, and comes once."""
        taken = self._announced and self._now == name
        self._announced = self._announced and not taken
        return taken

    def after_steps(self, steps: int, name: str) -> None:
        """Count the steps of a set, and drain full rings."""
        self._session.after_steps(steps, name)

    def end(self, name: str) -> None:
        """Note how far a set is: its batches are done."""
        self._session.end_round(name)

    def _note(self) -> None:
        """Note the epoch once more, if it has ended."""
        if self._ended is not None:
            number, logs, rate = self._ended
            if taken := sorted(logs.keys() & self._metrics.keys()):
                self._tell(
                    f"{printable(', '.join(taken))}: the fit itself has metrics of these "
                    "names, which are kept; give the validation set another name."
                )
            self._session.note_epoch(number, {**self._metrics, **logs}, rate)

    def _refusal(self, name: str, callbacks: Any) -> str | None:
        if not is_validation(name):
            return (
                "this is no name of a validation set, so nothing of it is recorded: give 1 to "
                "40 of the characters a-z, 0-9 and _, a letter first; not the name of a phase, "
                'nothing that begins with "val_", and not "val", "validation", "evaluate" or '
                '"fit".'
            )
        if self._now is not None:
            return (
                f"the set {self._now!r} is being evaluated, so nothing of this one is "
                "recorded; evaluate one after the other."
            )
        if isinstance(callbacks, keras.callbacks.CallbackList):
            return "nothing of it is recorded: give callbacks as a list."
        if any(isinstance(each, self._observer) for each in _listed(callbacks)):
            return (
                "a Watch among its callbacks records it, and a batch is recorded once; call "
                "model.evaluate with that Watch, or leave it out."
            )
        if self._session.path is None:
            return "the fit has not begun, so nothing of it is recorded; call it after that."
        return None

    def _is_recorded(self, name: str) -> bool:
        """Whether a set's steps are recorded; at its first use, prepare for them."""
        if self._session.status.error is not None:
            return False
        if not self._recorded:
            self._tell(
                "the steps of named validation sets are not recorded, since phases has no "
                f"{TEST!r}; for these, pass a Watch(..., phases=['train', 'test'])."
            )
            return False
        if self._workers > 1:
            self._tell(
                "the steps of named validation sets are not recorded where several workers "
                "train; a Watch on one worker records them."
            )
            return False
        return name in self._known or self._prepare(name)

    def _prepare(self, name: str) -> bool:
        """Have a set's steps recorded; what goes wrong ends the watching, not the training."""
        try:
            self._session.add_phase(name)
            self._watched(name, functools.partial(self._takes, name))
        except Exception as error:
            self._session.fail(error)
            return False
        self._known.add(name)
        return True

    def _tell(self, message: str) -> None:
        """Warn, once: an error would end the training whose callback evaluates."""
        if message not in self._told:
            self._told.add(message)
            warnings.warn(message, UnwatchedWarning, stacklevel=4)


_NO_EPOCHS = (
    "the metrics of named validation sets are not recorded, since they are those of an epoch "
    f"of training, and phases has no {TRAIN!r}; to keep them, pass a "
    "Watch(..., phases=['train', 'test'])."
)


class _Steps(keras.callbacks.Callback):
    """Counts the steps of one evaluation of a set."""

    def __init__(self, validations: Validations, name: str) -> None:
        super().__init__()
        self._validations, self._name, self._last = validations, name, -1

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._validations.announce()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        # With steps_per_execution > 1 Keras names the last batch of each execution.
        steps, self._last = batch - self._last, batch
        self._validations.after_steps(steps, self._name)

    def on_test_end(self, logs: Any = None) -> None:
        self._validations.end(self._name)


def evaluate_unrecorded(model: keras.Model, *data: Any, **options: Any) -> dict[str, Any]:
    """Evaluate where no fit is watched any more: that ends no program, but is said."""
    warnings.warn(
        "validate: no fit is watched now, so nothing of it is recorded; call it in a callback "
        "of the fit, before its end, or give model.evaluate a Watch of its own.",
        UnwatchedWarning,
        stacklevel=3,
    )
    return _evaluate(model, *data, **options)


def _evaluate(model: keras.Model, *data: Any, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = model.evaluate(*data, **{**options, "return_dict": True})
    return found


def _listed(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return [*callbacks] if isinstance(callbacks, list | tuple) else [callbacks]


def _by_name(
    model: keras.Model, data: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What was given by its place, by its name, so that nothing is given twice.

    What does not fit stays as it is, for `evaluate` to refuse in its own words.
    """
    parameters = inspect.signature(model.evaluate).parameters.values()
    names = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    named = dict(zip(names, data, strict=False))
    if len(data) > len(names) or named.keys() & options.keys():
        return data, options
    return (), {**named, **options}
