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
        return _state(namespace(seen.signal).rows_of_units(seen.signal))

    def observe_each(self, seen: Sequence[Observation]) -> list[UnitsState]:
        """The state of each; where no unit is constant, only some rows are read.

        A unit that is not constant in some of the rows is not constant in all of them, so
        only where one is in these, all are read: in a training with nothing wrong next to
        never, since the rows are taken from all over the batch.
        """
        xp = namespace(*(each.signal for each in seen))
        rows = [xp.rows_of_units(each.signal) for each in seen]
        ends = [xp.extremes(_some_of(xp, each)) for each in rows]
        same = [low == high for low, high in ends]
        found = xp.either(
            xp.any(xp.concat(same, axis=0)),
            lambda: xp.stack(
                [
                    xp.either(
                        xp.any(each), lambda x=x: self.pack(_state(x)), lambda x=x: _none(x)
                    )
                    for x, each in zip(rows, same, strict=True)
                ]
            ),
            lambda: xp.stack([_none(x) for x in rows]),
        )
        return [self.unpack(found[i]) for i in range(len(rows))]

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


#: About how many rows are looked at first.
_SOME = 256


def _some_of(xp: Any, rows: Any) -> Any:
    return rows[:: xp.maximum(xp.length(rows) // _SOME, 1)]


def _state(rows: Any) -> UnitsState:
    """The state of values of shape (row, unit)."""
    xp = namespace(rows)
    low, high = xp.extremes(rows)
    same = low == high
    zero, constant = (xp.sum(xp.cast(x, "float64")) for x in (same & (low == 0), same))
    return _known(rows, zero, constant)


def _none(rows: Any) -> Any:
    """The packed state of values none of whose units is constant."""
    nothing = namespace(rows).cast(0, "float64")
    return Units().pack(_known(rows, nothing, nothing))


def _known(rows: Any, zero: Any, constant: Any) -> UnitsState:
    """The state of these numbers; that of no values where there are fewer than two."""
    xp = namespace(rows)
    units, nothing = xp.cast(xp.width(rows), "float64"), xp.cast(np.inf, "float64")
    known = xp.length(rows) > 1
    return UnitsState(
        xp.where(known, units, xp.zeros_like(units)),
        xp.where(known, zero, nothing),
        xp.where(known, constant, nothing),
    )
