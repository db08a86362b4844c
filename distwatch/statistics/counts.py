"""How many elements were compared, and how many of them are special."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from distwatch.statistics.base import Summed
from distwatch.statistics.basic_sums import BasicSums
from distwatch.statistics.values import Floats, Quantity, Value, Values, per_element


class CountsState(NamedTuple):
    """Numbers of elements: all, exactly zero, NaN, and infinite of either sign."""

    count: Any
    zeros: Any
    nans: Any
    infs: Any


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

    def from_sums(self, sums: BasicSums) -> CountsState:
        return CountsState(sums.count, sums.zeros, sums.nans, sums.infs)

    def compute(self, state: CountsState) -> dict[str, Any]:
        return {
            name: np.asarray(value).astype(np.int64) for name, value in state._asdict().items()
        }
