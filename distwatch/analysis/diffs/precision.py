"""In which number format a run computes, and how much of a difference that explains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distwatch.findings.distances import FORMATS, eps_of
from distwatch.findings.origins import kind_of
from distwatch.records import Floats
from distwatch.statistics import ROW
from distwatch.store import StoredRun
from distwatch.store.readable_tables import Array

_FIELD = {name: i for i, name in enumerate(ROW.fields)}

#: So many different values are no constants, such as the ends of a clipped activation.
_ENOUGH_VALUES = 8

#: No difference of a coarse format has more digits: half of the way to the next finer one.
_FEW_DIGITS = (FORMATS["float16"] + FORMATS["float32"]) / 2


@dataclass(frozen=True)
class Precision:
    """The coarsest number format in which a model computes."""

    name: str

    @property
    def eps(self) -> float:
        """The relative distance of a number to the next one."""
        return eps_of(self.name)

    @property
    def tolerance(self) -> float:
        """How large a relative difference has to be to say anything: the root of `eps`.

        Half of the digits then agree. It is the default of Julia's ``isapprox``, and the
        error that Higham ("Accuracy and Stability of Numerical Algorithms", 2002) and
        others allow a computation of unknown condition.
        """
        return float(np.sqrt(self.eps))


def precision_of(stored: StoredRun) -> Precision:
    """The coarsest format in which a run computes, as its values show; else float32.

    The extremes of a tensor are elements of it, and elements of bfloat16 have 8 significant
    digits at most, wherever they are stored. Differences of two of them have a few more.
    A model's layers may have formats of their own, so the coarsest of its activations
    counts. What is left of a gradient that cancels out has few digits in any format, so of
    gradients it is the one in the middle.
    """
    digits: dict[str, list[float]] = {"activation": [], "gradient_local": [], "gradient": []}
    for table in stored.tables.values():
        states = table.read("merged", slice(0, table.table.window))
        for place, signal in enumerate(table.table.signals):
            if (kind := kind_of(signal.name)) in digits:
                digits[kind] += _digits(states[:, place])
    gradients = digits["gradient_local"] or digits["gradient"]
    found = [*digits["activation"], *([float(np.median(gradients))] if gradients else [])]
    fewest = min(found, default=float(FORMATS["float32"]))
    return Precision(min(FORMATS, key=lambda name: abs(FORMATS[name] - fewest)))


def _digits(states: Array) -> list[float]:
    """How many significant digits a signal's extremes have, if there are enough of them."""
    values = states[:, [_FIELD["min"], _FIELD["max"]]].ravel()
    # Each value once: outputs that are saturated are 0 and 1 at most steps, in any format.
    values = np.unique(np.abs(values[np.isfinite(values) & (values != 0)]))
    if len(values) < _ENOUGH_VALUES:
        return []
    digits = _significant_digits(values)
    # A difference of numbers that are almost equal has few digits in any format, so the
    # largest ones tell whether the format has few.
    of_largest = float(np.median(digits[-_ENOUGH_VALUES:]))
    return [of_largest if of_largest > _FEW_DIGITS else float(np.median(digits))]


def _significant_digits(values: Floats) -> Array:
    """How many binary digits of each number there are up to the last that is not 0."""
    whole = np.abs(np.frexp(values)[0] * 2.0**53).astype(np.int64)
    lowest = whole & -whole
    return np.asarray(53 - np.log2(lowest.astype(np.float64)))
