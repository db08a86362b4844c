"""Mean and spread of the finite elements."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from distwatch.statistics.arrays import namespace
from distwatch.statistics.base import Reductions, Summed
from distwatch.statistics.basic_sums import BasicSums
from distwatch.statistics.values import Floats, Quantity, Value, Values


class MomentsState(NamedTuple):
    """Number of finite elements, their mean, and the sum of squares about it."""

    n: Any
    mean: Any
    m2: Any


#: How far the replicas' means lie apart: known of all replicas together only.
SPREAD = Value("spread", logged=True)


def spread(means: Any, axis: int) -> Any:
    """Largest minus smallest mean over an axis, NaN left out; NaN where all are."""
    known = ~np.isnan(means)
    high = np.max(means, axis=axis, where=known, initial=-np.inf)
    low = np.min(means, axis=axis, where=known, initial=np.inf)
    return np.where(known.any(axis=axis), high - low, np.nan)


def _spread_of_replicas(values: Values) -> Floats:
    return np.asarray(spread(values["mean"][:, :-1], axis=1)[:, None])


class Moments(Summed[MomentsState]):
    """Count, mean and centred sum of squares.

    Merging follows Chan, Golub & LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances" (1979): the squares within the
    parts plus the squares between their means. Nothing is ever subtracted that
    could cancel, so a small spread about a large mean survives.

    ``std`` is the population standard deviation, sqrt(m2 / n).
    """

    state = MomentsState
    values = (
        Value("mean", compared=True, logged=True),
        Value("std", compared=True, logged=True),
    )
    quantities = (
        Quantity(
            SPREAD.name,
            "spread of the replicas' means",
            "spread of the replicas' means",
            2,
            _spread_of_replicas,
            merged_only=True,
        ),
        Quantity("std", "std of the change", "std of the value", 3),
        Quantity("mean", "mean change", "mean value", 4, signed=True),
    )

    def from_sums(self, sums: BasicSums) -> MomentsState:
        return MomentsState(sums.finite, sums.mean, sums.m2)

    def merge(self, a: MomentsState, b: MomentsState) -> MomentsState:
        n = a.n + b.n
        # An empty side weighs nothing, so no branch is needed for it.
        weight = b.n / namespace(n).maximum(n, 1.0)
        apart = b.mean - a.mean
        # In this order nothing overflows where one side is empty.
        between = a.n * weight * apart * apart
        return MomentsState(n, a.mean + apart * weight, a.m2 + b.m2 + between)

    def reduce_replicas(self, state: MomentsState, reductions: Reductions) -> MomentsState:
        xp = namespace(state.n)
        n_and_total = xp.stack([state.n, state.n * state.mean], axis=-1)
        summed = reductions.sum(n_and_total)
        n = summed[..., 0]
        mean = summed[..., 1] / xp.maximum(n, 1.0)
        apart = state.mean - mean
        m2 = reductions.sum(state.m2 + state.n * apart * apart)
        return MomentsState(n, mean, m2)

    def compute(self, state: MomentsState) -> dict[str, Any]:
        n = np.asarray(state.n, dtype=np.float64)
        some = n > 0
        return {
            "mean": np.where(some, state.mean, np.nan),
            "std": np.where(some, np.sqrt(state.m2 / np.maximum(n, 1.0)), np.nan),
        }
