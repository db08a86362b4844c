"""How large the finite elements are, taken together."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from distwatch.statistics.base import Reductions, Summed
from distwatch.statistics.basic_sums import BasicSums


class NormsState(NamedTuple):
    """Sum of absolute values and sum of squares of the finite elements."""

    l1: Any
    l2sq: Any


class Norms(Summed[NormsState]):
    """``l1``, the sum of absolute values, and ``l2``, the Euclidean norm.

    The square of the norm is kept, since squares add up and norms do not.
    """

    fields = NormsState._fields

    def empty(self) -> NormsState:
        return NormsState(0.0, 0.0)

    def from_passes(self, passes: BasicSums) -> NormsState:
        return NormsState(passes.l1, passes.l2sq)

    def merge(self, a: NormsState, b: NormsState) -> NormsState:
        return NormsState(a.l1 + b.l1, a.l2sq + b.l2sq)

    def reduce_replicas(self, state: NormsState, reductions: Reductions) -> NormsState:
        return self.unpack(reductions.sum(self.pack(state)))

    def compute(self, state: NormsState) -> dict[str, Any]:
        return {"l1": np.asarray(state.l1), "l2": np.sqrt(state.l2sq)}
