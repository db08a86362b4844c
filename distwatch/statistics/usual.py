"""The statistics of every row: counts, moments, extrema and norms of the finite elements.

All of them are derived from the same sums. Reading the values is what costs; deriving states
from the sums does not. So the values are read once, here (on the host) or in
``distwatch.training.device.kernels`` (inside the training graph).
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distwatch.statistics.arrays import namespace
from distwatch.statistics.base import (
    Floats,
    Observation,
    Quantity,
    Reductions,
    State,
    Statistic,
    Value,
    Values,
    finite,
    per_element,
)


class BasicSums(NamedTuple):
    """Sums over the values of a delta, float64, all of one shape (one value a signal).

    ``count`` is the number of elements, finite or not; ``zeros``, ``nans`` and
    ``infs`` are parts of it. Everything else is over the finite elements only:
    ``mean`` and ``m2`` (the sum of squared deviations from it) are 0, ``min``
    +inf and ``max`` -inf where there is none.
    """

    count: Any
    zeros: Any
    nans: Any
    infs: Any
    mean: Any
    m2: Any
    min: Any
    max: Any
    l1: Any
    l2sq: Any

    @property
    def n(self) -> Any:
        """The number of finite elements."""
        return self.count - self.nans - self.infs


def measure(values: npt.ArrayLike) -> BasicSums:
    """Sum up an array of any shape, in float64.

    The mean is taken first and the squares about it, so a standard deviation of
    1 at a mean of 1e8 is still exact to 1e-8.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    finite = array[np.isfinite(array)]
    nans = np.count_nonzero(np.isnan(array))
    mean = finite.mean() if finite.size else 0.0
    return BasicSums(
        count=np.float64(array.size),
        zeros=np.float64(array.size - np.count_nonzero(array)),
        nans=np.float64(nans),
        infs=np.float64(array.size - finite.size - nans),
        mean=np.float64(mean),
        m2=np.square(finite - mean).sum(),
        min=finite.min(initial=np.inf),
        max=finite.max(initial=-np.inf),
        l1=np.abs(finite).sum(),
        l2sq=np.square(finite).sum(),
    )


class Summed(Statistic[State]):
    """A statistic whose fields are among the sums that are computed once for all of them."""

    def from_sums(self, sums: BasicSums) -> State:
        """The state of the values that were summed up."""
        return self.unflatten(tuple(getattr(sums, field) for field in self.fields))

    def observe(self, seen: Observation) -> State:
        return self.from_sums(measure(seen.delta))


#: Numbers of elements: all, exactly zero, NaN, and infinite of either sign.
CountsState = namedtuple("CountsState", "count zeros nans infs")


def _share_of_zeros(values: Values) -> Floats:
    return per_element(values["zeros"], values["count"])


class Counts(Summed[CountsState]):
    """Numbers of elements, kept in float64: exact to 2**53."""

    state = CountsState
    values = (
        Value("count", whole=True),
        Value("zeros", whole=True, special=True),
        Value("nans", whole=True, special=True),
        Value("infs", whole=True, special=True),
    )
    quantities = (
        Quantity("zeros", "share that did not change", "share of zeros", 5, _share_of_zeros),
    )

    def compute(self, state: CountsState) -> dict[str, Any]:
        return {
            name: np.asarray(value).astype(np.int64) for name, value in state._asdict().items()
        }


#: Number of finite elements, their mean, and the sum of squares about it.
MomentsState = namedtuple("MomentsState", "n mean m2")

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
        summed = reductions.sum(xp.stack([state.n, state.n * state.mean], axis=-1))
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


#: Smallest and largest finite element; +inf and -inf where there is none.
ExtremaState = namedtuple("ExtremaState", "min max")


class Extrema(Summed[ExtremaState]):
    """Minimum and maximum of the finite elements."""

    state = ExtremaState
    values = (Value("min", compared=True), Value("max", compared=True))

    def empty(self) -> ExtremaState:
        return ExtremaState(np.inf, -np.inf)

    def merge(self, a: ExtremaState, b: ExtremaState) -> ExtremaState:
        xp = namespace(*a, *b)
        return ExtremaState(xp.minimum(a.min, b.min), xp.maximum(a.max, b.max))

    def reduce_replicas(self, state: ExtremaState, reductions: Reductions) -> ExtremaState:
        return ExtremaState(reductions.min(state.min), reductions.max(state.max))

    def compute(self, state: ExtremaState) -> dict[str, Any]:
        low, high = (np.asarray(x, dtype=np.float64) for x in state)
        some = low <= high
        return {"min": np.where(some, low, np.nan), "max": np.where(some, high, np.nan)}


#: Sum of absolute values and sum of squares of the finite elements.
NormsState = namedtuple("NormsState", "l1 l2sq")


def _mean_size(values: Values) -> Floats:
    return per_element(values["l1"], finite(values))


class Norms(Summed[NormsState]):
    """``l1``, the sum of absolute values, and ``l2``, the Euclidean norm.

    The square of the norm is kept, since squares add up and norms do not.
    """

    state = NormsState
    values = (Value("l1", compared=True), Value("l2", compared=True, logged=True))
    quantities = (
        Quantity("size", "mean |change|", "mean |value|", 0, _mean_size),
        Quantity("l2", "L2 norm of the change", "L2 norm of the value", 6),
    )

    def compute(self, state: NormsState) -> dict[str, Any]:
        return {"l1": np.asarray(state.l1), "l2": np.sqrt(state.l2sq)}
