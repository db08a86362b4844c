"""What is looked at, and how often, changed while training runs: without a retrace.

A `Retargeting` belongs to one phase. What is asked for takes effect between two executions, on
the thread that trains, so that every replica and every step sees one schedule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from distwatch.errors import ConfigError
from distwatch.signals import Measuring, Pattern, names_matching
from distwatch.store import Change, Request
from distwatch.training.device.ring import Unit
from distwatch.training.overhead import Event, Overhead

#: Names of signals that a refusal lists.
_NAMED = 3


class Adjusted(Protocol):
    """What has schedules to adjust: a `distwatch.training.device.ring.Recorder`."""

    @property
    def units(self) -> list[Unit]:
        """What can be adjusted, each as a whole."""
        ...

    @property
    def steps(self) -> int:
        """How many steps all replicas have done."""
        ...

    def follow_schedules(self) -> None:
        """Take over changes of the schedules, from the next step on."""
        ...


class UnitCost(NamedTuple):
    """What looking at the signals of a unit costs, in unobserved steps a step."""

    signals: tuple[str, ...]
    #: At every how many steps it was asked for.
    every: int
    cost: float
    low: float
    high: float


class Retargeting:
    """Adjusts the schedules of one phase, and declares what it does.

    Args:
        phase: its name.
        recorder: has its schedules.
        declare: stores a change.
        most: the budget of the overhead; None for none.
    """

    def __init__(
        self,
        phase: str,
        recorder: Adjusted,
        declare: Callable[[Change], None],
        most: float | None = None,
    ) -> None:
        self._phase = phase
        self._recorder = recorder
        self._declare = declare
        self._units = recorder.units
        self._asked = {id(unit.schedule): unit.schedule.asked for unit in self._units}
        self._waiting: deque[tuple[Request, str]] = deque()
        self._overhead: Overhead | None = None
        if most is not None:
            schedules = [unit.schedule for unit in self._units]
            self._overhead = Overhead(most, schedules, lambda: recorder.steps)

    @property
    def cadences(self) -> list[int | None]:
        """At every how many steps each unit was asked for; None if that is no cadence."""
        return [unit.schedule.asked for unit in self._units]

    @property
    def costs(self) -> list[UnitCost]:
        """What the budget measured of each unit; empty before it did."""
        found = {} if self._overhead is None else self._overhead.costs
        units = [(self._units[i], cost) for i, cost in found.items()]
        return [UnitCost(unit.names, unit.schedule.asked or 1, *cost) for unit, cost in units]

    def check(self, asked: Request) -> list[Unit]:
        """The units that a request means.

        Raises:
            UnknownSignalError: a pattern matches no signal.
            ConfigError: it matches only some of the signals that share a schedule.
        """
        chosen = self._matched(asked.patterns)
        meant = [unit for unit in self._units if chosen & set(unit.names)]
        for unit in meant:
            if rest := [name for name in unit.names if name not in chosen]:
                raise ConfigError(self._partial(asked, unit, rest))
        return meant

    def _matched(self, patterns: Sequence[Pattern]) -> set[str]:
        names = [name for unit in self._units for name in unit.names]
        return set(names_matching(patterns, names, f"the phase {self._phase}"))

    def ask(self, asked: Request, by: str) -> None:
        """Have a request, which was checked, take effect after the steps that are under way."""
        self._waiting.append((asked, by))

    def look(self, looking: bool) -> None:
        """Look as is asked for, or not at all, for a measurement that is not declared."""
        for unit in self._units:
            unit.schedule.measuring = None if looking else Measuring.OFF
        self._recorder.follow_schedules()

    def interrupt(self) -> None:
        """Note that something else than a step is coming."""
        if self._overhead is not None:
            self._overhead.interrupt()

    def after_steps(self, steps: int) -> None:
        """Take over what was asked for, and what the budget demands.

        Raises:
            DistwatchError: it could not be declared.
        """
        done = [self._set(*self._waiting.popleft()) for _ in range(len(self._waiting))]
        if self._overhead is not None:
            for event in self._overhead.after_steps(steps):
                self._declare(self._change_of(event))
        # Only now is it known what the budget makes of them.
        for asked, by, meant in done:
            for unit in meant:
                self._declare_set(unit, by, asked.written)
        for unit in self._units:
            # A cadence's own k was changed: watch.schedule.k = 10.
            if unit.schedule.asked != self._asked[id(unit.schedule)]:
                self._declare_set(unit, "call")
        self._recorder.follow_schedules()

    def leave(self, *, drained: bool) -> None:
        """Note that the watching is over until the next steps are done."""
        if self._overhead is not None:
            self._overhead.leave(drained=drained)

    def refuse(self, why: str, asked: Request | None = None, by: str = "file") -> None:
        """Declare that something was asked for in vain."""
        patterns = () if asked is None else asked.written
        self._declare(
            Change(
                phase=self._phase,
                step=self._recorder.steps,
                by=by,
                what="refused",
                patterns=patterns,
                why=why,
            )
        )

    def _set(self, asked: Request, by: str) -> tuple[Request, str, list[Unit]]:
        meant = self.check(asked)
        for schedule in (unit.schedule for unit in meant):
            schedule.is_on = asked.every != "off"
            if not isinstance(asked.every, str):
                schedule.every = asked.every
            elif asked.every == "on":
                schedule.every = None
        return asked, by, meant

    def _declare_set(self, unit: Unit, by: str, patterns: tuple[str, ...] = ()) -> None:
        self._asked[id(unit.schedule)] = unit.schedule.asked
        self._declare(
            Change(
                phase=self._phase,
                step=self._recorder.steps,
                by=by,
                what="set",
                patterns=patterns,
                tables=_tables(unit),
                schedule=unit.schedule.now,
            )
        )

    def _partial(self, asked: Request, unit: Unit, rest: list[str]) -> str:
        more = f" and {len(rest) - _NAMED} more" if len(rest) > _NAMED else ""
        parts = [name.partition("/") for name in unit.names]
        kinds = list(dict.fromkeys(f"{kind}/*" if path else kind for kind, _, path in parts))
        remedy = "Before a training, give a selector a schedule of its own: gradients(every=1)."
        if self._matched(kinds) == set(unit.names):
            remedy = f"Ask for {' and '.join(map(repr, kinds))} together. {remedy}"
        return (
            f"{', '.join(map(repr, asked.written))} matches some of the signals that share the "
            f"schedule {unit.schedule}, and not {', '.join(rest[:_NAMED])}{more}; they can "
            f"only be changed together. {remedy}"
        )

    def _change_of(self, event: Event) -> Change:
        units = [self._units[i] for i in event.units]
        return Change(
            phase=self._phase,
            step=self._recorder.steps if event.first is None else event.first,
            by="budget",
            what=event.what,
            tables=tuple(name for unit in units for name in _tables(unit)),
            schedule="" if event.first is not None else units[0].schedule.now,
            until=event.until,
            why=event.why,
        )


def _tables(unit: Unit) -> tuple[str, ...]:
    return tuple(table.name for table in unit.tables)
