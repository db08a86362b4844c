"""Reading a run once, block by block, in memory that does not grow with its length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distwatch.analysis.overview.binning import Binning, Floats, bins_of
from distwatch.analysis.overview.histories import CHOICES, Choice, History, Overview, choices_of
from distwatch.findings import Digest
from distwatch.records import Block, readable
from distwatch.signals import no_such_signal
from distwatch.store import StoredRun
from distwatch.store.joining import ReadableTable, blocks

#: As many bins as a screen has room for; more are not seen.
MOST_BINS = 1000

#: With fewer, a long run cannot be read off; other statistics are given up first.
_ENOUGH_BINS = 200

#: Tried one after another, until one fits.
_BINS = (
    MOST_BINS,
    800,
    600,
    500,
    400,
    300,
    250,
    225,
    _ENOUGH_BINS,
    160,
    120,
    100,
    80,
    60,
    40,
    20,
)

#: Of a bin: mean, low and high, as float32.
_BYTES = 4 * 3

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Extent:
    """How much of a run is kept: at most so many bins, of these statistics."""

    bins: int = MOST_BINS
    statistics: tuple[str, ...] = tuple(choice.name for choice in CHOICES)


def extent_within(stored: StoredRun, budget: int) -> Extent:
    """As much of a run as fits into some bytes.

    As many statistics as leave room for a fair number of bins, then as many bins as there
    is room for.
    """
    for most in range(len(CHOICES), 0, -1):
        names = tuple(choice.name for choice in CHOICES[:most])
        for bins in _BINS:
            extent = Extent(bins, names)
            if nbytes_of(stored, extent) <= budget:
                if bins >= _ENOUGH_BINS or most == 1:
                    return extent
                break
    return Extent(_BINS[-1], (CHOICES[0].name,))


def nbytes_of(stored: StoredRun, extent: Extent) -> int:
    """How many bytes are kept of a run, as float32."""
    total = 0
    replicas = len(stored.info.replicas)
    for table in stored.tables.values():
        series = sum(
            1 if choice.merged_only else replicas + 1
            for choice in _chosen(table, extent, replicas)
        )
        # A bin of one step is one number.
        bins = 3 * extent.bins if table.steps > extent.bins else table.steps
        total += bins * series * len(table.table.signals) * _BYTES // 3
    return total


def read_overview(
    stored: StoredRun,
    *,
    extent: Extent | None = None,
    signals: Sequence[str] | None = None,
    last: int | None = None,
    progress: Progress | None = None,
) -> Overview:
    """Read a run once.

    Args:
        stored: the run.
        extent: how much is kept; as much as a screen shows if not given.
        signals: names of those that are read; all if not given.
        last: how many steps of each table are read, the last ones; all if not given.
        progress: called with how many rows are read, and how many there are.

    Raises:
        UnknownSignalError: the run has no such signal.
    """
    extent = extent or Extent()
    digest = Digest(stored.info)
    _check_names(stored, signals)
    tables = [
        _Reading(table, stored, extent, signals, last) for table in stored.tables.values()
    ]
    tables = [table for table in tables if table.places and table.rows]
    total, done = sum(table.rows for table in tables), 0
    for table in tables:
        for block in table.blocks():
            if signals is None:
                digest.observe(block)
            table.observe(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
    kept = {name for table in tables for name in table.names}
    return Overview(
        info=stored.info,
        histories=tuple(table.history() for table in tables),
        digest=digest,
        choices=tuple(choice for choice in CHOICES if choice.name in kept),
        steps=max((table.rows for table in tables), default=0),
    )


def _check_names(stored: StoredRun, signals: Sequence[str] | None) -> None:
    names = list(stored.info.names)
    for name in signals or ():
        if name not in names:
            raise no_such_signal(name, names, stored.path)


def _chosen(stored: ReadableTable, extent: Extent, replicas: int) -> list[Choice]:
    has = choices_of(stored.table, replicas)
    return [choice for choice in has if choice.name in extent.statistics]


class _Reading:
    """One table while it is read."""

    def __init__(
        self,
        stored: ReadableTable,
        run: StoredRun,
        extent: Extent,
        signals: Sequence[str] | None,
        last: int | None,
    ) -> None:
        self._stored = stored
        self._replicas = len(run.info.replicas)
        names = stored.table.names
        wanted = names if signals is None else signals
        self.places = [i for i, name in enumerate(names) if name in wanted]
        self._since = 0 if last is None else max(0, stored.steps - last)
        self.rows = stored.steps - self._since
        self._choices = _chosen(stored, extent, self._replicas)
        self.names = [choice.name for choice in self._choices]
        if not self.places or not self.rows:
            return
        step = stored.coordinate("step", slice(self._since, None))
        self.bins = bins_of(step, extent.bins)
        series, size = self._replicas + 1, len(self.places)
        self._kept = {
            choice.name: Binning(self.bins, (1 if choice.merged_only else series, size))
            for choice in self._choices
        }
        self._broken = Binning(self.bins, (series, size))
        self._apart = np.zeros((2, size))
        self._offset = np.zeros((2, self._replicas, size))

    def blocks(self) -> Iterator[Block]:
        """The table's rows in pieces of one chunk each, of the chosen signals alone."""
        between = slice(self.places[0], self.places[-1] + 1)
        within = [place - self.places[0] for place in self.places]
        every = len(within) == between.stop - between.start
        for block in blocks(self._stored, since=self._since, signals=between):
            yield (
                block
                if every
                else replace(
                    block, rows=block.rows[:, :, within], merged=block.merged[:, within]
                )
            )

    # Values near the largest number there is overflow in sums; that is no reason to complain.
    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def observe(self, block: Block) -> None:
        """Take the next block."""
        states = np.concatenate([block.rows, block.merged[:, None]], axis=1)
        known = readable(states, self._stored.table)
        for choice in self._choices:
            self._kept[choice.name].observe(choice.of(known))
        self._broken.observe(known["nans"] + known["infs"])
        self._add_apart(known)

    def _add_apart(self, known: dict[str, Any]) -> None:
        mean = known["mean"]
        # The width within replicas: of a loss, one number on each, there is none.
        finite = (known["count"] - known["nans"] - known["infs"])[:, :-1]
        squares = np.where(finite > 0, finite * known["std"][:, :-1] ** 2, 0.0).sum(axis=1)
        width = np.sqrt(squares / finite.sum(axis=1))
        width = np.where(width > 0, width, np.nan)
        offset = (mean[:, :-1] - mean[:, -1:]) / width[:, None]
        # Two replicas at least have to be there for one to lie apart.
        several = (~np.isnan(mean[:, :-1])).sum(axis=1) > 1
        offset = np.where(several[:, None], offset, np.nan)
        finite = np.isfinite(offset)
        self._offset += [np.where(finite, offset, 0.0).sum(axis=0), finite.sum(axis=0)]
        low = np.where(finite, offset, np.inf).min(axis=1)
        high = np.where(finite, offset, -np.inf).max(axis=1)
        apart = np.where(high >= low, high - low, 0.0)
        self._apart += [apart.sum(axis=0), (high >= low).sum(axis=0)]

    def history(self) -> History:
        """What was read."""
        table = self._stored.table
        return History(
            table=table,
            signals=tuple(table.signals[place] for place in self.places),
            bins=self.bins,
            kept={name: binning.done() for name, binning in self._kept.items()},
            broken=self._broken.done().high > 0,
            apart=_quotient(*self._apart),
            offset=_quotient(*self._offset),
        )


def _quotient(total: Floats, number: Floats) -> Floats:
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
