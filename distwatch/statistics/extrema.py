"""The smallest and the largest finite element."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from distwatch.statistics.arrays import namespace
from distwatch.statistics.base import Reductions, Summed
from distwatch.statistics.basic_sums import BasicSums
from distwatch.statistics.values import Value


class ExtremaState(NamedTuple):
    """Smallest and largest finite element; +inf and -inf where there is none."""

    min: Any
    max: Any


class Extrema(Summed[ExtremaState]):
    """Minimum and maximum of the finite elements."""

    state = ExtremaState
    values = (Value("min", compared=True), Value("max", compared=True))

    def empty(self) -> ExtremaState:
        return ExtremaState(np.inf, -np.inf)

    def from_sums(self, sums: BasicSums) -> ExtremaState:
        return ExtremaState(sums.min, sums.max)

    def merge(self, a: ExtremaState, b: ExtremaState) -> ExtremaState:
        xp = namespace(*a, *b)
        return ExtremaState(xp.minimum(a.min, b.min), xp.maximum(a.max, b.max))

    def reduce_replicas(self, state: ExtremaState, reductions: Reductions) -> ExtremaState:
        return ExtremaState(reductions.min(state.min), reductions.max(state.max))

    def compute(self, state: ExtremaState) -> dict[str, Any]:
        low, high = (np.asarray(x, dtype=np.float64) for x in state)
        some = low <= high
        return {"min": np.where(some, low, np.nan), "max": np.where(some, high, np.nan)}
