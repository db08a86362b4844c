"""How many units of a layer tell nothing about a batch."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import numpy as np

from distwatch.statistics.arrays import namespace
from distwatch.statistics.base import (
    Floats,
    Observation,
    Quantity,
    Reductions,
    Statistic,
    Value,
    Values,
)

#: Numbers of units: all, those that are zero for the whole batch, and those that have one
#: value for the whole batch.
UnitsState = namedtuple("UnitsState", "units zero_units constant_units")


def _share_of_zero_units(values: Values) -> Floats:
    units = values["units"]
    return np.asarray(values["zero_units"] / np.where(units > 0, units, np.nan))


class Units(Statistic[UnitsState]):
    """How many units are the same for every example of a batch.

    A unit is a place of the signal's last axis: a unit of a dense layer, a filter of a
    convolution. ``zero_units`` are exactly zero for every example (and at every place of an
    image or a sequence), ``constant_units`` have one and the same value there, zero among
    them. Of a single value (a batch of one row) nothing is known, which is NaN.

    Which units these are is not kept, so merging over replicas or steps takes the smaller
    number: in all the batches together at most so many units were zero.

    In the part of a run that a distwatch wrote which did not count them, all are NaN.
    """

    name = "units"
    state = UnitsState
    values = (Value("units"), Value("zero_units"), Value("constant_units"))
    quantities = (
        Quantity(
            "zero_units",
            "share of units that are zero for the whole batch",
            "share of units that are zero for the whole batch",
            7,
            _share_of_zero_units,
        ),
    )
    automatic_for = ("activations",)
    added_later = True

    def empty(self) -> UnitsState:
        return UnitsState(0.0, np.inf, np.inf)

    def observe(self, seen: Observation) -> UnitsState:
        return self.unpack(self.observe_all([seen])[0])

    def observe_all(self, seen: Sequence[Observation]) -> Any:
        """The states of all signals; where no unit is constant, only some rows are read.

        A unit that is not constant in some of the rows is not constant in all of them, so
        only where one is in these, all are read: in a training with nothing wrong next to
        never, since the rows are taken from all over the batch.
        """
        signals = [each.signal for each in seen]
        xp = namespace(*signals)
        # Not by equality: of no rows the smallest value is infinite, of NaN it is NaN.
        varying = [low < high for low, high in map(xp.extremes, map(xp.some_rows, signals))]
        together = xp.concat(varying, axis=0)

        def counted() -> Any:
            count = xp.shared(_counted_if, ranks=(2, 1))
            rows = [xp.rows(x) for x in signals]
            # One tensor is taken into this function, not one a signal.
            apart = xp.split(together, [xp.last_size(x) for x in signals])
            return xp.stack([count(x, each) for x, each in zip(rows, apart, strict=True)])

        def none() -> Any:
            units = xp.cast(xp.stack([xp.last_size(x) for x in signals]), "float64")
            return xp.stack([units, 0 * units, 0 * units], axis=-1)

        return xp.either(~xp.all(together), counted, none)

    def merge(self, a: UnitsState, b: UnitsState) -> UnitsState:
        xp = namespace(*a, *b)
        return UnitsState(
            xp.maximum(a.units, b.units),
            xp.minimum(a.zero_units, b.zero_units),
            xp.minimum(a.constant_units, b.constant_units),
        )

    def reduce_replicas(self, state: UnitsState, reductions: Reductions) -> UnitsState:
        xp = namespace(*state)
        # One reduction for all three: the largest is the smallest of the negative.
        least = reductions.min(xp.stack([-state.units, *state[1:]], axis=-1))
        # Of no replicas the least is infinite; they have no units.
        units = xp.maximum(-least[..., 0], 0.0)
        return UnitsState(units, least[..., 1], least[..., 2])

    def compute(self, state: UnitsState) -> dict[str, Any]:
        units = np.asarray(state.units, np.float64)
        some = units > 0
        return {
            "units": np.where(some, units, np.nan),
            "zero_units": np.where(some, state.zero_units, np.nan),
            "constant_units": np.where(some, state.constant_units, np.nan),
        }


def _counted_if(rows: Any, varying: Any) -> Any:
    """The packed state of a signal; read unless all units are varying.

    Args:
        rows: shape (row, place and unit).
        varying: whether each unit is known to vary: shape (unit,).
    """
    xp = namespace(rows)
    units = xp.size(varying)
    return xp.either(
        ~xp.all(varying), lambda: _counted(rows, units), lambda: _state(xp, units, 0, 0)
    )


def _counted(rows: Any, units: Any) -> Any:
    xp = namespace(rows)
    # First over rows, which are long, then over places: several times as fast on CPUs.
    low, high = xp.extremes(rows)
    low = xp.extremes(xp.columns(low, units))[0]
    high = xp.extremes(xp.columns(high, units))[1]
    same = low == high
    zero, constant = (xp.sum(xp.cast(x, "float64")) for x in (same & (low == 0), same))
    state = _state(xp, units, zero, constant)
    # Of one row nothing is known.
    return xp.where(xp.size(rows) > units, state, _state(xp, 0, np.inf, np.inf))


def _state(xp: Any, *numbers: Any) -> Any:
    """A packed state of numbers of any dtype."""
    return xp.stack([xp.cast(x, "float64") for x in numbers])
