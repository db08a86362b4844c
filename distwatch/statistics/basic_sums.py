"""Sums over the values of a delta, computed once for all statistics of a row.

Reading the values is what costs; deriving states from the sums does not. So the
values are read once, here (on the host) or in ``distwatch.training.device.kernels`` (inside the
training graph), and every statistic takes what it needs from the result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class BasicSums(NamedTuple):
    """Sums over the values of a delta, float64, all of one shape (one value a signal).

    ``count`` is the number of elements, finite or not; ``zeros``, ``nans`` and
    ``infs`` are parts of it. Everything else is over the finite elements only:
    ``mean`` and ``m2`` (the sum of squared deviations from it) are 0, ``min``
    +inf and ``max`` -inf where there is none.
    """

    count: Any
    zeros: Any
    nans: Any
    infs: Any
    mean: Any
    m2: Any
    min: Any
    max: Any
    l1: Any
    l2sq: Any

    @property
    def n(self) -> Any:
        """The number of finite elements."""
        return self.count - self.nans - self.infs


def measure(values: npt.ArrayLike) -> BasicSums:
    """Sum up an array of any shape, in float64.

    The mean is taken first and the squares about it, so a standard deviation of
    1 at a mean of 1e8 is still exact to 1e-8.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    finite = array[np.isfinite(array)]
    nans = np.count_nonzero(np.isnan(array))
    mean = finite.mean() if finite.size else 0.0
    return BasicSums(
        count=np.float64(array.size),
        zeros=np.float64(array.size - np.count_nonzero(array)),
        nans=np.float64(nans),
        infs=np.float64(array.size - finite.size - nans),
        mean=np.float64(mean),
        m2=np.square(finite - mean).sum(),
        min=finite.min(initial=np.inf),
        max=finite.max(initial=-np.inf),
        l1=np.abs(finite).sum(),
        l2sq=np.square(finite).sum(),
    )
