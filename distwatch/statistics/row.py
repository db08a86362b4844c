"""What a row holds for each of its signals."""

from __future__ import annotations

from typing import Any

from distwatch.statistics.base import Statistic
from distwatch.statistics.counts import Counts
from distwatch.statistics.extrema import Extrema
from distwatch.statistics.log_histogram import LogHistogram
from distwatch.statistics.moments import Moments
from distwatch.statistics.norms import Norms
from distwatch.statistics.product import Product

_USUAL = (Counts(), Moments(), Extrema(), Norms())


class Row(Product):
    """The usual statistics, and further ones after them: scalar ones first."""

    def __init__(self, further: tuple[Statistic[Any], ...] = ()) -> None:
        #: Those that not every row has.
        self.further = tuple(sorted(further, key=lambda statistic: statistic.wide))
        super().__init__((*_USUAL, *self.further))

    @property
    def histogram(self) -> LogHistogram | None:
        """The histogram among them."""
        found = [part for part in self.further if isinstance(part, LogHistogram)]
        return found[0] if found else None


#: What every row holds for every signal.
ROW = Row()


def with_row(further: tuple[Statistic[Any], ...]) -> Row:
    """The usual statistics with further ones."""
    return Row(further) if further else ROW
