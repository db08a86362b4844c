"""A whole run, read once and kept small: what figures are drawn from.

``reading`` goes over the blocks of a run, ``histories`` says what is kept of them,
``distributions`` does the same for histograms.
"""

from distwatch.analysis.overview.distributions import Distribution, read_distribution
from distwatch.analysis.overview.histories import (
    History,
    Overview,
    SignalHistory,
    quantity_named,
)
from distwatch.analysis.overview.reading import Extent, extent_within, read_overview

__all__ = [
    "Distribution",
    "Extent",
    "History",
    "Overview",
    "SignalHistory",
    "extent_within",
    "quantity_named",
    "read_distribution",
    "read_overview",
]
