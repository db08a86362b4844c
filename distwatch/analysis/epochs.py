"""The epochs of a training as a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distwatch.records import Epoch

if TYPE_CHECKING:
    import xarray as xr


def dataset_of_epochs(epochs: Sequence[Epoch]) -> xr.Dataset:
    """See `distwatch.Run.epochs`."""
    import xarray as xr

    names = list(dict.fromkeys(name for each in epochs for name in each.metrics))
    values = [[each.metrics.get(name, np.nan) for name in names] for each in epochs]
    rates = [np.nan if each.learning_rate is None else each.learning_rate for each in epochs]
    return xr.Dataset(
        {
            "value": (("epoch", "metric"), np.reshape(values, (len(epochs), len(names)))),
            "learning_rate": ("epoch", np.array(rates, float)),
        },
        {
            "epoch": np.array([each.number for each in epochs], np.int64),
            "metric": np.array(names, str),
            "step": ("epoch", np.array([each.step for each in epochs], np.int64)),
        },
    )
