"""Measuring, in a script's process, what watching costs its first fit.

In one training, stretches of steps take turns: in some the model's function is the one that
a `Watch` installs, in others the one that Keras would have made, and in others again the
watched one, but looking at nothing. So it is known what watching costs, and how much of that a
schedule does not save: the conditions in the graph, and kernels that are no longer fused. The
process ends with the measurement, so nothing that stands behind the fit, such as saving a
model, is done.

Rejected: comparing two processes step by step. Between starts of one script a step varies by
several percent, which is what is to be measured.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from distwatch.keras_calls import wrap_method
from distwatch.records import TRAIN
from distwatch.signals import Adjustable, Measuring
from distwatch.signals.schedules import every
from distwatch.training.measuring import ROUNDS, HostTime, Trial, estimate_of, stretch_length
from distwatch.training.retargeting import Retargeting
from distwatch.training.scripts.unobtrusive import Outcome, UnobtrusiveWatch
from distwatch.training.scripts.watched_fits import callbacks_in
from distwatch.training.watch import Watch

#: Executions before anything is timed: the first ones are not like the others.
_WARM_UP = 10

#: A stretch of steps takes at least so many seconds, if the number of steps allows it.
_SECONDS = 0.05

#: Rounds that are measured at most, and the width of an interval, in unwatched steps, with
#: which fewer are enough.
_MOST_ROUNDS, _NARROW = 5 * ROUNDS, 0.01

#: The kinds of stretches: unwatched, watched without a look, watched.
_KINDS = _, _IDLE, _LOOKING = (), (0,), (1,)

#: Seconds between two lines that tell how far the measurement is.
_TOLD_EVERY = 0.2


class MeasuredFit:
    """Measures the first fit of a script.

    Args:
        settings: as of `watch_fits`, and "measure": "what" (a key of `MEASUREMENTS`), the
            "steps" that it may take, the "budget", and the file "told" of its lines.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._callback: keras.callbacks.Callback | None = None
        wrap_method(keras.Model, "fit", self.call)

    def call(
        self, method: str, go: Callable[[], Any], model: Any, arguments: dict[str, Any]
    ) -> Any:
        """What runs in place of ``fit``, see `wrap_method`."""
        if self._callback is not None or not getattr(model, "compiled", False):
            return go()
        asked = self._settings["measure"]
        channel = Channel(Path(asked["told"]), asked["steps"])
        given = callbacks_in(arguments.get("callbacks"))
        if any(isinstance(each, Watch) for each in given):
            channel.refuse(
                "its first fit has a Watch of its own; take that out, and name what it watches "
                "in a --config"
            )
        self._callback = MEASUREMENTS[asked["what"]](channel, self._settings)
        arguments["callbacks"] = [*given, self._callback]
        return go()

    def clean_up(self) -> None:
        """Do nothing: the process that reads the measurement removes its files."""

    def closing_lines(self) -> Iterator[str]:
        """Why nothing was measured, where the script comes to its end."""
        if self._callback is None:
            yield "the script called no fit of Keras."


class Channel:
    """The lines of a measurement, which another process reads, and the end of this one.

    Args:
        path: the file.
        steps: that may be taken.
    """

    def __init__(self, path: Path, steps: int) -> None:
        self.steps = steps
        self._path = path
        self._next = 0.0

    def progress(self, done: int) -> None:
        """Tell how many steps are done, now and then."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _TOLD_EVERY
            self._write({"done": done})

    def refuse(self, why: str) -> None:
        """End the process: it cannot be measured."""
        self.end({"refused": why})

    def end(self, result: dict[str, Any]) -> None:
        """End the process at once, with a result."""
        self._write(result)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)

    def _write(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class FirstSteps:
    """The time to the first step, and the memory that the first steps take at most."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self.result: dict[str, Any] = {}
        self.executions = 0

    def after_execution(self) -> None:
        """Count an execution that is just over."""
        self.executions += 1
        if self.executions == 1:
            wait_for_devices()
            self.result["first_step"] = time.perf_counter() - self._begun
        elif self.executions == _WARM_UP:
            self.result["memory"] = peak_memory()


