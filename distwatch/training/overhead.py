"""Keeping what looking costs within a budget, by widening schedules while training runs.

What it costs is measured now and then, see `distwatch.training.measuring`; the dearest signals
are looked at more rarely until all of it fits, and as often as was asked for where it does.
Nothing here knows TensorFlow: the clock and what waits for the devices are handed in.

Rejected: comparing all of a training with and without, which takes two; a controller that
follows the time of a step, which cannot tell its own cost from the load of the machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from distwatch.signals import Adjustable
from distwatch.training.measuring import RAREST, ROUNDS, Estimate, HostTime, Trial, estimate_of

#: A measurement that cannot tell is continued, up to so many times its rounds.
_REPEATS = 5

#: Rounds of several measurements that are judged together, while the load stays the same.
_TOGETHER = 81

#: Executions before the first measurement: the first ones are not like the others.
_WARM_UP = 10

#: Between two measurements are so many times the steps of one; fewer if the load changes.
_PAUSE, _LEAST_PAUSE = 50, 10

#: Executions by which a change of the load is seen, and how large it must be.
_RECENT, _DRIFT = 64, 0.3

#: Parts of the budget: what a wider schedule aims at, what measurements may cost, and what is
#: not worth a wider schedule.
_AIM, _FOR_MEASURING, _NEGLIGIBLE = 0.9, 0.1, 0.01

#: No schedule becomes rarer than this many times what was asked for.
MOST_WIDENING = 2**16


def widenings_for(costs: Sequence[float], most: float, fixed: float = 0.0) -> list[int]:
    """How many times rarer to look at each of some signals, the dearest first.

    What is used lies between half of the budget and all of it, where the costs can be lowered
    to that, and all is looked at as asked for where that fits.

    Args:
        costs: of each, as often as asked for, in unobserved steps a step.
        most: the budget, likewise.
        fixed: what looking more rarely does not save.
    """
    widenings = [1] * len(costs)

    def shares() -> list[float]:
        return [cost / times for cost, times in zip(costs, widenings, strict=True)]

    if fixed + sum(shares()) <= most:
        return widenings
    while fixed + sum(shares()) > _AIM * most:
        wide = [times < MOST_WIDENING for times in widenings]
        dearest = max(range(len(costs)), key=lambda i: wide[i] * shares()[i], default=None)
        if dearest is None or wide[dearest] * shares()[dearest] <= _NEGLIGIBLE * most:
            return widenings
        times = widenings[dearest]
        # 1, 2, 3, 4, 6, 8, 12, 16, ...: only the first one saves half of a signal's cost, and
        # what is so dear is widened first, from more than all of the budget.
        widenings[dearest] = times * 2 if times == 1 else _next(times)
    return widenings


def _next(times: int) -> int:
    return times * 4 // 3 if times % 3 == 0 else times * 3 // 2


class Event(NamedTuple):
    """Something that a budget did, see `distwatch.store.Change`."""

    what: str
    #: Which schedules.
    units: tuple[int, ...]
    why: str
    #: The first step of what was measured, and the one after the last.
    until: int | None = None
    first: int | None = None


class Overhead:
    """Keeps what the looking of one phase costs within a budget.

    Args:
        most: the budget, as a part of the time of an unobserved step.
        schedules: those that it may widen.
        synchronise: waits until the devices have done all steps, and counts them.
        clock: gives seconds.
    """

    def __init__(
        self,
        most: float,
        schedules: Sequence[Adjustable],
        synchronise: Callable[[], int],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._most = most
        self._schedules = schedules
        self._synchronise = synchronise
        self._clock = clock
        self._trial: Trial | None = None
        #: What looking as asked for adds to a step: see `Trial.costs`.
        self._costs: dict[tuple[int, ...], list[float]] = {}
        self._pace = 0.0
        self._fixed = 0.0
        self._host = HostTime()
        self._asked = self._all_asked()
        self._entered = 0.0
        #: When the last execution could begin; None where something else came in between.
        self._left: float | None = None
        self._pause = _Pause()

    @property
    def costs(self) -> dict[int, Estimate]:
        """What looking as asked for costs, of each schedule by its place, in unobserved steps
        a step; empty before it was measured."""
        return {i: estimate_of(each) for (i, *more), each in self._costs.items() if not more}

    def interrupt(self) -> None:
        """Note that something else than a step is coming: a validation, a new epoch."""
        self._left = None

    def after_steps(self, steps: int) -> list[Event]:
        """Time an execution of some steps that is just over, and decide.

        Returns:
            What was changed, for the steps from here on.
        """
        if self._trial is not None and self._trial.is_complete_with(steps):
            self._synchronise()
        self._entered = self._clock()
        seconds = None if self._left is None else self._entered - self._left
        self._host.steps += steps
        events = [] if self._all_asked() == self._asked else self._follow_asked(steps)
        if self._trial is None:
            if seconds is not None:
                self._pause.add(steps, seconds)
            if self._pause.is_over and self._measurable():
                self._trial = Trial(self._schedules, self._synchronise())
                events.append(_of_trial("measuring", self._trial))
        elif self._trial.add(steps, seconds):
            events += self._decide(self._trial)
        return events

    def leave(self, *, drained: bool) -> None:
        """Note that the watching is over until the next execution is.

        Args:
            drained: whether rows were read from the devices meanwhile.
        """
        self._left = self._clock()
        self._host.add(self._left - self._entered, drained=drained)

    def _decide(self, trial: Trial) -> list[Event]:
        fixed = self._host.per_step() / trial.pace
        costs = self._with_earlier(trial)
        total = estimate_of(costs[tuple(trial.measured)])
        unclear = fixed + total.low <= self._most < fixed + total.high
        if unclear and len(trial.rounds) < _REPEATS * ROUNDS:
            trial.go_on()
            return []
        trial.end()
        self._trial, self._host = None, HostTime(self._host.has_drained)
        self._costs, self._fixed, self._pace = costs, fixed, trial.pace
        self._pause = _Pause(trial.steps, trial.extra / (_FOR_MEASURING * self._most))
        measured = _of_trial("measured", trial, self._said(total))
        return [measured, *self._plan(trial.measured, total)]

    def _with_earlier(self, trial: Trial) -> dict[tuple[int, ...], list[float]]:
        """The costs of each round, with those of earlier measurements of the same load."""
        new, key = trial.costs(), tuple(trial.measured)
        if key not in self._costs or abs(trial.pace / self._pace - 1) > _DRIFT:
            return new
        was, now = estimate_of(self._costs[key]), estimate_of(new[key])
        if was.high < now.low or now.high < was.low:
            return new
        return {key: [*self._costs[key], *each][-_TOGETHER:] for key, each in new.items()}

    def _plan(self, measured: Sequence[int], total: Estimate) -> list[Event]:
        """Widen or narrow the schedules where what they use is too much or too little."""
        alone = [max(0.0, estimate_of(self._costs[(i,)]).value) for i in measured]
        # What all cost together is known best.
        scale = max(0.0, total.value) / sum(alone) if sum(alone) else 0.0
        costs = [scale * each for each in alone]
        now = [self._schedules[i].widening for i in measured]
        used = self._fixed + sum(cost / times for cost, times in zip(costs, now, strict=True))
        if self._most / 2 <= used <= self._most:
            return []
        planned = widenings_for(costs, self._most, self._fixed)
        events = []
        for i, cost, was, times in zip(measured, costs, now, planned, strict=True):
            if times != was:
                self._schedules[i].widening = times
                what = "widened" if times > was else "narrowed"
                events.append(Event(what, (i,), self._reason(i, cost)))
        return events

    def _follow_asked(self, steps: int) -> list[Event]:
        """Take over that other cadences are asked for: what was measured is void."""
        now = self._all_asked()
        for schedule, was, asked in zip(self._schedules, self._asked, now, strict=True):
            if was != asked:
                schedule.widening = 1
        trial, self._trial = self._trial, None
        self._asked, self._costs, self._pause = now, {}, _Pause()
        if trial is None:
            return []
        trial.end()
        trial.step += steps
        return [_of_trial("measured", trial, "given up, since another cadence was asked for")]

    def _all_asked(self) -> list[int | None]:
        return [each.asked for each in self._schedules]

    def _measurable(self) -> bool:
        return any(each is not None and each <= RAREST for each in self._asked)

    def _said(self, total: Estimate) -> str:
        return (
            f"an unobserved step takes {1e3 * self._pace:.3g} ms; looking as asked for costs "
            f"{total.value:.1%} of it ({total.low:.1%} to {total.high:.1%}) and the work of "
            f"the host {self._fixed:.1%}; max_overhead is {self._most:.1%}"
        )

    def _reason(self, unit: int, cost: float) -> str:
        return (
            f"as asked for, every({self._asked[unit]}), it costs {cost:.1%} of a step; "
            f"max_overhead is {self._most:.1%}"
        )


def _of_trial(what: str, trial: Trial, why: str = "") -> Event:
    until = trial.step if what == "measured" else None
    return Event(what, tuple(trial.measured), why, until, trial.first_step)


class _Pause:
    """The time until the next measurement.

    Args:
        steps: of the measurement before; 0 if there was none.
        rest: steps after which what it cost is small.
    """

    def __init__(self, steps: int = 0, rest: float = 0.0) -> None:
        self._most, self._least = max(_PAUSE * steps, rest), max(_LEAST_PAUSE * steps, rest)
        self._is_first = not steps
        self._steps = self._executions = 0
        self._recent: list[float] = []
        self._usual: float | None = None
        self._has_changed = False

    def add(self, steps: int, seconds: float) -> None:
        """Count an execution."""
        self._steps += steps
        self._executions += 1
        self._recent.append(seconds / steps)
        if len(self._recent) == _RECENT:
            now = statistics.median(self._recent)
            self._usual = self._usual or now
            self._has_changed = abs(now / self._usual - 1) > _DRIFT
            self._recent.clear()

    @property
    def is_over(self) -> bool:
        """Whether it is time to measure."""
        if self._is_first:
            return self._executions >= _WARM_UP
        return self._steps >= (self._least if self._has_changed else self._most)
