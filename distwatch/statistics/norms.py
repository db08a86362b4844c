"""The L1 and L2 norms of the finite elements."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from distwatch.statistics.base import Summed
from distwatch.statistics.basic_sums import BasicSums
from distwatch.statistics.values import Floats, Quantity, Value, Values, finite, per_element


class NormsState(NamedTuple):
    """Sum of absolute values and sum of squares of the finite elements."""

    l1: Any
    l2sq: Any


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

    def from_sums(self, sums: BasicSums) -> NormsState:
        return NormsState(sums.l1, sums.l2sq)

    def compute(self, state: NormsState) -> dict[str, Any]:
        return {"l1": np.asarray(state.l1), "l2": np.sqrt(state.l2sq)}
