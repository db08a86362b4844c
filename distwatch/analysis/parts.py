"""Parts of a run: some of its steps, or its steps merged to fewer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distwatch.errors import ConfigError
from distwatch.records import Ints
from distwatch.signals.schedules import MOST_STEP, is_whole
from distwatch.store import StoredRun
from distwatch.store.parts import ResampledTable, SelectedTable, Tables, View
from distwatch.text import listed, shortened

#: Tells which values of a coordinate are meant.
Match = Callable[[Ints], npt.NDArray[np.bool_]]


def select(stored: StoredRun, wanted: dict[str, Any]) -> StoredRun:
    """See `distwatch.Run.sel`; ``wanted`` is by the name of the coordinate."""
    given = {name: value for name, value in wanted.items() if value is not None}
    if not given:
        raise ConfigError("sel: name steps or epochs, such as step=slice(100, 200) or epoch=3.")
    matches = {name: _match(stored, name, value) for name, value in given.items()}
    called = ", ".join(f"{name}={_written(value)}" for name, value in given.items())

    def change(tables: Tables) -> Tables:
        chosen: Tables = {}
        for key, table in tables.items():
            here = np.ones(table.steps, bool)
            for name, match in matches.items():
                here &= match(table.read(name))
            chosen[key] = SelectedTable(table, np.flatnonzero(here))
        return chosen

    return stored.viewed(View(f"sel({called})", change))


def steps_before(stored: StoredRun, step: int, number: int) -> StoredRun:
    """See `distwatch.Run.before`."""
    if not is_whole(step) or not is_whole(number) or number < 1:
        raise ConfigError(
            f"before({shortened(step)}, steps={shortened(number)}): give the number of a step, "
            "and how many steps before it, from 1 on."
        )
    steps = [np.zeros(0, np.int64), *(each.read("step") for each in stored.tables.values())]
    recorded = np.unique(np.concatenate(steps))
    chosen = recorded[recorded < step][-number:]
    if not len(chosen):
        raise ConfigError(
            f"{stored.path} has no step before step {step}: it was the first that was looked "
            "at, or those before it were lost or thinned out; see run.lost and run.thinned."
        )
    return select(stored, {"step": slice(int(chosen[0]), int(step) - 1)})


def last_steps(stored: StoredRun, number: int) -> StoredRun:
    """The last rows of each table: at most so many."""

    def change(tables: Tables) -> Tables:
        return {
            key: SelectedTable(table, np.arange(max(0, table.steps - number), table.steps))
            for key, table in tables.items()
        }

    return stored.viewed(View(f"the last {number} steps", change))


def resample(stored: StoredRun, steps: Any) -> StoredRun:
    """See `distwatch.Run.resample`."""
    if not is_whole(steps) or not 1 <= steps <= MOST_STEP:
        raise ConfigError(f"resample(steps={shortened(steps)}): give a whole number from 1 on.")
    if resampled(stored):
        raise ConfigError(
            f"{_called(stored)}: its steps are merged already; resample the run itself."
        )

    def change(tables: Tables) -> Tables:
        # A checksum stands for the bits of one step.
        return {
            key: ResampledTable(table, int(steps))
            for key, table in tables.items()
            if not table.table.of_copies
        }

    return stored.viewed(View(f"resample(steps={steps})", change, int(steps)))


def resampled(stored: StoredRun) -> int:
    """How many steps are merged into one; 0 where none are."""
    return max((view.resampled for view in stored.views), default=0)


def refuse_part(stored: StoredRun, what: str) -> None:
    """Refuse what can be said of a whole run only.

    Raises:
        ConfigError: this is a part of one.
    """
    if stored.views:
        raise ConfigError(
            f"{_called(stored)} is a part of a run, and {what} of whole runs only: lost steps "
            "and the end of the writing are known of the whole. Ask the run itself: "
            "distwatch.open_run(run.path)."
        )


def _called(stored: StoredRun) -> str:
    return ".".join(["run", *(view.text for view in stored.views)])


def _match(stored: StoredRun, name: str, value: Any) -> Match:
    """What ``step=...`` or ``epoch=...`` means.

    Raises:
        ConfigError: it is no number, list or slice, or the run has none of a number.
    """
    if isinstance(value, slice):
        return _between(name, value)
    numbers = _numbers(value)
    if not numbers or not all(is_whole(each) and each >= 0 for each in numbers):
        raise ConfigError(
            f"sel({name}={shortened(value)}): give a number from 0 on, several, or a slice "
            "such as slice(100, 200), whose ends both belong to it."
        )
    every = [table.read(name) for table in stored.every_table.values()]
    known = np.unique(np.concatenate([np.zeros(0, np.int64), *every]))
    if absent := sorted({*numbers} - {*known[np.isin(known, numbers)].tolist()}):
        has = f"{len(known)}, from {known[0]} to {known[-1]}" if len(known) else "none"
        wrong = f"{_called(stored)} has no {name} {listed(absent[:5])}"
        raise ConfigError(f"{wrong}; it has {has}.")
    return lambda labels: np.isin(labels, numbers)


def _written(value: Any) -> str:
    """As somebody writes it: Python shows the stride of every slice."""
    return shortened(value, quoted=True).replace(", None)", ")")


def _numbers(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return value.ravel().tolist()
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return list(value) if is_list else [value]


def _between(name: str, wanted: slice) -> Match:
    ends = [each for each in (wanted.start, wanted.stop) if each is not None]
    stride = 1 if wanted.step is None else wanted.step
    if not all(is_whole(each) and each >= 0 for each in ends) or not (
        is_whole(stride) and stride >= 1
    ):
        raise ConfigError(
            f"sel({name}={wanted}): a slice is from one {name} to another, both numbers from 0 "
            "on that belong to it, as in xarray; its stride is a number from 1 on."
        )
    low, high = wanted.start or 0, MOST_STEP if wanted.stop is None else wanted.stop
    return lambda labels: (labels >= low) & (labels <= high) & ((labels - low) % stride == 0)
