"""How many elements were compared, and how many of them are special."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from distwatch.statistics.base import Reductions, Summed
from distwatch.statistics.basic_sums import BasicSums


class CountsState(NamedTuple):
    """Numbers of elements: all, exactly zero, NaN, and infinite of either sign."""

    count: Any
    zeros: Any
    nans: Any
    infs: Any


class Counts(Summed[CountsState]):
    """Numbers of elements, kept in float64: exact to 2**53."""

    fields = CountsState._fields

    def empty(self) -> CountsState:
        return CountsState(0.0, 0.0, 0.0, 0.0)

    def from_passes(self, passes: BasicSums) -> CountsState:
        return CountsState(passes.count, passes.zeros, passes.nans, passes.infs)

    def merge(self, a: CountsState, b: CountsState) -> CountsState:
        return CountsState(*(x + y for x, y in zip(a, b, strict=True)))

    def reduce_replicas(self, state: CountsState, reductions: Reductions) -> CountsState:
        return self.unpack(reductions.sum(self.pack(state)))

    def compute(self, state: CountsState) -> dict[str, Any]:
        return {
            name: np.asarray(value).astype(np.int64) for name, value in state._asdict().items()
        }
