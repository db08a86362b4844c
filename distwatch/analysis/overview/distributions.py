"""How the distribution of a signal changes over a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distwatch.analysis.detail import find, histogram_of
from distwatch.analysis.overview.binning import Floats, Ints, bins_of
from distwatch.errors import ConfigError
from distwatch.statistics import LogHistogram
from distwatch.store import StoredRun
from distwatch.store.readable_tables import ReadableTable

#: Into how many parts a run is divided, and into how many slices the value axis.
PARTS = 14
SLICES = 96

#: The share of elements at either end that may lie outside the figure.
_OUTSIDE = 0.002

#: Called with how many more rows are read.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Distribution:
    """Densities of a signal's elements over all replicas, part by part of the run.

    Shapes: edges (slice + 1,), density (part, slice), first and last (part,), the steps
    of each part. A density is the share of the elements in a slice of the value axis.
    """

    name: str
    reference: str
    edges: Floats
    density: Floats
    first: Ints
    last: Ints


def read_distribution(
    stored: StoredRun,
    name: str,
    *,
    parts: int = PARTS,
    progress: Progress = lambda _: None,
) -> Distribution:
    """Read the histograms of a signal, in one pass over its chunks.

    Args:
        stored: the run.
        name: a signal that was watched with ``distwatch.histogram()``.
        parts: into how many parts the run is divided.
        progress: called with how many more rows are read.

    Raises:
        UnknownSignalError: the run has no such signal.
        ConfigError: it was watched without a histogram, or has no rows.
    """
    return stored.reading(lambda: _read(*find(stored, name), name, parts, progress))


def _read(
    table: ReadableTable, place: int, name: str, parts: int, progress: Progress
) -> Distribution:
    histogram = histogram_of(table, place)
    if not table.steps:
        raise ConfigError(f"{name} has no rows yet, so there is nothing to draw.")
    bins = bins_of(table.read("step"), parts)
    counts = np.zeros((len(bins), len(histogram.centres)))
    window, signal = table.table.window, slice(place, place + 1)
    for start in range(0, table.steps, window):
        stop = min(start + window, table.steps)
        read = table.read("histogram_merged", slice(start, stop), signal)[:, 0]
        of_row = np.searchsorted(bins.starts, np.arange(start, stop), side="right") - 1
        np.add.at(counts, of_row, read)
        progress(stop - start)
    edges = np.linspace(*_range(histogram, counts.sum(axis=0)), SLICES + 1)
    return Distribution(
        name=name,
        reference=table.table.signals[place].reference,
        edges=edges,
        density=_density(histogram, counts, edges),
        first=bins.first,
        last=bins.last,
    )


def _ends(histogram: LogHistogram) -> Floats:
    """The ends of all buckets that hold finite values: shape (finite buckets + 1,)."""
    # What lies beyond the largest is put into one more octave.
    inner = histogram.edges[1:-1]
    return np.concatenate([2.0 * inner[:1], inner, 2.0 * inner[-1:]])


def _cumulated(histogram: LogHistogram, counts: Floats) -> tuple[Floats, Floats]:
    """Ends of buckets, and the shares of finite elements below them: shape (..., end)."""
    finite = counts[..., 1:-1]
    total = np.maximum(finite.sum(axis=-1, keepdims=True), 1)
    below = np.cumsum(finite, axis=-1) / total
    return _ends(histogram), np.concatenate([np.zeros((*below.shape[:-1], 1)), below], axis=-1)


def _range(histogram: LogHistogram, counts: Floats) -> tuple[float, float]:
    ends, below = _cumulated(histogram, counts)
    if not below[-1]:
        return -1.0, 1.0
    # The lower end of the bucket that holds the one quantile, the upper end of the other.
    low = ends[np.searchsorted(below, _OUTSIDE, side="right") - 1]
    high = ends[min(int(np.searchsorted(below, 1 - _OUTSIDE)), len(ends) - 1)]
    return float(low), float(high)


def _density(histogram: LogHistogram, counts: Floats, edges: Floats) -> Floats:
    """Shares of the elements between edges, those of a bucket spread evenly over it."""
    ends, below = _cumulated(histogram, counts)
    return np.asarray([np.diff(np.interp(edges, ends, row)) for row in below])
