"""How far apart two rows are, relative to their size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distwatch.findings.copies import is_copied
from distwatch.findings.origins import BACKWARDS, kind_of
from distwatch.records import Floats
from distwatch.signals import Signal
from distwatch.statistics import ROW

_FIELD = {name: i for i, name in enumerate(ROW.fields)}

#: Digits of the significand, the leading one included, of the number formats of networks.
FORMATS = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}


def eps_of(name: str) -> float:
    """The relative distance of a number of a format to the next one."""
    return 2.0 ** (1 - FORMATS[name])


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
        signals: of which rows are.
        eps: the rounding of the coarser run.
        merged: whether rows are merged over replicas, of which there may be other numbers.
    """

    def __init__(self, signals: Sequence[Signal], eps: float, *, merged: bool = False) -> None:
        kinds = [kind_of(signal.name) for signal in signals]
        self._kinds = [np.flatnonzero([kind == one for kind in kinds]) for one in set(kinds)]
        self._floor = np.array([np.sqrt(eps) if kind in BACKWARDS else eps for kind in kinds])
        # Losses and logged numbers are of each replica's own part of the batch: their mean
        # alone is the same over any split.
        self._only_mean = np.array([merged and kind in ("loss", "log") for kind in kinds])
        self._one_each = np.array([merged and one_a_replica(s) for s in signals])

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

    def _counted_otherwise(self, a: Floats, b: Floats) -> Any:
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
