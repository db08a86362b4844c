"""NaN and Inf in the watched values themselves, whatever they are measured against."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from distwatch.statistics.arrays import namespace
from distwatch.statistics.base import Observation, Statistic, Value

#: Numbers of elements of a signal that are NaN, and that are infinite of either sign.
SignalCountsState = namedtuple("SignalCountsState", "signal_nan_count signal_inf_count")


class SignalCounts(Statistic[SignalCountsState]):
    """NaN and Inf of a signal itself, at every step that is looked at.

    ``nans`` and ``infs`` (`Counts`) are those of the delta. They see nothing where there is no
    reference yet (the first step, sequences of another length), and what is NaN at one step
    also makes the delta of the next one NaN. These do neither.

    They are NaN, which means unknown, in the part of a run that a distwatch wrote which did
    not count them yet, so they are no whole numbers.
    """

    name = "signal_counts"
    state = SignalCountsState
    values = (
        Value("signal_nan_count", special=True),
        Value("signal_inf_count", special=True),
    )
    of_every_signal = True
    added_later = True

    def observe(self, seen: Observation) -> SignalCountsState:
        signal = seen.delta if seen.signal is None else seen.signal
        xp = namespace(signal)
        # Whole numbers, which are always finite, too.
        values = xp.cast(signal, "float64")
        return SignalCountsState(
            *(xp.sum(xp.cast(mask, "float64")) for mask in (xp.isnan(values), xp.isinf(values)))
        )

    def compute(self, state: SignalCountsState) -> dict[str, Any]:
        return {name: np.asarray(x, np.float64) for name, x in state._asdict().items()}
