"""Which replicas have the same batch, without a matrix of all pairs of very many."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from distwatch.records import Floats, Ints

#: Up to so many replicas each is compared with each, which takes 2 MB.
_MOST_COMPARED = 512

#: So many pairs are counted of more replicas, each with the first that has its batch.
_MOST_PAIRS = 100_000


class EqualPairs(NamedTuple):
    """Two replicas with equal batches, at how many steps, and how many more such pairs."""

    first: int
    second: int
    steps: int
    more: int


class EqualBatches:
    """Counts at how many steps two replicas have the same batch, by its checksums.

    Args:
        replicas: how many there are.
    """

    def __init__(self, replicas: int) -> None:
        self._compared = replicas <= _MOST_COMPARED
        self._matrix: Ints = np.zeros((replicas,) * 2 if self._compared else (0, 0), np.int64)
        self._pairs: Counter[tuple[int, int]] = Counter()

    def observe(self, checksum: Floats, there: Any) -> None:
        """Take the checksums of some steps.

        Shapes: checksum (n, replica, signal), there (n, replica): whether there is a batch.
        """
        if self._compared:
            self._compare_each(checksum, there)
            return
        for batches, present in zip(checksum, there, strict=True):
            self._pair_with_first(batches, np.flatnonzero(present))

    def most(self) -> EqualPairs | None:
        """The pair that has the same batch most often; None if no two ever had."""
        if self._compared:
            pairs = np.argwhere(self._matrix)
            if not len(pairs):
                return None
            a, b = pairs[np.argmax(self._matrix[tuple(pairs.T)])]
            return EqualPairs(int(a), int(b), int(self._matrix[a, b]), len(pairs) - 1)
        if not self._pairs:
            return None
        (pair, steps) = max(self._pairs.items(), key=lambda each: each[1])
        return EqualPairs(*pair, steps, len(self._pairs) - 1)

    def _compare_each(self, checksum: Floats, there: Any) -> None:
        for a in range(checksum.shape[1] - 1):
            same = (checksum[:, a : a + 1] == checksum[:, a + 1 :]).all(axis=-1)
            together = same & there[:, a : a + 1] & there[:, a + 1 :]
            self._matrix[a, a + 1 :] += together.sum(axis=0)

    def _pair_with_first(self, batches: Floats, present: Ints) -> None:
        _, first, group = np.unique(
            batches[present], axis=0, return_index=True, return_inverse=True
        )
        firsts = present[first[group.reshape(-1)]]
        for a, b in zip(firsts.tolist(), present.tolist(), strict=True):
            known = (a, b) in self._pairs or len(self._pairs) < _MOST_PAIRS
            if a != b and known:
                self._pairs[a, b] += 1
