"""The rule: from which step on a signal differs by more than rounding explains.

Two runs of one program on other devices, or over other numbers of replicas, start to differ
by the rounding of single operations. Training amplifies these differences from step to step,
until they are as large as the signals themselves: gradually, since each step adds to what
the steps before it left. A real change (other data, another learning rate) is larger than all
of that from one step to the next. So a signal *parts* at the first step at which its relative
difference is

1. beyond the tolerance of the number format (`precision.Precision.tolerance`), or the signal's
   own where it was measured (`distwatch.amplification`), and
2. beyond all that it was before, by a *leap*: an order of magnitude more than any signal of
   the same table ever rose above its own past from one look to the next, but no more than
   ``1 / sqrt(eps)`` unless that was seen. It is what the tolerance grants a single step, too,
   which may make ``sqrt(eps)`` of ``eps``. So what is explained comes from the two runs
   themselves; early steps, sparse schedules and unstable trainings, in which rounding grows
   fast, are allowed more. A signal that differed by its whole size cannot part any more.

Signals of the backward pass need a second witness. The gate of a single ReLU that rounding
opens changes the gradients of one step, and of a gradient that cancels out nothing is left but
rounding, from which Adam makes updates of full size; neither changes what the model computes.
So they part only if the difference is still there at the next step that was looked at. An
update, into which an optimizer's momentum carries such a gradient for many steps, does not
part at a step at which its gradient differed for that step alone. If they differ at the first
step already, where there is no past, most signals of their kind have to differ, or an
activation or the loss has to part before it is looked at once more without a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from distwatch.findings.origins import BACKWARDS, kind_of
from distwatch.records import Floats, Ints
from distwatch.signals import Signal
from distwatch.store.readable_tables import Array

#: An order of magnitude.
_ORDER = float(np.log(10.0))

#: The step of what never happened.
NEVER = np.iinfo(np.int64).max


class Rounding(NamedTuple):
    """What is allowed without a past: the relative rounding, and the tolerance.

    ``measured`` is the tolerance of signals of which it was measured, by name.
    ``growing`` says whether more is allowed where the difference was larger before.
    """

    eps: float
    tolerance: float
    growing: bool = True
    measured: Mapping[str, float] = MappingProxyType({})

    def tolerances(self, signals: Sequence[Signal]) -> Floats:
        """That of each signal: measured, or that of all."""
        return np.array([self.measured.get(each.name, self.tolerance) for each in signals])


@dataclass
class Events:
    """Where each signal on each series parts: arrays of shape (series, signal)."""

    shape: tuple[int, int]
    step: Ints = field(init=False)
    difference: Floats = field(init=False)
    explained: Floats = field(init=False)
    #: The last step before it at which the signal was looked at; -1 if there is none.
    before: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.step = np.full(self.shape, NEVER)
        self.difference = np.zeros(self.shape)
        self.explained = np.zeros(self.shape)
        self.before = np.full(self.shape, -1)

    @property
    def some(self) -> Array:
        """Which have one."""
        return np.asarray(self.step < NEVER)

    def put(self, where: Array, step: int, d: Floats, explained: Floats, before: Ints) -> None:
        """Note one for some of the signals."""
        self.step[where] = step
        self.difference[where] = d[where]
        self.explained[where] = explained[where]
        self.before[where] = before[where]

    def take(self, where: Array, other: Events) -> None:
        """Take over those of another for some of the signals."""
        for name in ("step", "difference", "explained", "before"):
            getattr(self, name)[where] = getattr(other, name)[where]

    def drop(self, where: Array) -> None:
        """Forget those of some of the signals."""
        self.step[where] = NEVER


class Partings:
    """Looks at the differences of one table's signals, step by step, in constant memory.

    Args:
        signals: what is compared.
        series: on how many series.
        rounding: what is allowed.
    """

    def __init__(self, signals: tuple[Signal, ...], series: int, rounding: Rounding) -> None:
        shape = series, len(signals)
        self._rounding = rounding
        self._tolerances = rounding.tolerances(signals)
        self._backward = np.broadcast_to(
            [kind_of(signal.name) in BACKWARDS and rounding.growing for signal in signals],
            shape,
        )
        #: Those that count; those that differ from the first step on; those that need to be
        #: seen once more.
        self.events, self.from_first, self._pending = (Events(shape) for _ in range(3))
        #: By the place of a signal: steps at which it differed for that step alone.
        self.unconfirmed: dict[int, set[int]] = {}
        #: Logarithms: the largest difference before, and the largest rise above it of any.
        self._most, self._rise = np.full(shape, -np.inf), 0.0
        self._last = np.full(shape, -1)
        #: The first step with a difference at all, with one beyond the tolerance, and the
        #: largest difference, with its step.
        self.first_unequal, self.first_beyond = np.full(shape, NEVER), np.full(shape, NEVER)
        self.largest, self.largest_step = np.zeros(shape), np.full(shape, -1)
        #: How many rows were compared.
        self.compared = np.zeros(shape, np.int64)

    def observe(self, steps: Ints, d: Floats, equal: Array, known: Array) -> None:
        """Take the next rows: shapes (n,) and (n, series, signal)."""
        self.compared += known.sum(axis=0)
        differ = known & ~equal
        self._note_firsts(steps, d, differ, known)
        # A run of equal steps, which is most of what is compared, is one step.
        busy = np.asarray(differ.any(axis=(1, 2)))
        for place, step in enumerate(steps):
            if busy[place] or not place or busy[place - 1]:
                self._look(int(step), np.where(differ[place], d[place], 0.0), known[place])
            elif known[place].any():
                self._last = np.where(known[place], step, self._last)

    def _note_firsts(self, steps: Ints, d: Floats, differ: Array, known: Array) -> None:
        beyond = differ & (d > self._tolerances)
        for first, where in ((self.first_unequal, differ), (self.first_beyond, beyond)):
            found = where.any(axis=0) & (first == NEVER)
            first[found] = steps[np.argmax(where, axis=0)][found]
        sizes = np.where(differ, d, -1.0)
        at = sizes.argmax(axis=0)
        most = np.take_along_axis(sizes, at[None], axis=0)[0]
        more = most > np.where(self.largest_step < 0, -1.0, self.largest)
        self.largest[more], self.largest_step[more] = most[more], steps[at][more]

    def _look(self, step: int, d: Floats, known: Array) -> None:
        eps, growing = self._rounding.eps, self._rounding.growing
        with np.errstate(divide="ignore"):
            size = np.log(np.maximum(d, eps))
        # Where there is no past, the tolerance alone.
        leap = max(self._rise, min(self._rise + _ORDER, -np.log(eps) / 2))
        past = np.exp(self._most + leap) if growing else np.zeros(d.shape)
        # What differs by as much as its size has nothing left in common.
        past[self._most >= 0.0] = np.inf if growing else 0.0
        explained = np.maximum(self._tolerances, past)
        open_ = known & ~self.events.some
        beyond = open_ & (d > explained)
        new = self._last < 0
        self.events.put(beyond & ~self._backward, step, d, explained, self._last)
        self.from_first.put(beyond & self._backward & new, step, d, explained, self._last)
        again = open_ & self._backward & ~new
        self._look_again(step, d, explained, beyond & again, again)
        self._learn(size, open_ & ~(beyond & ~new), new)
        self._last = np.where(known, step, self._last)

    def _look_again(
        self, step: int, d: Floats, explained: Floats, beyond: Array, looked: Array
    ) -> None:
        """Confirm what is still beyond, and let go of what is not."""
        waiting = self._pending.some & looked
        self.events.take(waiting & beyond, self._pending)
        passed = waiting & ~beyond
        self._most[passed] = np.log(self._pending.difference[passed])
        for series, place in np.argwhere(passed):
            steps = self.unconfirmed.setdefault(int(place), set())
            steps.add(int(self._pending.step[series, place]))
        self._pending.drop(waiting)
        self._pending.put(beyond & ~waiting, step, d, explained, self._last)

    def _learn(self, size: Floats, where: Array, new: Array) -> None:
        """What these steps rose by is explained from now on."""
        before = where & ~new & np.isfinite(self._most) & np.isfinite(size)
        rise = size[before] - self._most[before]
        self._rise = max(self._rise, float(rise.max(initial=0.0)))
        self._most = np.where(where, np.maximum(self._most, size), self._most)

    def end(self) -> None:
        """Take what waits to be seen once more for what it is: there are no more steps."""
        self.events.take(self._pending.some, self._pending)
