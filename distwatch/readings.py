"""What people read of packed states: from the fields of a row to mean, std, l2 and so on."""

from __future__ import annotations

from typing import Any

import numpy as np

from distwatch.records import Table
from distwatch.statistics import ROW

#: What a row says of a delta, as people read it.
STATISTICS = ("count", "mean", "std", "min", "max", "l1", "l2", "zeros", "nans", "infs")

#: NaN, where no two elements could be compared: nothing is known, not zero.
_KNOWN_IF_COMPARED = ("mean", "std", "min", "max", "l1", "l2")


def readable(states: Any, table: Table | None = None) -> dict[str, Any]:
    """Derive what people read from packed states of shape (..., field).

    Where a worker left no row, its states are NaN, and so is all that is read of them.

    Args:
        states: rows of the usual fields, or of all scalar fields of ``table``.
        table: whose rows they are; None for the usual fields alone.
    """
    absent = np.isnan(states[..., 0])
    if absent.any():
        found = readable(np.where(absent[..., None], 0.0, states), table)
        return {name: np.where(absent, np.nan, values) for name, values in found.items()}
    usual = len(ROW.fields)
    return {**_usual(states[..., :usual]), **_readable_further(states[..., usual:], table)}


def _usual(states: Any) -> dict[str, Any]:
    computed = ROW.compute(ROW.unpack(states))
    compared = computed["count"] > 0
    return {
        name: np.where(compared, computed[name], np.nan)
        if name in _KNOWN_IF_COMPARED
        else computed[name]
        for name in STATISTICS
    }


def _readable_further(states: Any, table: Table | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    start = 0
    for statistic in table.statistic.further if table else ():
        if not statistic.wide:
            stop = start + len(statistic.fields)
            found |= statistic.compute(statistic.unpack(states[..., start:stop]))
            start = stop
    return found
