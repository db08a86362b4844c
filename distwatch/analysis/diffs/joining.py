"""Two runs' rows, side by side: signal by signal, and by the number of the step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from distwatch.records import Floats, Ints, padded
from distwatch.signals import Signal
from distwatch.statistics import ROW
from distwatch.store import StoredRun
from distwatch.store.readable_tables import Array, ReadableTable


class RowPair(NamedTuple):
    """Rows of the same steps in both runs.

    Shapes: step (n,); a, b (n, series, signal, usual field); present (n, series), whether
    both have the row; equal (n, series, signal), whether all that both recorded is equal bit
    for bit. A series is a replica, or all of them merged.
    """

    step: Ints
    a: Floats
    b: Floats
    present: Array
    equal: Array


@dataclass(frozen=True)
class TablePair:
    """The signals that one table of each run holds: their places in both."""

    a: ReadableTable
    b: ReadableTable
    signals: tuple[Signal, ...]
    places: tuple[list[int], list[int]]
    #: Whether rows are compared merged over replicas, since the replicas are other ones.
    merged: bool

    @property
    def series(self) -> int:
        """How many rows each step has."""
        return 1 if self.merged else len(self.a.replicas)

    def rows(self) -> Iterator[RowPair]:
        """Rows of common steps, in pieces that lie within one chunk of each run."""
        steps, in_a, in_b = common_steps(self.a, self.b)
        start = 0
        while start < len(steps):
            stop = min(_chunk_end(self.a, in_a, start), _chunk_end(self.b, in_b, start))
            yield self._read(steps[start:stop], in_a[start:stop], in_b[start:stop])
            start = stop

    def _read(self, step: Ints, in_a: Ints, in_b: Ints) -> RowPair:
        a = _Side(self.a, in_a, self.places[0], self.merged)
        b = _Side(self.b, in_b, self.places[1], self.merged)
        shared = [field for field in self.a.table.fields if field in self.b.table.fields]
        x, y = a.states, b.states
        equal = np.asarray(_same(a.fields(x, shared), b.fields(y, shared)).all(axis=-1))
        for name in self._further():
            equal &= _all_same(a.further(name), b.further(name))
        usual = ROW.fields
        return RowPair(step, a.fields(x, usual), b.fields(y, usual), a.there & b.there, equal)

    def _further(self) -> Iterator[str]:
        """The arrays beside the scalar fields that both have, in the same form."""
        one, other = self.a.table, self.b.table
        if one.statistic.histogram is not None and (
            one.statistic.histogram == other.statistic.histogram
        ):
            yield "histogram_merged" if self.merged else "histogram"
        # Raw deltas are of each replica, or already reduced over them.
        alone = not self.merged and len(self.signals) == 1 and one.tensor == other.tensor
        if alone and self.a.has_tensors and self.b.has_tensors:
            yield "tensor"


class _Side:
    """What one run has at some places along the steps of a table."""

    def __init__(
        self, stored: ReadableTable, steps: Ints, signals: list[int], merged: bool
    ) -> None:
        self._stored = stored
        self._between = slice(int(steps[0]), int(steps[-1]) + 1)
        self._steps = steps - steps[0]
        self._signals = slice(min(signals), max(signals) + 1)
        self._within = _slice_of([place - min(signals) for place in signals])
        self._merged = merged

    @property
    def states(self) -> Floats:
        """States of the scalar fields: shape (n, series, signal, field)."""
        return self.further("merged" if self._merged else "rows")

    @property
    def there(self) -> Array:
        """Whether a row is there: shape (n, series)."""
        present = self._stored.read("present", self._between)[self._steps]
        return np.asarray(present.any(axis=1, keepdims=True) if self._merged else present)

    def further(self, name: str) -> Array:
        """An array at these steps: shape (n, series, signal, ...)."""
        values = self._stored.read(name, self._between, self._signals)
        if len(values) > len(self._steps):
            values = values[self._steps]
        if name == "tensor":
            return np.asarray(values[:, :, None])
        with_series = values[:, None] if self._merged else values
        return np.asarray(with_series[:, :, self._within])

    def fields(self, states: Floats, names: Iterable[str]) -> Floats:
        """Some fields of states."""
        place = {name: i for i, name in enumerate(self._stored.table.fields)}
        return states[..., _slice_of([place[name] for name in names])]


def pairs_of(
    a: StoredRun, b: StoredRun, signals: Iterable[Signal], *, merged: bool
) -> list[TablePair]:
    """The tables of two runs that hold some signals of both, which are compared together."""
    wanted = {signal.name for signal in signals}
    return [
        TablePair(
            one,
            other,
            tuple(one.table.signals[one.table.names.index(name)] for name in names),
            (
                [one.table.names.index(name) for name in names],
                [other.table.names.index(name) for name in names],
            ),
            merged,
        )
        for one in a.tables.values()
        for other in b.tables.values()
        if (names := [n for n in one.table.names if n in wanted and n in other.table.names])
    ]


def common_steps(a: ReadableTable, b: ReadableTable) -> tuple[Ints, Ints, Ints]:
    """The steps that both have, and their places in each."""
    one, other = a.read("step"), b.read("step")
    places = np.searchsorted(other, one)
    inside = np.flatnonzero(places < len(other))
    in_a = inside[other[places[inside]] == one[inside]]
    return one[in_a], in_a, places[in_a]


def _chunk_end(stored: ReadableTable, places: Ints, start: int) -> int:
    """Up to which common step the chunk of a table reaches that holds that at ``start``."""
    window = stored.table.window
    return int(np.searchsorted(places, (places[start] // window + 1) * window))


def _slice_of(places: list[int]) -> list[int] | slice:
    """The same places, which a slice takes without a copy."""
    whole = places == list(range(places[0], places[0] + len(places)))
    return slice(places[0], places[0] + len(places)) if whole else places


def _same(a: Array, b: Array) -> Array:
    """Where values are equal; NaN is equal to NaN."""
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)))


def _all_same(a: Array, b: Array) -> Array:
    """Where all of a signal's numbers are equal: shape (n, series, signal)."""
    if a.shape[3:4] != b.shape[3:4]:
        # Of raw deltas, where one run has a longer batch: what is not there is NaN.
        most = max(a.shape[3], b.shape[3])
        a, b = (padded(each[:, :, 0], most)[:, :, None] for each in (a, b))
    return np.asarray(_same(a, b).reshape(*a.shape[:3], -1).all(axis=-1))
