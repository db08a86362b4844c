"""Tables of a run of which only some steps are read, or whose steps are merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from distwatch.errors import ConfigError
from distwatch.records import Ints
from distwatch.statistics import merge_axis, with_row
from distwatch.store import schema
from distwatch.store.readable_tables import (
    ALL,
    Array,
    DerivedTable,
    ReadableTable,
    of_one_length,
)

#: Rows that are merged over steps are read in pieces of about this many.
_ROWS_AT_ONCE = 4096

Tables = dict[str, ReadableTable]


@dataclass(frozen=True)
class View:
    """What makes a part of a run: of the tables of all its signals, those of the part.

    Args:
        text: the call that made it, such as ``sel(epoch=3)``.
        change: makes the tables.
        resampled: how many steps are merged into one; 0 for none.
    """

    text: str
    change: Callable[[Tables], Tables]
    resampled: int = 0


class SelectedTable(DerivedTable):
    """Some steps of a table.

    Args:
        stored: the table.
        places: those of the steps in it, rising: shape (step,).
    """

    def __init__(self, stored: ReadableTable, places: Ints) -> None:
        super().__init__(stored, len(places))
        self._places = places

    def read(self, name: str, steps: slice = ALL, signals: slice = ALL) -> Array:
        """See `ReadableTable.read`; of chunks without any of the steps nothing is read."""
        places = self._places[steps]
        if not len(places):
            return self._stored.read(name, slice(0, 0), signals)
        if places[-1] - places[0] + 1 == len(places):
            return self._stored.read(name, slice(places[0], places[-1] + 1), signals)
        cuts = np.flatnonzero(np.diff(places // self.table.window)) + 1
        found = [
            self._stored.read(name, slice(part[0], part[-1] + 1), signals)[part - part[0]]
            for part in np.split(places, cuts)
        ]
        return np.concatenate(of_one_length(name, found))


class ResampledTable(DerivedTable):
    """A table whose rows are merged over each ``every`` steps: 0 to every - 1, and so on.

    What is merged are the states, so that a row is exactly (up to rounding) that of all
    elements of its steps. A row's step is the first of those that it stands for; its epoch
    is that of its first row, its iteration that of its last.

    Args:
        stored: the table.
        every: how many steps are merged into one.
    """

    def __init__(self, stored: ReadableTable, every: int) -> None:
        number = stored.read("step") // every
        starts = np.flatnonzero(np.diff(number, prepend=-1))
        table = replace(stored.table, window=max(1, stored.table.window // every))
        super().__init__(stored, len(starts), table)
        self._step = number[starts] * every
        #: The places at which the rows of each step begin, and where the last ones end.
        self._edges = np.append(starts, len(number))
        self._scalars = with_row(tuple(f for f in self.table.statistic.further if not f.wide))

    def read(self, name: str, steps: slice = ALL, signals: slice = ALL) -> Array:
        """See `ReadableTable.read`.

        Raises:
            ConfigError: raw deltas are asked for.
        """
        start, stop, _ = steps.indices(self.steps)
        edges = self._edges[start : max(start, stop) + 1]
        if name == "step":
            return np.asarray(self._step[start:stop])
        if name in ("tensor", "valid"):
            raise ConfigError(
                f"{self.table.names[0]}: raw deltas are not merged over steps; read them from "
                "the run itself, before resample."
            )
        if len(edges) < 2:
            return self._stored.read(name, slice(0, 0), signals)
        if name in schema.COORDINATES:
            values = self._stored.read(name, slice(edges[0], edges[-1]))
            ends = edges[1:] - 1 if name == "iteration" else edges[:-1]
            return np.asarray(values[ends - edges[0]])
        return self._merged(name, edges, signals)

    def _merged(self, name: str, edges: Ints, signals: slice) -> Array:
        """An array merged over the places between edges, in memory that does not grow."""
        parts: list[list[Array]] = [[] for _ in edges[1:]]
        size = max(1, _ROWS_AT_ONCE // self._stored.table.window) * self._stored.table.window
        for low in range(edges[0], edges[-1], size):
            high = min(low + size, edges[-1])
            values = self._stored.read(name, slice(low, high), signals)
            first = int(np.searchsorted(edges, low, "right")) - 1
            for i in range(first, int(np.searchsorted(edges, high))):
                own = values[max(edges[i] - low, 0) : edges[i + 1] - low]
                parts[i] = [self._over_steps(name, own, parts[i])]
        return np.stack([part for (part,) in parts])

    def _over_steps(self, name: str, values: Array, before: list[Array]) -> Array:
        together = np.concatenate([np.stack(before), values]) if before else values
        if name in ("rows", "merged"):
            return merge_axis(self._scalars, together, axis=0)
        together_of = np.any if name == "present" else np.sum
        return np.asarray(together_of(together, axis=0))
