"""Checksums of what all replicas should have the same of, as a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distwatch.analysis.datasets import statistics_of
from distwatch.store.joining import aligned
from distwatch.store.reader import StoredRun

if TYPE_CHECKING:
    import xarray as xr

#: What a dataset of copies has of the statistics of a row.
_NAMES = ("checksum", "differing", "largest")


def dataset_of_copies(stored: StoredRun, dim: str, *, of_canary: bool) -> xr.Dataset:
    """See `distwatch.Run.copies` and `distwatch.Run.canary`.

    Args:
        stored: the run.
        dim: what the last dim is called.
        of_canary: of what replicas computed, not of what they hold.
    """
    import xarray as xr

    tables = aligned(
        [each for each in stored.copies.values() if each.table.of_canary == of_canary]
    )
    if not tables:
        dims = ("step", "replica", dim)
        return xr.Dataset({name: (dims, np.zeros((0, 0, 0))) for name in _NAMES})
    each = [statistics_of(table, slice(None), merged=False) for table in tables]
    found = xr.concat(each, "signal", join="exact", data_vars="all", coords="minimal")
    known = found["count"] > 0
    low, high = -found["min"], found["max"]
    largest = high.where(high > low, low)
    chosen = {
        "checksum": found["checksum"].where(found["checksum"] > 0),
        "differing": (found["count"] - found["zeros"]).where(known),
        "largest": largest.where(known & np.isfinite(largest)),
    }
    paths = [str(name).partition("/")[2] for name in found["signal"].values]
    return xr.Dataset(chosen).assign_coords(signal=paths).rename(signal=dim)
