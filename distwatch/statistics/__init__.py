"""Mergeable summaries of a delta: pure arithmetic, the same for NumPy and tensors.

A statistic is a monoid, kept apart from its state (a named tuple of arrays of any
shape): ``empty`` is the state of no values, ``observe`` the state of one array,
``merge`` joins two states exactly, ``reduce_replicas`` joins the states of all replicas
by reductions, ``compute`` derives what people read. Its class also declares how it is
named, stored, plotted and exported; ``registered`` lists all of them. ``measure`` computes
the sums that the usual statistics share.
"""

from distwatch.statistics.base import (
    Observation,
    Quantity,
    Reductions,
    Statistic,
    Value,
    Values,
    finite,
    merge_axis,
    observe,
    per_element,
    special_elements,
)
from distwatch.statistics.checksum import Checksum, checksum_of, weighted
from distwatch.statistics.log_histogram import LogHistogram
from distwatch.statistics.ratio import Ratio
from distwatch.statistics.registered import (
    FURTHER,
    QUANTITIES,
    REQUESTABLE,
    VALUES,
    automatic,
    from_spec,
    requested,
)
from distwatch.statistics.row import ROW, Product, Row, replica_spread, with_row
from distwatch.statistics.signal_counts import SignalCounts, SignalCountsState
from distwatch.statistics.units import Units
from distwatch.statistics.usual import (
    SPREAD,
    BasicSums,
    Counts,
    Extrema,
    Moments,
    Norms,
    Summed,
    measure,
    spread,
)

__all__ = [
    "FURTHER",
    "QUANTITIES",
    "REQUESTABLE",
    "ROW",
    "SPREAD",
    "VALUES",
    "BasicSums",
    "Checksum",
    "Counts",
    "Extrema",
    "LogHistogram",
    "Moments",
    "Norms",
    "Observation",
    "Product",
    "Quantity",
    "Ratio",
    "Reductions",
    "Row",
    "SignalCounts",
    "SignalCountsState",
    "Statistic",
    "Summed",
    "Units",
    "Value",
    "Values",
    "automatic",
    "checksum_of",
    "finite",
    "from_spec",
    "measure",
    "merge_axis",
    "observe",
    "per_element",
    "replica_spread",
    "requested",
    "special_elements",
    "spread",
    "weighted",
    "with_row",
]
