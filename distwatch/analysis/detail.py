"""Single signals: where they are, their histograms and quantiles, raw tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from distwatch.errors import ConfigError
from distwatch.signals import name_of
from distwatch.statistics import ROW, LogHistogram, merge_axis
from distwatch.store import StoredRun
from distwatch.store.readable_tables import ReadableTable

if TYPE_CHECKING:
    import xarray as xr


def find(stored: StoredRun, signal: str) -> tuple[ReadableTable, int]:
    """The table that a signal is in, and its position there.

    Args:
        stored: the run.
        signal: its name, or a short one that is unique: see `name_of`.

    Raises:
        UnknownSignalError: the run has no such signal; the nearest are named.
    """
    name = name_of(signal, stored.info.names, stored.path)
    table = next(each for each in stored.tables.values() if name in each.table.names)
    return table, table.table.names.index(name)


def quantiles(
    stored: ReadableTable, position: int, q: Any, *, per_step: bool, per_replica: bool
) -> Any:
    """See `distwatch.Run.quantile`."""
    import xarray as xr

    histogram = histogram_of(stored, position)
    probabilities = np.asarray(q, np.float64)
    if probabilities.ndim > 1 or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ConfigError(f"quantile q={q!r}: give probabilities from 0 to 1.")
    counts, extremes = _states(stored, position, merged=not per_replica)
    axes = _axes(stored, merged=not per_replica)
    if not per_step:
        counts, extremes = counts.sum(axis=0), merge_axis(ROW, extremes, axis=0)
        del axes["step"]
    low, high = (extremes[..., ROW.fields.index(name)] for name in ("min", "max"))
    found = histogram.quantile(counts, low, high, probabilities)
    if probabilities.ndim:
        axes["quantile"] = probabilities
    return xr.DataArray(found, axes, list(axes)) if axes else float(found)


def bucket_counts(stored: ReadableTable, position: int, *, merged: bool) -> xr.DataArray:
    """See `distwatch.Run.histogram`."""
    import xarray as xr

    histogram = histogram_of(stored, position)
    counts, _ = _states(stored, position, merged=merged)
    axes = _axes(stored, merged=merged) | {"bucket": histogram.centres}
    return xr.DataArray(counts, axes, list(axes))


def raw_tensor(stored: ReadableTable, signal: str) -> xr.DataArray:
    """See `distwatch.Run.tensor`."""
    import xarray as xr

    layout = stored.table.tensor
    if layout is None:
        raise ConfigError(
            f"{signal} was not watched by distwatch.tensors(...), so only its statistics "
            "are there."
        )
    tensors = stored.tensors()
    if tensors is None:
        raise ConfigError(f"{signal}: no step was looked at yet, so there is no tensor.")
    axis = "reduced" if layout.reduce else "replica"
    features = [f"dim_{i}" for i in range(1, 1 + len(layout.features))]
    coordinates = _axes(stored, merged=layout.reduce is not None)
    coordinates["valid"] = (("step", axis), tensors.valid)
    dims = ("step", axis, "batch", *features)
    return xr.DataArray(tensors.values, coordinates, dims, name=stored.table.names[0])


def histogram_of(stored: ReadableTable, position: int) -> LogHistogram:
    """The histogram that a signal was watched with.

    Raises:
        ConfigError: there is none.
    """
    histogram = stored.table.statistic.histogram
    if histogram is None:
        raise ConfigError(
            f"{stored.table.names[position]} was watched without a histogram: give its "
            "selector statistics=[distwatch.histogram()]."
        )
    return histogram


def _axes(stored: ReadableTable, *, merged: bool) -> dict[str, Any]:
    """The coordinates of what is kept of a signal, by the names of their dims, in order."""
    steps = {"step": stored.read("step")}
    return steps if merged else {**steps, "replica": np.asarray(stored.replicas)}


def _states(stored: ReadableTable, position: int, *, merged: bool) -> tuple[Any, Any]:
    """Bucket counts and the usual row of one signal: shapes (step, [replica,] ...)."""
    names = ("histogram_merged", "merged") if merged else ("histogram", "rows")
    one = slice(position, position + 1)
    counts, rows = (stored.read(name, signals=one) for name in names)
    return counts[..., 0, :], rows[..., 0, : len(ROW.fields)]
