"""Measuring what looking costs while training runs.

A measurement is a number of short stretches of steps, interleaved: one in which nothing is
looked at, one for each schedule in which only its signals are, as often as was asked for, and
one in which all are. A cost is the median, over rounds of such stretches, of what is added to
the time of a step. What the host does between two executions is timed as it is.

The interval of a median is by order statistics, about 95 % (Conover 1999, Practical
Nonparametric Statistics, 3.2): steps that were disturbed are no reason to widen a schedule.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from distwatch.signals import Adjustable, Measuring

#: Rounds after which a measurement may tell.
ROUNDS = 9

#: Steps of a stretch, at least: so many, and so many looks.
_STEPS, _LOOKS = 8, 2

#: What is looked at more rarely than this costs little, and would take long to measure.
RAREST = 128


class Estimate(NamedTuple):
    """A median, and the interval that it lies in."""

    value: float
    low: float
    high: float


def estimate_of(values: Sequence[float]) -> Estimate:
    """The median of some values with its interval."""
    ordered = sorted(values)
    rank = max(0, math.floor(len(ordered) / 2 - 1.96 * math.sqrt(len(ordered)) / 2))
    return Estimate(statistics.median(ordered), ordered[rank], ordered[-1 - rank])


@dataclass
class _Stretch:
    """Steps in which only some schedules look."""

    units: tuple[int, ...]
    steps: int = 0
    seconds: float = 0.0

    @property
    def pace(self) -> float:
        """Seconds a step."""
        return self.seconds / self.steps


class Trial:
    """One measurement.

    Args:
        schedules: all that can be adjusted.
        step: the next step.
        length: steps of a stretch, at least; None for as many as the cadences need.
        together: whether there is a stretch in which all of several look.
    """

    def __init__(
        self,
        schedules: Sequence[Adjustable],
        step: int,
        *,
        length: int | None = None,
        together: bool = True,
    ) -> None:
        self.schedules = schedules
        self.first_step = self.step = step
        self.measured = [
            i for i, each in enumerate(schedules) if (each.asked or RAREST + 1) <= RAREST
        ]
        #: Steps of a stretch, at least.
        self.length = length or stretch_length([schedules[i].asked for i in self.measured])
        self.rounds: list[list[_Stretch]] = []
        self._kinds: list[tuple[int, ...]] = [(), *((unit,) for unit in self.measured)]
        if together and len(self.measured) > 1:
            self._kinds.append(tuple(self.measured))
        self._left: list[_Stretch] = []
        self._begin_round()

    def _begin_round(self) -> None:
        self._left = [_Stretch(units) for units in self._kinds]
        # Forwards and backwards by turns, so that a steady drift cancels.
        if len(self.rounds) % 2:
            self._left.reverse()
        self.rounds.append(self._left.copy())
        self._apply()

    def _apply(self) -> None:
        for unit in self.measured:
            looks = unit in self._left[0].units
            self.schedules[unit].measuring = Measuring.WHOLE if looks else Measuring.OFF

    def is_complete_with(self, steps: int) -> bool:
        """Whether so many further steps complete a stretch."""
        return self._left[0].steps + steps >= self.length

    def add(self, steps: int, seconds: float | None) -> bool:
        """Count an execution; True when a whole number of `ROUNDS` is there.

        Without a time, something else came in between, and it counts for nothing.
        """
        self.step += steps
        if seconds is None:
            return False
        stretch = self._left[0]
        stretch.steps += steps
        stretch.seconds += seconds
        if stretch.steps < self.length:
            return False
        del self._left[0]
        if self._left:
            self._apply()
        elif len(self.rounds) % ROUNDS:
            self._begin_round()
        else:
            return True
        return False

    def go_on(self) -> None:
        """Begin more rounds: those up to here do not tell enough."""
        self._begin_round()

    def drop_incomplete(self) -> None:
        """Leave out the round that is under way."""
        if self._left:
            del self.rounds[-1]
            self._left = []

    def end(self) -> None:
        """Let the schedules look again as they are meant to."""
        for schedule in self.schedules:
            schedule.measuring = None

    @property
    def pace(self) -> float:
        """Seconds of a step in which nothing is looked at."""
        return statistics.median(self._without(each).pace for each in self.rounds)

    @property
    def steps(self) -> int:
        """How many steps it had that count."""
        return sum(stretch.steps for each in self.rounds for stretch in each)

    @property
    def extra(self) -> float:
        """What all looks of this measurement cost, in unobserved steps."""
        spent = sum(stretch.seconds for each in self.rounds for stretch in each)
        return max(0.0, spent / self.pace - self.steps)

    def costs(self) -> dict[tuple[int, ...], list[float]]:
        """What looking as asked for adds to a step, in unobserved ones, round by round.

        Of each schedule, by its place, and of all that were measured together.
        """
        found: dict[tuple[int, ...], list[float]] = {}
        for stretches in self.rounds:
            without = self._without(stretches).pace
            for each in stretches:
                if each.units:
                    found.setdefault(each.units, []).append(each.pace / without - 1)
        return found

    def _without(self, stretches: Sequence[_Stretch]) -> _Stretch:
        return next(each for each in stretches if not each.units)


def stretch_length(asked: Sequence[int | None]) -> int:
    """Steps in which each cadence looks as often as it does on average, if they are few.

    Those that are too rare to be measured, and None, which is no cadence, do not count.
    """
    cadences = [k for k in asked if k is not None and k <= RAREST]
    least = max([_STEPS, *(_LOOKS * k for k in cadences)])
    period = math.lcm(*cadences)
    return -(-least // period) * period if period <= least else least


@dataclass
class HostTime:
    """Seconds that the watching takes between executions, with a drain and without."""

    #: Whether there was a drain, the first of which is compiled and takes long.
    has_drained: bool = False
    steps: int = 0
    plain: list[float] = field(default_factory=list)
    draining: list[float] = field(default_factory=list)

    def add(self, seconds: float, *, drained: bool) -> None:
        """Count the time between two executions."""
        if not drained:
            self.plain.append(seconds)
        elif self.has_drained:
            self.draining.append(seconds)
        self.has_drained = self.has_drained or drained

    def per_step(self) -> float:
        """The usual seconds a step, not raised by what happened once."""
        if not self.steps:
            return 0.0
        kinds = (self.plain, self.draining)
        usual = sum(len(each) * statistics.median(each) for each in kinds if each)
        return usual / self.steps
