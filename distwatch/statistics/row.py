"""What a row holds for each of its signals."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from distwatch.statistics.base import Statistic
from distwatch.statistics.counts import Counts
from distwatch.statistics.extrema import Extrema
from distwatch.statistics.log_histogram import LogHistogram
from distwatch.statistics.moments import Moments
from distwatch.statistics.norms import Norms
from distwatch.statistics.product import Product
from distwatch.statistics.values import Quantity, Value

#: What every row holds, in the order of the store's columns.
_USUAL = (Counts(), Moments(), Extrema(), Norms())


class Row(Product):
    """The usual statistics, and further ones after them: scalar ones first."""

    def __init__(self, further: tuple[Statistic[Any], ...] = ()) -> None:
        #: Those that not every row has.
        self.further = tuple(sorted(further, key=lambda statistic: statistic.wide))
        super().__init__((*_USUAL, *self.further))

    @functools.cached_property
    def values(self) -> tuple[Value, ...]:  # type: ignore[override]
        """What people read of it, in the order in which it is listed."""
        usual = sorted(_values_of(_USUAL), key=lambda value: value.special)
        return (*usual, *_values_of(self.further))

    @functools.cached_property
    def quantities(self) -> tuple[Quantity, ...]:  # type: ignore[override]
        """What figures draw of it, by rank."""
        found = [quantity for part in self.parts for quantity in part.quantities]
        return tuple(sorted(found, key=lambda quantity: quantity.rank))

    @property
    def histogram(self) -> LogHistogram | None:
        """The histogram among them."""
        found = [part for part in self.further if isinstance(part, LogHistogram)]
        return found[0] if found else None

    def read(self, states: Any) -> dict[str, Any]:
        """Derive what people read from packed states, on the host.

        Args:
            states: shape (..., field), of all fields but those of wide statistics; NaN
                where a worker left no row.

        Returns:
            Name -> array of shape (...), NaN where nothing is known.
        """
        absent = np.isnan(states[..., 0])
        if absent.any():
            found = self.read(np.where(absent[..., None], 0.0, states))
            return {name: np.where(absent, np.nan, values) for name, values in found.items()}
        computed: dict[str, Any] = {}
        start = 0
        for part in self.parts:
            if not part.wide:
                stop = start + len(part.fields)
                computed |= part.compute(part.unpack(states[..., start:stop]))
                start = stop
        compared = computed["count"] > 0
        return {
            value.name: np.where(compared, computed[value.name], np.nan)
            if value.compared
            else computed[value.name]
            for value in self.values
        }


def _values_of(parts: tuple[Statistic[Any], ...]) -> list[Value]:
    return [value for part in parts for value in part.values]


#: What every row holds for every signal.
ROW = Row()


def with_row(further: tuple[Statistic[Any], ...]) -> Row:
    """The usual statistics with further ones."""
    return Row(further) if further else ROW
