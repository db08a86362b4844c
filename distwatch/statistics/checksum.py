"""A checksum of a batch, by which equal batches are found."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from distwatch.statistics.arrays import namespace
from distwatch.statistics.base import Observation, Reductions, Statistic, Value

#: Checksums are smaller than this, so that float64 holds the sum over 8192 replicas.
_MODULUS = 2**40

#: An odd number with well mixed bits (that of Knuth's multiplicative hashing, doubled).
_MIX = 0x1E3779B97F4A7C15


#: A whole number below 2**40; 0 for no elements.
ChecksumState = namedtuple("ChecksumState", "checksum")


def weighted(bits: Any) -> Any:
    """The terms of a checksum: flat int64 patterns, mixed and weighted by their places.

    Floats such as 1 and 2 differ in high bits only, which a product pushes out. So high bits
    are mixed into low ones first, and the high bits of the terms' sum are kept. Overflow
    wraps around in the same way everywhere. Zeros have to count, so one is added.
    """
    xp = namespace(bits)
    mixed = (bits + 1) * _MIX
    mixed = mixed ^ xp.shifted(mixed, 32)
    return mixed * xp.odd_numbers(bits)


def checksum_of(total: Any) -> Any:
    """The checksum, as float64, of which ``total`` is the sum of `weighted` terms, int64."""
    xp = namespace(total)
    return xp.cast(xp.shifted(total, 24) % _MODULUS, "float64")


class Checksum(Statistic[ChecksumState]):
    """``checksum`` of the bits of the watched values, each weighted by its position.

    Equal for equal batches. One changed bit, or two exchanged values, give a different
    checksum, except with a probability of 1e-12. It is an integer sum, so it does not
    depend on the order of summation.
    """

    name = "checksum"
    state = ChecksumState
    values = (Value("checksum", whole=True),)
    automatic_for = ("inputs", "desync", "canary")

    def observe(self, seen: Observation) -> ChecksumState:
        xp = namespace(seen.signal)
        bits = xp.cast(xp.pattern(seen.signal), "int64")
        return ChecksumState(checksum_of(xp.sum(weighted(bits))))

    def merge(self, a: ChecksumState, b: ChecksumState) -> ChecksumState:
        return ChecksumState((a.checksum + b.checksum) % _MODULUS)

    def reduce_replicas(self, state: ChecksumState, reductions: Reductions) -> ChecksumState:
        return ChecksumState(reductions.sum(state.checksum) % _MODULUS)

    def compute(self, state: ChecksumState) -> dict[str, Any]:
        return {"checksum": np.asarray(state.checksum).astype(np.int64)}
