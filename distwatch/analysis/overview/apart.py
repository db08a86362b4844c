"""How far the replicas lie apart in each signal of a table, as its rows come."""

from __future__ import annotations

import numpy as np

from distwatch.analysis.overview.binning import Floats
from distwatch.statistics import Values, finite, spread


class Apart:
    """Sums over the steps of how far the replicas' means lie apart.

    They are measured in standard deviations of the elements within a replica. What is one
    number on each replica, as a loss is, has none, and its distance within a step would be
    all noise: the replicas' means over all steps are compared, in standard deviations of that
    noise. It is how the number varies from one step to the next, divided by the square root
    of 2, since both steps vary.

    Args:
        replicas: how many there are.
        signals: how many the table has.
    """

    def __init__(self, replicas: int, signals: int) -> None:
        self._apart = np.zeros((2, signals))
        self._offset, self._raw_offset = np.zeros((2, 2, replicas, signals))
        self._steps = np.zeros((2, signals))
        self._last = np.full((replicas, signals), np.nan)

    def observe(self, known: Values) -> None:
        """Take the next rows: values of shape (step, series, signal), all together last."""
        mean = known["mean"]
        # Two replicas at least can be compared.
        several = (~np.isnan(mean[:, :-1])).sum(axis=1) > 1
        offset = np.where(several[:, None], mean[:, :-1] - mean[:, -1:], np.nan)
        scaled = offset / _width(known)[:, None]
        scaled = np.where(np.isfinite(scaled), scaled, np.nan)
        self._apart += _summed(spread(scaled, axis=1))
        self._offset += _summed(scaled)
        self._raw_offset += _summed(offset)
        steps = np.diff(np.concatenate([self._last[None], mean[:, :-1]]), axis=0)
        self._steps += _summed((steps**2).reshape(-1, steps.shape[-1]))
        self._last = mean[-1, :-1]

    def apart(self) -> Floats:
        """The distance of the furthest two: shape (signal,)."""
        single = spread(self._of_noise(), axis=0)
        return np.where(self._apart[1] > 0, _quotient(*self._apart), single)

    def offset(self) -> Floats:
        """How far each one's mean lies from that of all: shape (replica, signal)."""
        return np.where(self._offset[1] > 0, _quotient(*self._offset), self._of_noise())

    def _of_noise(self) -> Floats:
        noise = np.sqrt(_quotient(*self._steps) / 2.0)
        return np.asarray(_quotient(*self._raw_offset) / np.where(noise > 0, noise, np.nan))


def _width(known: Values) -> Floats:
    """The standard deviation within replicas; NaN where there is none: (step, signal)."""
    number = finite(known)[:, :-1]
    squares = np.where(number > 0, number * known["std"][:, :-1] ** 2, 0.0).sum(axis=1)
    width = np.sqrt(squares / number.sum(axis=1))
    return np.where(width > 0, width, np.nan)


def _summed(values: Floats) -> Floats:
    """The sum over the steps of what is known, and of how many: shape (2, ...)."""
    known = np.isfinite(values)
    return np.stack([np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)])


def _quotient(total: Floats, number: Floats) -> Floats:
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