class UnwatchedFit(keras.callbacks.Callback):
    """Measures the first steps of a fit that is not watched."""

    def __init__(self, channel: Channel, settings: dict[str, Any]) -> None:
        super().__init__()
        self._channel = channel
        self._first = FirstSteps()
        self._done, self._last = 0, -1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Batches are counted from zero again."""
        self._last = -1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count an execution, and the steps in it."""
        self._done, self._last = self._done + batch - self._last, batch
        self._first.after_execution()
        self._channel.progress(self._done)
        if self._first.executions == _WARM_UP:
            self._channel.end(self._first.result)

    def on_train_end(self, logs: Any = None) -> None:
        """Refuse a fit that is over already."""
        self._channel.refuse(too_short(self._done, self._channel.steps))


class _MeasuringWatch(UnobtrusiveWatch):
    """A Watch that ends the process with what it measured."""

    #: What of a configuration's arguments the measurement leaves out: what acts on the
    #: training or on its folders, and a budget, whose measurements would be measured, too.
    _LEFT_OUT = ("store", "rules", "max_overhead", "overwrite", "resume", "strict")

    def __init__(self, channel: Channel, settings: dict[str, Any], **further: Any) -> None:
        self._channel = channel
        kept = {
            name: given
            for name, given in settings["arguments"].items()
            if name not in self._LEFT_OUT
        }
        arguments = {**kept, "phases": [TRAIN], "store": settings["store"], **further}
        super().__init__(Outcome("fit"), lambda line: None, **arguments)

    @property
    def _retargeting(self) -> Retargeting | None:
        return self._current.retargeting(TRAIN)

    def update_outcome(self) -> None:
        """End the process if the watching has ended."""
        super().update_outcome()
        if self.outcome.reason:
            self._channel.refuse(f"its first fit is not watched: {self.outcome.reason}")

    def end(self, result: dict[str, Any]) -> None:
        """Close the run, and end the process with a result."""
        super().on_train_end()
        self._channel.end({**result, "run": str(self.path)})


