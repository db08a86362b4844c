"""Mergeable summaries of a delta: pure arithmetic, the same for NumPy and tensors.

A statistic is a monoid apart from its state (a named tuple of arrays of any
shape): ``empty`` is the state of no values, ``observe`` the state of one array,
``merge`` joins two states exactly, ``across`` joins the states of all replicas
by reductions, ``compute`` derives what people read. ``measure`` is the one look
over the values that all statistics share.
"""

from distwatch.statistics.base import (
    Reductions,
    Statistic,
    merge_axis,
    observe,
)
from distwatch.statistics.counts import Counts
from distwatch.statistics.extrema import Extrema
from distwatch.statistics.moments import Moments
from distwatch.statistics.norms import Norms
from distwatch.statistics.passes import Passes, measure
from distwatch.statistics.product import Product

#: What every row holds for every signal.
ROW = Product((Counts(), Moments(), Extrema(), Norms()))

__all__ = [
    "ROW",
    "Counts",
    "Extrema",
    "Moments",
    "Norms",
    "Passes",
    "Product",
    "Reductions",
    "Statistic",
    "measure",
    "merge_axis",
    "observe",
]
