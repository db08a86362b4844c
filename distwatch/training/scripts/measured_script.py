"""What watching costs a script, from several starts of it that measure.

Each start is a process that `measured_fit` ends. Times to the first step and the memory need
processes of their own, unwatched and watched; a step is measured within the watched ones.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from distwatch.errors import ConfigError, UnsupportedTrainingError
from distwatch.store import StoredRun
from distwatch.training.measuring import Estimate, estimate_of
from distwatch.training.overhead import widenings_for
from distwatch.training.scripts.bootstrap.sitecustomize import VARIABLE
from distwatch.training.scripts.launching import Launch

#: Seconds between two looks at how far a start is.
_LOOK_EVERY = 0.1

#: Lines of a script's stderr that a refusal shows.
_SHOWN = 5


class Measurement(NamedTuple):
    """What is measured, and with what bounds.

    Attributes:
        steps: that a start of the script may take.
        starts: of the script unwatched, and as many watched.
        budget: the part of a step that is to suffice.
    """

    steps: int
    starts: int
    budget: float

    @property
    def order(self) -> list[str]:
        """What each start of the script measures."""
        # In turns, so that a drift of the machine cancels.
        pairs = [("unwatched", "watched"), ("watched", "unwatched")]
        starts = [what for i in range(self.starts) for what in pairs[i % 2]]
        return [*starts, "signals"]


@dataclass(frozen=True)
class SignalsCost:
    """What looking at the signals of one selector costs, in unwatched steps a step."""

    signals: tuple[str, ...]
    #: At every how many steps they are looked at, and would have to be within the budget.
    every: int
    fitting: int
    cost: Estimate


@dataclass(frozen=True)
class Costs:
    """What watching costs a script: times in seconds, memory and disk in bytes."""

    replicas: int
    #: How many steps were timed.
    steps: int
    step: float
    added: Estimate
    #: A value a start.
    first_steps: tuple[list[float], list[float]]
    memory: tuple[list[int], list[int]]
    bytes_per_step: float
    budget: float
    #: The dearest first; empty where there were too few steps to tell.
    signals: list[SignalsCost]
    #: What is added to a step, in unwatched ones, however rarely is looked.
    fixed: Estimate

    @property
    def ratio(self) -> Estimate:
        """What is added to a step, as a part of it."""
        return Estimate(*(each / self.step for each in self.added))

    @property
    def bytes_per_hour(self) -> float:
        """What an hour of watched training writes."""
        return self.bytes_per_step * 3600 / (self.step + self.added.value)

    @property
    def fits(self) -> bool:
        """Whether the budget suffices with what is looked at as it is."""
        return self.ratio.value <= self.budget

    @property
    def can_fit(self) -> bool:
        """Whether it suffices if the signals are looked at as rarely as is proposed."""
        costs = [max(0.0, each.cost.value) * each.every / each.fitting for each in self.signals]
        return bool(costs) and self.fixed.value + sum(costs) <= self.budget


def measure(
    launch: Launch,
    measurement: Measurement,
    *,
    name: str,
    keep: str | None = None,
    report: Callable[[int, str, int], None] = lambda start, what, done: None,
) -> Costs:
    """Start a script several times, and put together what it costs to watch it.

    Args:
        launch: of the script, see `launching.prepare`.
        measurement: what is measured.
        name: of the script, for what is refused.
        keep: the folder in which the runs of the watched starts stay; None to delete them.
        report: called with the number of a start, with what it measures and how many steps
            it has done.

    Raises:
        ConfigError: several workers train, or the script has no fit that can be measured.
        UnsupportedTrainingError: the fit cannot be watched, or is too short.
    """
    _check_workers(launch.environment)
    found: dict[str, list[dict[str, Any]]] = {what: [] for what in measurement.order}
    with tempfile.TemporaryDirectory(prefix="distwatch-overhead-") as folder:
        for number, what in enumerate(measurement.order):
            place = Path(folder) / str(number)
            place.mkdir()
            run = place / "run.zarr"
            if keep is not None and what == "watched":
                run = Path(keep).absolute() / f"watched-{number:03d}.zarr"
            started = _Start(launch, what, measurement, place, run)
            result = started.result(functools.partial(report, number, what), name)
            if what == "watched":
                result["bytes_per_step"] = StoredRun(result["run"]).nbytes / result["looked"]
            found[what].append(result)
    units = found["signals"][0]["units"]
    return costs_of(found["unwatched"], found["watched"], units, measurement.budget)


def costs_of(
    unwatched: Sequence[Mapping[str, Any]],
    watched: Sequence[Mapping[str, Any]],
    units: Sequence[Mapping[str, Any]],
    budget: float,
) -> Costs:
    """Put the results of all starts together."""
    step = estimate_of([each["step"] for each in watched]).value
    added, idle = (_added(watched, key) for key in ("added", "idle"))
    fixed = Estimate(*(each / step for each in idle))
    return Costs(
        replicas=watched[0]["replicas"],
        steps=sum(each["steps"] for each in watched),
        step=step,
        added=added,
        first_steps=_both(unwatched, watched, "first_step"),
        memory=_both(unwatched, watched, "memory"),
        bytes_per_step=estimate_of([each["bytes_per_step"] for each in watched]).value,
        budget=budget,
        signals=_planned(units, added.value / step, fixed.value, budget),
        fixed=fixed,
    )


def _added(watched: Sequence[Mapping[str, Any]], key: str) -> Estimate:
    """What is added to a step, in seconds, with the work of the host, which is timed apart."""
    return estimate_of(
        [cost * each["step"] + each["host"] for each in watched for cost in each[key]]
    )


def _planned(
    units: Sequence[Mapping[str, Any]], total: float, fixed: float, budget: float
) -> list[SignalsCost]:
    """The signals, the dearest first, and how rarely to look at them within the budget."""
    units = sorted(units, key=lambda unit: unit["cost"], reverse=True)
    costs = [max(0.0, unit["cost"]) for unit in units]
    # What all looks cost together is known best. One by one they were measured with
    # operations of their own for each, in shorter stretches.
    scale = max(0.0, total - fixed) / sum(costs) if sum(costs) else 0.0
    widenings = widenings_for([scale * cost for cost in costs], budget, fixed)
    return [
        SignalsCost(
            tuple(unit["signals"]),
            unit["every"],
            unit["every"] * times,
            Estimate(*(scale * unit[key] for key in ("cost", "low", "high"))),
        )
        for unit, times in zip(units, widenings, strict=True)
    ]


def _both(
    unwatched: Sequence[Mapping[str, Any]], watched: Sequence[Mapping[str, Any]], key: str
) -> tuple[list[Any], list[Any]]:
    first, second = (
        [each[key] for each in results if each.get(key) is not None]
        for results in (unwatched, watched)
    )
    return first, second


def _check_workers(environment: Mapping[str, str]) -> None:
    try:
        cluster = json.loads(environment.get("TF_CONFIG") or "{}").get("cluster", {})
        workers = sum(len(each) for each in cluster.values())
    except (ValueError, AttributeError, TypeError):
        return
    if workers > 1:
        raise ConfigError(
            f"TF_CONFIG names {workers} workers, whose scripts would have to be started and "
            "ended together for each measurement; unset it, and measure on one worker."
        )


class _Start:
    """One start of the script, which measures something."""

    def __init__(
        self, launch: Launch, what: str, measurement: Measurement, place: Path, run: Path
    ) -> None:
        self._what = what
        self._told = place / "told"
        self._errors = place / "stderr"
        self._told.touch()
        settings = json.loads(launch.environment[VARIABLE])
        settings |= {"store": str(run), "quiet": False}
        if (board := settings["arguments"].get("tensorboard")) is not None:
            settings["arguments"]["tensorboard"] = {**board, "folder": str(place / "events")}
        settings["measure"] = {
            "what": what,
            "steps": measurement.steps,
            "budget": measurement.budget,
            "told": str(self._told),
        }
        environment = {**launch.environment, VARIABLE: json.dumps(settings)}
        self._launch = replace(launch, environment=environment)

    def result(self, report: Callable[[int], None], name: str) -> dict[str, Any]:
        """Wait for it, and report meanwhile how many steps are done."""
        with self._errors.open("wb") as errors, _running(self._launch, errors) as process:
            report(0)
            while process.poll() is None:
                for line in self._lines():
                    report(line.get("done", 0))
                time.sleep(_LOOK_EVERY)
        last = next(iter(self._lines()[-1:]), {})
        if "refused" in last:
            raise UnsupportedTrainingError(f"{name} cannot be measured: {last['refused']}.")
        if not last or "done" in last:
            raise ConfigError(self._why(process.returncode, name, last.get("done", 0)))
        return last

    def _lines(self) -> list[dict[str, Any]]:
        # Of a line that is being written, the rest comes later.
        whole = self._told.read_text(encoding="utf-8").rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def _why(self, code: int, name: str, done: int) -> str:
        how = f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"
        said = self._errors.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN:]
        when = f"after {done} steps of its first fit" if done else "before a fit was measured"
        lines = "".join(f"\n  {line}" for line in said)
        return f"{name} {how} {when}. The end of its stderr:{lines or ' nothing'}"


@contextlib.contextmanager
def _running(launch: Launch, errors: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The script's process, which does not outlive the block."""
    process = subprocess.Popen(
        launch.command,
        env=launch.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
