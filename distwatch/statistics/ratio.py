"""The size of a change relative to what it changed."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import numpy as np

from distwatch.statistics.arrays import namespace
from distwatch.statistics.base import Observation, Quantity, Statistic, Value

#: Sums of squares of a change and of the weight that it changed.
RatioState = namedtuple("RatioState", "change_l2sq weight_l2sq")


class Ratio(Statistic[RatioState]):
    """``ratio``, the update-to-weight ratio: the norm of a change over that of its weight.

    The weight is the change's companion (`Observation.companion`), as it was before the
    change. Merged over steps or replicas it is the ratio of the norms of all of them
    together. NaN where the weight is zero, or there is no companion.
    """

    name = "ratio"
    state = RatioState
    values = (Value("ratio", logged=True),)
    quantities = (Quantity("ratio", "|update| / |weight|", "|update| / |weight|", 1),)
    automatic_for = ("updates",)

    def observe(self, seen: Observation) -> RatioState:
        return self.unpack(self.observe_all([seen])[0])

    def observe_all(self, seen: Sequence[Observation]) -> Any:
        """The packed states of several changes, by as few operations as there can be."""
        changes = [each.delta for each in seen]
        nothing = np.zeros(0, np.float32)
        weights = [nothing if each.companion is None else each.companion for each in seen]
        xp = namespace(*changes)
        return self.pack(RatioState(xp.sums_of_squares(changes), xp.sums_of_squares(weights)))

    def compute(self, state: RatioState) -> dict[str, Any]:
        weight = np.asarray(state.weight_l2sq, np.float64)
        some = weight > 0
        # A training that diverged has infinite norms: their ratio is NaN, and no warning.
        with np.errstate(invalid="ignore", over="ignore"):
            ratio = np.sqrt(state.change_l2sq / np.where(some, weight, 1.0))
        return {"ratio": np.where(some, ratio, np.nan)}
