"""A histogram whose quantiles have a declared relative accuracy."""

from __future__ import annotations

import functools
import itertools
import math
from collections import namedtuple
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from distwatch.errors import ConfigError
from distwatch.statistics.arrays import namespace
from distwatch.statistics.base import Floats, Observation, Statistic

#: Bits of the mantissa of a float, and the bias of its exponent.
_FLOAT_LAYOUT = {"float32": (23, 127), "float64": (52, 1023)}

#: Numbers of elements: shape (..., bucket).
LogHistogramState = namedtuple("LogHistogramState", "counts")


@dataclass(frozen=True)
class LogHistogram(Statistic[LogHistogramState]):
    """Counts in fixed log-linear buckets, from which quantiles are read.

    Of the family of DDSketch (Masson, Rim & Lee, "DDSketch: a fast and fully-mergeable
    quantile sketch with relative-error guarantees", VLDB 2019). The buckets are signed
    and fixed, so counts merge exactly. Each octave is split into equal parts, which are
    read off the bits of a number without a logarithm.

    In order: -inf, beyond ``largest``, the negative buckets, nearer to zero than
    ``smallest``, the positive buckets, beyond ``largest``, +inf. NaN is in none.

    Args:
        accuracy: the largest relative error asked for; `relative_accuracy` is kept.
        smallest: absolute values below it count as zero.
        largest: absolute values above it share one bucket.

    Raises:
        ConfigError: an argument is out of range.
    """

    name: ClassVar[str] = "histogram"
    state: ClassVar[type[LogHistogramState]] = LogHistogramState
    parameters: ClassVar[dict[str, dict[str, Any]]] = {
        "accuracy": {"type": "number", "minimum": 1e-4, "exclusiveMaximum": 1},
        "smallest": {"type": "number", "exclusiveMinimum": 0},
        "largest": {"type": "number", "exclusiveMinimum": 0},
    }

    accuracy: float = 0.05
    smallest: float = 1e-12
    largest: float = 1e9

    def __post_init__(self) -> None:
        if not 1e-4 <= self.accuracy < 1:
            raise ConfigError(
                f"histogram(accuracy={self.accuracy}): give a relative error from 0.0001 to "
                "1, such as 0.05."
            )
        if not 1e-37 <= self.smallest < self.largest <= 1e38:
            raise ConfigError(
                f"histogram(smallest={self.smallest}, largest={self.largest}): give two "
                "numbers from 1e-37 to 1e38, the smallest first."
            )

    @property
    def wide(self) -> bool:
        return True

    @functools.cached_property
    def _bits(self) -> int:
        """Bits of the mantissa that select a bucket: an octave has 2**bits buckets."""
        return next(m for m in itertools.count() if _accuracy(m) <= self.accuracy)

    @functools.cached_property
    def _octaves(self) -> tuple[int, int]:
        # Exact, where a logarithm would round a number just below a power of two to it.
        (_, low), (part, high) = math.frexp(self.smallest), math.frexp(self.largest)
        return low - 1, high - (part == 0.5)

    @property
    def relative_accuracy(self) -> float:
        """The largest relative error of a quantile: from a bucket's end to its centre."""
        return _accuracy(self._bits)

    @functools.cached_property
    def _positive(self) -> int:
        low, high = self._octaves
        return (high - low) << self._bits

    @property
    def columns(self) -> int:
        return 2 * self._positive + 5

    @functools.cached_property
    def _positive_edges(self) -> Floats:
        """The ends of the positive buckets: shape (octave, 1 + buckets of an octave)."""
        low, high = self._octaves
        parts = 1.0 + np.arange(2**self._bits + 1) / 2**self._bits
        return np.asarray(parts * 2.0 ** np.arange(low, high)[:, None])

    @functools.cached_property
    def centres(self) -> Floats:
        """The value that each bucket stands for: shape (bucket,)."""
        edges = self._positive_edges
        # This mean of a bucket's ends is equally far from both, relative to them.
        centres = (2.0 * edges[:, :-1] * edges[:, 1:] / (edges[:, :-1] + edges[:, 1:])).ravel()
        beyond = edges[-1, -1]
        ends = [beyond, np.inf]
        return np.concatenate([[-np.inf, -beyond], -centres[::-1], [0.0], centres, ends])

    @functools.cached_property
    def edges(self) -> Floats:
        """Where the buckets of finite values, all but the first and the last, meet.

        Shape (bucket - 1,): the k-th of them lies between the k-th edge and the next one.
        The ends are those of float64.
        """
        edges = self._positive_edges
        rising = np.append(edges[:, :-1].ravel(), edges[-1, -1])
        largest = np.finfo(np.float64).max
        return np.concatenate([[-largest], -rising[::-1], rising, [largest]])

    @functools.cached_property
    def fields(self) -> tuple[str, ...]:
        return tuple(f"histogram[{centre:.6g}]" for centre in self.centres)

    def empty(self) -> LogHistogramState:
        return LogHistogramState(np.zeros(len(self.centres)))

    def observe(self, seen: Observation) -> LogHistogramState:
        places = self.places(seen.delta)
        # The last place is that of NaN.
        return LogHistogramState(namespace(places).bincount(places, len(self.centres) + 1)[:-1])

    def places(self, delta: Any) -> Any:
        """The bucket of each element, as whole numbers: shape (element,).

        The number of buckets for NaN.
        """
        xp = namespace(delta)
        flat = xp.flat(delta)
        pattern = xp.pattern(abs(flat))
        mantissa, bias = _FLOAT_LAYOUT[flat.dtype.name]
        low, _ = self._octaves
        number = xp.shifted(pattern, mantissa - self._bits) - ((bias + low) << self._bits)
        number = xp.minimum(xp.maximum(number + 1, 0), self._positive + 1)
        infinite = pattern >= (2 * bias + 1) << mantissa
        number = xp.where(infinite, self._positive + 2, number)
        middle = self._positive + 2
        places = xp.where(flat < 0, middle - number, middle + number)
        return xp.where(xp.isnan(flat), len(self.centres), places)

    def compute(self, state: LogHistogramState) -> dict[str, Any]:
        # Quantiles need the extremes, too: see `quantile`.
        return {}

    def pack(self, state: LogHistogramState) -> Any:
        return state.counts

    def unpack(self, packed: Any) -> LogHistogramState:
        self.check_columns(packed)
        return LogHistogramState(packed)

    def quantile(self, counts: Any, low: Any, high: Any, q: Any) -> Floats:
        """Quantiles as ``numpy.quantile`` gives them, to `relative_accuracy`.

        The two order statistics that NumPy interpolates between are each known to the
        relative accuracy (or ``smallest``), the extremes exactly.

        Args:
            counts: shape (..., bucket).
            low: the smallest finite element, shape (...).
            high: the largest, shape (...).
            q: probabilities, shape () or (k,).

        Returns:
            Shape (...) or (..., k); NaN where nothing was counted.
        """
        probabilities = np.atleast_1d(np.asarray(q, np.float64))
        cumulated = np.cumsum(np.asarray(counts, np.float64), axis=-1)
        flat = cumulated.reshape(-1, cumulated.shape[-1])
        lows, highs = (np.broadcast_to(x, cumulated.shape[:-1]).ravel() for x in (low, high))
        rows = [
            self._quantiles(*row, probabilities) for row in zip(flat, lows, highs, strict=True)
        ]
        shape = (*cumulated.shape[:-1], len(probabilities))
        found = np.reshape(rows, shape) if rows else np.zeros(shape)
        return found if np.ndim(q) else found[..., 0]

    def _quantiles(self, cumulated: Floats, low: Any, high: Any, q: Floats) -> Floats:
        total = cumulated[-1]
        if total == 0:
            return np.full(len(q), np.nan)
        rank = q * (total - 1)
        below, weight = np.floor(rank), rank - np.floor(rank)
        ends = [
            self._order_statistic(cumulated, low, high, np.minimum(r, total - 1))
            for r in (below, below + 1)
        ]
        with np.errstate(invalid="ignore"):
            between = ends[0] * (1 - weight) + ends[1] * weight
        return np.where((weight == 0) | (ends[0] == ends[1]), ends[0], between)

    def _order_statistic(self, cumulated: Floats, low: Any, high: Any, rank: Floats) -> Floats:
        """The element of each rank, counted from 0."""
        values = self.centres[np.searchsorted(cumulated, rank, side="right")]
        values = np.where(np.isfinite(values), np.clip(values, low, high), values)
        values = np.where(rank == cumulated[0], low, values)
        values = np.where(rank == cumulated[-2] - 1, high, values)
        values = np.where(rank < cumulated[0], -np.inf, values)
        return np.where(rank >= cumulated[-2], np.inf, values)


def _accuracy(bits: int) -> float:
    """How far, relative to it, the centre of a bucket is from the values in it at most."""
    return 1.0 / (2.0 ** (bits + 1) + 1.0)
