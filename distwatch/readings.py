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

    Args:
        states: rows of the usual fields, or of all scalar fields of ``table``.
        table: whose rows they are; None for the usual fields alone.
    """
    usual = len(ROW.fields)
    computed = ROW.compute(ROW.unpack(states[..., :usual]))
    compared = computed["count"] > 0
    found = {
        name: np.where(compared, computed[name], np.nan)
        if name in _KNOWN_IF_COMPARED
        else computed[name]
        for name in STATISTICS
    }
    return {**found, **_readable_further(states[..., usual:], table)}


def _readable_further(states: Any, table: Table | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    start = 0
    for statistic in table.statistic.further if table else ():
        if not statistic.wide:
            stop = start + len(statistic.fields)
            found |= statistic.compute(statistic.unpack(states[..., start:stop]))
            start = stop
    return found
