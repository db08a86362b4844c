"""How far apart two rows are, relative to their size, and how much of that rounding can be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distwatch.analysis.diffs.joining import TablePair
from distwatch.findings.copies import is_copied
from distwatch.findings.origins import BACKWARDS, kind_of
from distwatch.records import Floats
from distwatch.signals import Signal
from distwatch.statistics import ROW
from distwatch.store import StoredRun
from distwatch.store.joining import Array

_FIELD = {name: i for i, name in enumerate(ROW.fields)}

#: Digits of the significand, the leading one included, of the number formats of networks.
_FORMATS = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}

#: So many different values are no constants, such as the ends of a clipped activation.
_ENOUGH_VALUES = 8


@dataclass(frozen=True)
class Precision:
    """The coarsest number format in which a model computes."""

    name: str

    @property
    def eps(self) -> float:
        """The relative distance of a number to the next one."""
        return 2.0 ** (1 - _FORMATS[self.name])

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
    fewest = min(found, default=float(_FORMATS["float32"]))
    return Precision(min(_FORMATS, key=lambda name: abs(_FORMATS[name] - fewest)))


def _digits(states: Array) -> list[float]:
    """How many significant digits a signal's extremes have, if there are enough of them."""
    values = states[:, [_FIELD["min"], _FIELD["max"]]].ravel()
    values = values[np.isfinite(values) & (values != 0)]
    if len(np.unique(values)) < _ENOUGH_VALUES:
        return []
    return [float(np.median(_significant_digits(values)))]


def _significant_digits(values: Floats) -> Array:
    """How many binary digits of each number there are up to the last that is not 0."""
    whole = np.abs(np.frexp(values)[0] * 2.0**53).astype(np.int64)
    lowest = whole & -whole
    return np.asarray(53 - np.log2(lowest.astype(np.float64)))


class Distance:
    """The relative difference of two rows of each signal.

    It is the largest of the differences of four means over elements (of the values, their
    sizes, squares and squared deviations, the latter two as roots), divided by the root
    mean square of the run where that is smaller. So a factor of ten is 9, whichever run has
    it. Extremes are left to the comparison bit by bit: one element decides them.

    A difference is of the size of a signal's own noise where its elements cancel out, as
    those of the gradient of a bias before a normalization do: what is left is rounding of
    much larger numbers. So no signal of the backward pass is measured by less than the
    root of ``eps`` times the largest of its kind, and differences below ``eps`` times that
    are within the tolerance: ``atol = eps * largest``, ``rtol = sqrt(eps)``.

    Args:
        pair: the signals.
        eps: the rounding of the coarser run.
    """

    def __init__(self, pair: TablePair, eps: float) -> None:
        signals = pair.signals
        kinds = [kind_of(signal.name) for signal in signals]
        self._merged = pair.merged
        self._kinds = [np.flatnonzero([kind == one for kind in kinds]) for one in set(kinds)]
        self._floor = np.array([np.sqrt(eps) if kind in BACKWARDS else eps for kind in kinds])
        # Losses and logged numbers are of each replica's own part of the batch: their mean
        # alone is the same over any split.
        self._only_mean = np.array([pair.merged and kind in ("loss", "log") for kind in kinds])
        self._one_each = np.array([pair.merged and one_a_replica(s) for s in signals])

    @np.errstate(all="ignore")
    def of(self, a: Floats, b: Floats) -> Floats:
        """The relative difference of rows: (n, series, signal, field) -> (n, series, signal).

        It is infinite where one run has NaN or Inf, or elements at all, and the other has
        not.
        """
        x, y = _means(a), _means(b)
        scale = self._scale(x["root"], y["root"])
        each = [abs(x[name] - y[name]) / scale for name in x]
        largest = np.fmax.reduce(each)
        largest = np.where(self._only_mean, abs(x["mean"] - y["mean"]) / scale, largest)
        largest = np.where(np.isnan(largest), 0.0, largest)
        return np.asarray(np.where(self._counted_otherwise(a, b), np.inf, largest))

    def _scale(self, a: Floats, b: Floats) -> Floats:
        scale = np.minimum(a, b)
        for kind in self._kinds:
            largest = np.maximum(a[..., kind], b[..., kind]).max(axis=-1, keepdims=True)
            scale[..., kind] = np.maximum(scale[..., kind], self._floor[kind] * largest)
        return np.asarray(scale)

    def _counted_otherwise(self, a: Floats, b: Floats) -> Array:
        """Where the numbers of elements, or of those that are not finite, differ."""
        one, other = a[..., _FIELD["count"]], b[..., _FIELD["count"]]
        special = [_FIELD["nans"], _FIELD["infs"]]
        shares = [
            x[..., special] / np.maximum(n, 1.0)[..., None] for x, n in ((a, one), (b, other))
        ]
        sizes = (one != other) & ~self._one_each
        return np.asarray(sizes | (shares[0] != shares[1]).any(axis=-1))


def one_a_replica(signal: Signal) -> bool:
    """Whether each replica has a whole one, so that there are more with more replicas."""
    kind = kind_of(signal.name)
    return kind in BACKWARDS or kind in ("loss", "log", "probe") or is_copied(signal)


def _means(states: Floats) -> dict[str, Floats]:
    """Means over the finite elements of each row: shape (n, series, signal) each."""
    n = np.maximum(states[..., _FIELD["n"]], 1.0)
    return {
        "mean": states[..., _FIELD["mean"]],
        "size": states[..., _FIELD["l1"]] / n,
        "root": np.sqrt(states[..., _FIELD["l2sq"]] / n),
        "spread": np.sqrt(states[..., _FIELD["m2"]] / n),
    }
