"""Several statistics of the same values: what a row holds for each of its signals."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from distwatch.statistics.arrays import namespace
from distwatch.statistics.base import Observation, Quantity, Reductions, Statistic, Value
from distwatch.statistics.log_histogram import LogHistogram
from distwatch.statistics.usual import (
    BasicSums,
    Counts,
    Extrema,
    Moments,
    Norms,
    Summed,
    spread,
)

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
        computed = [part.compute(x) for part, x in self._pairs(state)]
        return {name: values for each in computed for name, values in each.items()}

    def flatten(self, state: States) -> tuple[Any, ...]:
        return tuple(x for part, s in self._pairs(state) for x in part.flatten(s))

    def unflatten(self, arrays: tuple[Any, ...]) -> States:
        remaining = iter(arrays)
        return tuple(
            part.unflatten(tuple(itertools.islice(remaining, len(part.fields))))
            for part in self.parts
        )

    def pack(self, state: States) -> Any:
        if not self.wide:
            # One operation in the training step, where a part each would be several.
            return super().pack(state)
        packed = [part.pack(s) for part, s in self._pairs(state)]
        return namespace(*packed).concat(packed, axis=-1)

    def unpack(self, packed: Any) -> States:
        self.check_columns(packed)
        return _unpack_each(self.parts, packed)

    @property
    def wide(self) -> bool:
        return any(part.wide for part in self.parts)

    def _pairs(self, state: States) -> Iterator[tuple[Statistic[Any], Any]]:
        return zip(self.parts, state, strict=True)


def _unpack_each(parts: Sequence[Statistic[Any]], packed: Any) -> States:
    """The state of each part, whose columns follow each other."""
    stops = itertools.accumulate(part.columns for part in parts)
    return tuple(
        part.unpack(packed[..., stop - part.columns : stop])
        for part, stop in zip(parts, stops, strict=True)
    )


#: What every row holds, in the order of the store's columns.
_USUAL = (Counts(), Moments(), Extrema(), Norms())


class Row(Product):
    """The usual statistics, and further ones after them: those of every signal first, then
    scalar ones.
    """

    def __init__(self, further: tuple[Statistic[Any], ...] = ()) -> None:
        #: Those that the rows of the first version did not have.
        self.further = tuple(sorted(further, key=_place))
        super().__init__((*_USUAL, *self.further))

    @functools.cached_property
    def values(self) -> tuple[Value, ...]:  # type: ignore[override]
        """What people read of it, in the order in which it is listed."""
        usual = sorted(_values_of(_USUAL), key=lambda value: value.special)
        return (*usual, *_values_of(self.further))

    @functools.cached_property
    def quantities(self) -> tuple[Quantity, ...]:  # type: ignore[override]
        """What figures draw of it, by rank."""
        return by_rank(self.parts)

    @property
    def histogram(self) -> LogHistogram | None:
        """The histogram among them."""
        return next((part for part in self.further if isinstance(part, LogHistogram)), None)

    @property
    def for_some(self) -> tuple[Statistic[Any], ...]:
        """The further ones that only some signals have."""
        return tuple(part for part in self.further if not part.of_every_signal)

    def read(self, states: Any) -> dict[str, Any]:
        """Derive what people read from packed states, on the host.

        Args:
            states: shape (..., field), of all fields but those of wide statistics; NaN
                where a worker left no row.

        Returns:
            Name -> array of shape (...), NaN where nothing is known.

        Raises:
            StateShapeError: the last dim has not one column for each of these fields.
        """
        absent = np.isnan(states[..., 0])
        if absent.any():
            found = self.read(np.where(absent[..., None], 0.0, states))
            return {name: np.where(absent, np.nan, values) for name, values in found.items()}
        scalars = Product(tuple(part for part in self.parts if not part.wide))
        computed = scalars.compute(scalars.unpack(states))
        compared = computed["count"] > 0
        return {
            value.name: np.where(compared, computed[value.name], np.nan)
            if value.compared
            else computed[value.name]
            for value in self.values
        }


def by_rank(
    statistics: Iterable[Statistic[Any] | type[Statistic[Any]]],
) -> tuple[Quantity, ...]:
    """What figures draw of some statistics, by rank."""
    found = [quantity for each in statistics for quantity in each.quantities]
    return tuple(sorted(found, key=lambda quantity: quantity.rank))


def _place(statistic: Statistic[Any]) -> tuple[bool, bool]:
    return statistic.wide, not statistic.of_every_signal


def _values_of(parts: tuple[Statistic[Any], ...]) -> list[Value]:
    return [value for part in parts for value in part.values]


#: What every row holds for every signal.
ROW = Row()


def with_row(further: tuple[Statistic[Any], ...]) -> Row:
    """The usual statistics with further ones."""
    return Row(further) if further else ROW


_N, _MEAN = ROW.fields.index("n"), ROW.fields.index("mean")


def replica_spread(rows: Any) -> Any:
    """How far the replicas' means lie apart: the largest minus the smallest.

    Shapes: rows (step, replica, signal, field) -> (step, signal); NaN where no replica
    has a mean.
    """
    return spread(np.where(rows[..., _N] > 0, rows[..., _MEAN], np.nan), axis=1)
