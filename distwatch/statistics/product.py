"""Several statistics of the same values, side by side."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, cast

from distwatch.statistics.arrays import namespace
from distwatch.statistics.base import Observation, Reductions, Statistic, Summed
from distwatch.statistics.basic_sums import BasicSums

States = tuple[Any, ...]


class Product(Statistic[States]):
    """The product of monoids: its state is the tuple of its parts' states."""

    def __init__(self, parts: tuple[Statistic[Any], ...]) -> None:
        self.parts = parts

    @functools.cached_property
    def fields(self) -> tuple[str, ...]:
        # Made only when they are needed: a histogram may have millions.
        return tuple(field for part in self.parts for field in part.fields)

    @property
    def columns(self) -> int:
        return sum(part.columns for part in self.parts)

    def spec(self) -> dict[str, Any]:
        return {"parts": [part.spec() for part in self.parts]}

    def empty(self) -> States:
        return tuple(part.empty() for part in self.parts)

    def observe(self, seen: Observation) -> States:
        return tuple(part.observe(seen) for part in self.parts)

    def from_sums(self, sums: BasicSums) -> States:
        """The states of values that were summed up, if all parts are `Summed`."""
        return tuple(cast(Summed[Any], part).from_sums(sums) for part in self.parts)

    def merge(self, a: States, b: States) -> States:
        return tuple(p.merge(x, y) for p, x, y in zip(self.parts, a, b, strict=True))

    def reduce_replicas(self, state: States, reductions: Reductions) -> States:
        return tuple(p.reduce_replicas(x, reductions) for p, x in self._pairs(state))

    def compute(self, state: States) -> dict[str, Any]:
        computed: dict[str, Any] = {}
        for part, part_state in self._pairs(state):
            computed.update(part.compute(part_state))
        return computed

    def flatten(self, state: States) -> tuple[Any, ...]:
        return tuple(x for part, s in self._pairs(state) for x in part.flatten(s))

    def unflatten(self, arrays: tuple[Any, ...]) -> States:
        remaining = iter(arrays)
        return tuple(part.unflatten(_take(remaining, part)) for part in self.parts)

    def pack(self, state: States) -> Any:
        if not self.wide:
            # One operation in the training step, where a part each would be several.
            return super().pack(state)
        packed = [part.pack(s) for part, s in self._pairs(state)]
        return namespace(*packed).concat(packed, axis=-1)

    def unpack(self, packed: Any) -> States:
        self.check_columns(packed)
        states, start = [], 0
        for part in self.parts:
            stop = start + len(part.fields)
            states.append(part.unpack(packed[..., start:stop]))
            start = stop
        return tuple(states)

    @property
    def wide(self) -> bool:
        return any(part.wide for part in self.parts)

    def _pairs(self, state: States) -> Iterator[tuple[Statistic[Any], Any]]:
        return zip(self.parts, state, strict=True)


def _take(arrays: Iterator[Any], part: Statistic[Any]) -> tuple[Any, ...]:
    return tuple(next(arrays) for _ in part.fields)
