"""Schedules that follow, while training runs, what is asked for then."""

from __future__ import annotations

from enum import Enum
from typing import Any

from distwatch.signals.schedules import MOST_STEP, Every, Schedule

#: No step leaves this remainder.
_NEVER = -1


class Measuring(Enum):
    """What a measurement makes of a schedule for some steps."""

    #: It looks as often as was asked for, see `Adjustable.widening`.
    WHOLE = "whole"
    #: It does not look.
    OFF = "off"


class Adjustable(Schedule):
    """A schedule that can be turned off, on, and to another cadence without a retrace.

    The graph holds ``parameters`` in one variable and looks where ``step % k == remainder``,
    or at the steps of ``chosen``: a schedule that is off has a remainder that no step leaves.

    Args:
        chosen: the schedule that was chosen before the training.
    """

    def __init__(self, chosen: Schedule) -> None:
        self.chosen = chosen
        #: Whether it looks at all.
        self.is_on = True
        #: Looks at every so many steps instead of those chosen; None for those chosen.
        self.every: int | None = None
        #: How many times more rarely it looks than was asked for, where that is a cadence.
        self.widening = 1
        self.measuring: Measuring | None = None

    @property
    def asked(self) -> int | None:
        """At every how many steps to look; None where it is off, or looks at steps by name."""
        if not self.is_on:
            return None
        if self.every is not None:
            return self.every
        return self.chosen.k if isinstance(self.chosen, Every) else None

    @property
    def parameters(self) -> tuple[int, ...]:
        """k, the remainder, and (unless ``chosen`` is a cadence) whether to look as chosen."""
        as_chosen, k = 0, self.asked
        looks = self.is_on and self.measuring is not Measuring.OFF
        if k is None:
            as_chosen = int(looks)
        elif self.measuring is None:
            k = min(k * self.widening, MOST_STEP)
        cadence = (k or 1, 0 if looks and k is not None else _NEVER)
        return cadence if isinstance(self.chosen, Every) else (*cadence, as_chosen)

    def decide(self, step: Any, parameters: Any) -> Any:
        looks = step % parameters[0] == parameters[1]
        if isinstance(self.chosen, Every):
            return looks
        return looks | (self.chosen.decide(step, ()) & (parameters[2] > 0))

    @property
    def now(self) -> str:
        """How it looks at present, apart from measurements: "every(8)", "off", ..."""
        if not self.is_on:
            return "off"
        k = self.asked
        return str(self.chosen) if k is None else f"every({min(k * self.widening, MOST_STEP)})"

    def __str__(self) -> str:
        return str(self.chosen)
