"""How the values of a signal were distributed, from one part of a run to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distwatch.analysis.overview.binning import Floats, Ints, bins_of
from distwatch.errors import ConfigError
from distwatch.statistics import LogHistogram
from distwatch.store import StoredRun
from distwatch.store.joining import ReadableTable

#: Over how many parts of the run, and into how many slices of the value axis.
PARTS = 14
SLICES = 96

#: The share of elements at either end that may lie outside the picture.
_OUTSIDE = 0.002


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
    progress: Callable[[int], None] | None = None,
) -> Distribution:
    """Read the histograms of a signal, in one pass over its chunks.

    Args:
        stored: the run.
        name: a signal that was watched with ``distwatch.histogram()``.
        parts: into how many parts the run is divided.
        progress: called with how many more rows are read.

    Raises:
        ConfigError: the signal was watched without a histogram, or has no rows.
    """
    table, place = _find(stored, name)
    histogram = table.table.statistic.histogram
    if histogram is None:
        raise ConfigError(
            f"{name} was watched without a histogram: give its selector "
            "statistics=[distwatch.histogram()]."
        )
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
        if progress is not None:
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


def _find(stored: StoredRun, name: str) -> tuple[ReadableTable, int]:
    for table in stored.tables.values():
        if name in table.table.names:
            return table, table.table.names.index(name)
    raise ConfigError(f"{stored.path} has no signal {name!r} with rows.")


def _ends(histogram: LogHistogram) -> Floats:
    """The ends of all buckets that hold finite values: shape (finite buckets + 1,)."""
    bits = round(np.log2((1.0 / histogram.relative_accuracy - 1.0) / 2.0))
    positive = histogram.centres[1:-1][histogram.centres[1:-1] > 0]
    octaves = (len(positive) - 1) >> bits
    high = positive[-1]
    low = high / 2.0**octaves
    parts = 1.0 + np.arange(2**bits) / 2**bits
    starts = (low * 2.0 ** np.arange(octaves)[:, None] * parts).ravel()
    # What lies beyond the largest is put into one more octave.
    edges = np.concatenate([starts, [high, 2.0 * high]])
    return np.concatenate([-edges[::-1], edges])


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
