"""Mergeable summaries of a delta: pure arithmetic, the same for NumPy and tensors.

A statistic is a monoid apart from its state (a named tuple of arrays of any
shape): ``empty`` is the state of no values, ``observe`` the state of one array,
``merge`` joins two states exactly, ``across`` joins the states of all replicas
by reductions, ``compute`` derives what people read. ``measure`` is the one look
over the values that all statistics share.
"""

from collections.abc import Callable, Sequence
from typing import Any

from distwatch.errors import ConfigError, nearest
from distwatch.statistics.base import (
    Observation,
    Reductions,
    Statistic,
    Summed,
    merge_axis,
    observe,
)
from distwatch.statistics.basic_sums import BasicSums, measure
from distwatch.statistics.checksum import Checksum
from distwatch.statistics.counts import Counts
from distwatch.statistics.extrema import Extrema
from distwatch.statistics.log_histogram import LogHistogram
from distwatch.statistics.moments import Moments
from distwatch.statistics.norms import Norms
from distwatch.statistics.product import Product
from distwatch.statistics.ratio import Ratio
from distwatch.statistics.row import ROW, Row, with_row

#: Statistics beyond those of every row, by the names that stores and files know.
_FURTHER = {"checksum": Checksum, "histogram": LogHistogram, "ratio": Ratio}


def from_spec(specs: Sequence[dict[str, Any]]) -> Row:
    """A row with further statistics, as stores and configuration files write them.

    Args:
        specs: ``{"name": "histogram", "accuracy": 0.05}`` each; see `Statistic.spec`.

    Raises:
        ConfigError: a name or a parameter is unknown, or a value is wrong.
    """
    return with_row(tuple(_further(dict(spec)) for spec in specs))


def _further(spec: dict[str, Any]) -> Statistic[Any]:
    name = spec.pop("name", None)
    if name not in _FURTHER:
        known = nearest(str(name), list(_FURTHER))
        raise ConfigError(f"unknown statistic {name!r}; nearest: {known}.")
    make: Callable[..., Statistic[Any]] = _FURTHER[name]
    try:
        return make(**spec)
    except TypeError as error:
        raise ConfigError(f"statistic {name!r}: {error}.") from error


__all__ = [
    "ROW",
    "BasicSums",
    "Checksum",
    "Counts",
    "Extrema",
    "LogHistogram",
    "Moments",
    "Norms",
    "Observation",
    "Product",
    "Ratio",
    "Reductions",
    "Row",
    "Statistic",
    "Summed",
    "from_spec",
    "measure",
    "merge_axis",
    "observe",
    "with_row",
]
