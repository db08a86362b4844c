"""Datasets as tables of pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distwatch.statistics import VALUES
from distwatch.store.schema import COORDINATES

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_WHOLE = {value.name for value in VALUES if value.whole}


def frame_of(dataset: xr.Dataset) -> pd.DataFrame:
    """A row for each combination of the dims that was recorded, in the order of the dims.

    Where datasets of signals with other steps were joined, or a worker left no row, there is
    no row. Counts are whole numbers wherever all are known.
    """
    frame = dataset.to_dataframe(dim_order=[str(dim) for dim in dataset["count"].dims])
    frame = frame[frame["count"].notna()]
    whole = [name for name in frame if name in _WHOLE and frame[name].notna().all()]
    first = [name for name in COORDINATES if name in frame]
    columns = [*first, *(name for name in frame if name not in first)]
    return frame[columns].astype(dict.fromkeys(whole, np.int64))
