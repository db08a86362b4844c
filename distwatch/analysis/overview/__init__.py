"""A whole run, read once and reduced to a few numbers: what figures are drawn from.

``reading`` reads the blocks of a run, ``histories`` is what is kept of them, ``binning``
reduces long series to few bins, ``distributions`` does the same for histograms.
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