class WatchedFit(_MeasuringWatch):
    """Measures the first steps of a fit, and then a step, watched and unwatched by turns."""

    def __init__(self, channel: Channel, settings: dict[str, Any]) -> None:
        super().__init__(channel, settings)
        self._first = FirstSteps()
        #: Say whether the next step is watched without a look, and whether it is watched.
        self._idle, self._looking = Adjustable(every(1)), Adjustable(every(1))
        self._trial: Trial | None = None
        self._host = HostTime()
        self._epoch_ends: list[float] = []
        self._paces: list[float] = []
        self._done = 0
        #: Steps that were looked at as is asked for.
        self._looked = 0
        #: When the last execution could begin; None where something else came in between.
        self._left: float | None = None

    @property
    def _watches(self) -> bool:
        return self._looks or self._idle.measuring is not Measuring.OFF

    @property
    def _looks(self) -> bool:
        return self._looking.measuring is not Measuring.OFF

    def _expects(self, phase: str) -> bool:
        """Have Keras's own function called for the steps that are not watched."""
        return self._watches

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Time the execution, and decide whether the next one is watched."""
        steps = batch - self._last.get(TRAIN, -1)
        trial = self._trial
        if trial is not None and trial.is_complete_with(steps):
            wait_for_devices()
        entered, drains = time.perf_counter(), self._drains
        seconds = None if self._left is None else entered - self._left
        watched = self._watches
        if watched:
            super().on_train_batch_end(batch, logs)
            self._host.steps += steps
            self._host.add(time.perf_counter() - entered, drained=self._drains > drains)
            self._looked += steps * self._looks
        self._last[TRAIN] = batch
        self._done += steps
        self._channel.progress(self._done)
        self._first.after_execution()
        if trial is None:
            self._warm_up(seconds, steps)
        elif trial.add(steps, seconds):
            if self._tells_enough(trial):
                self._end_with(trial)
            trial.go_on()
        elif self._done >= self._channel.steps:
            self._end_with(trial)
        self._look()
        self._left = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note that something else than a step came."""
        self._left = None
        super().on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Time what the watching does at the end of an epoch."""
        entered = time.perf_counter()
        super().on_epoch_end(epoch, logs)
        self._epoch_ends.append(time.perf_counter() - entered)

    def on_test_begin(self, logs: Any = None) -> None:
        """Note that something else than a step comes."""
        self._left = None
        super().on_test_begin(logs)

    def on_train_end(self, logs: Any = None) -> None:
        """End with what there is: the fit is over before the measurement is."""
        if self._trial is None:
            self._channel.refuse(too_short(self._done, self._channel.steps))
        else:
            self._end_with(self._trial)

    @property
    def _drains(self) -> int:
        return self._current.drains(TRAIN)

    def _warm_up(self, seconds: float | None, steps: int) -> None:
        """Let first the watched function and then the other one do some executions."""
        if self._first.executions == _WARM_UP:
            self._idle.measuring = self._looking.measuring = Measuring.OFF
        elif self._first.executions > _WARM_UP + 1 and seconds is not None:
            self._paces.append(seconds / steps)
            if len(self._paces) == _WARM_UP:
                self._begin_trial(statistics.median(self._paces))

    def _look(self) -> None:
        """Look in the next step, if it is watched, or do not."""
        if self._retargeting is not None:
            self._retargeting.look(self._looks)

    def _begin_trial(self, pace: float) -> None:
        length = stretch_length([] if self._retargeting is None else self._retargeting.cadences)
        most = (self._channel.steps - self._done) // (len(_KINDS) * ROUNDS)
        while length * pace < _SECONDS and 2 * length <= most:
            length *= 2
        self._host = HostTime(self._host.has_drained)
        self._trial = Trial(
            [self._idle, self._looking], self._done, length=length, together=False
        )

    def _tells_enough(self, trial: Trial) -> bool:
        found = estimate_of(trial.costs()[_LOOKING])
        narrow = found.high - found.low <= _NARROW
        return narrow or len(trial.rounds) >= _MOST_ROUNDS or self._done >= self._channel.steps

    def _end_with(self, trial: Trial) -> None:
        trial.drop_incomplete()
        if not trial.rounds:
            self._channel.refuse(too_short(self._done, self._channel.steps))
        # The usual one: the first is compiled, and takes long.
        ends = self._epoch_ends
        at_ends = len(ends) * statistics.median(ends) / self._done if ends else 0.0
        self.end(
            {
                **self._first.result,
                "step": trial.pace,
                "added": trial.costs()[_LOOKING],
                "idle": trial.costs()[_IDLE],
                "host": self._host.per_step() + at_ends,
                "steps": trial.steps,
                "looked": self._looked,
                "replicas": self.model.distribute_strategy.num_replicas_in_sync,
            }
        )


class BudgetedFit(_MeasuringWatch):
    """Has a budget measure what the looking at each selector's signals costs."""

    def __init__(self, channel: Channel, settings: dict[str, Any]) -> None:
        super().__init__(channel, settings, max_overhead=settings["measure"]["budget"])
        self._done = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """End when the budget has decided."""
        self._done += batch - self._last.get(TRAIN, -1)
        super().on_train_batch_end(batch, logs)
        self._channel.progress(self._done)
        costs = [] if self._retargeting is None else self._retargeting.costs
        if costs or self._done >= self._channel.steps:
            self.end({"units": [each._asdict() for each in costs]})

    def on_train_end(self, logs: Any = None) -> None:
        """End without a result: the fit is over before the measurement is."""
        self.end({"units": []})


MEASUREMENTS: dict[str, Callable[[Channel, dict[str, Any]], keras.callbacks.Callback]] = {
    "unwatched": UnwatchedFit,
    "watched": WatchedFit,
    "signals": BudgetedFit,
}


def wait_for_devices() -> None:
    """Return when the devices have done what they were given."""
    tf.test.experimental.sync_devices()


def peak_memory() -> int | None:
    """The most bytes of memory that this process has had; None where that is unknown."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def too_short(done: int, most: int) -> str:
    """Why nothing could be measured in a fit.

    Args:
        done: the steps that were done.
        most: those that could be.
    """
    if done >= most:
        return (
            f"--steps {most} are too few to measure its first fit; give more of them, or "
            "another schedule"
        )
    return (
        f"its first fit is over after {done} steps, too few to measure; let it train for more "
        "epochs, or on more data"
    )
