"""Reading a run once, block by block, in memory that does not grow with its length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from distwatch.analysis.detail import find
from distwatch.analysis.overview.apart import Apart
from distwatch.analysis.overview.binning import Binning, Ints, bins_of
from distwatch.analysis.overview.distributions import Progress
from distwatch.analysis.overview.histories import Epochs, History, Overview
from distwatch.findings import Digest
from distwatch.records import Block
from distwatch.statistics import QUANTITIES, Quantity, special_elements
from distwatch.store import StoredRun
from distwatch.store.readable_tables import ReadableTable, blocks

#: As many bins as a screen has room for.
MOST_BINS = 1000

#: With fewer bins a long run is hard to read; quantities are left out first.
_ENOUGH_BINS = 200

#: Numbers of bins, tried in this order until one fits.
_BINS = (
    MOST_BINS, 800, 600, 500, 400, 300, 250, 225, _ENOUGH_BINS, 160, 120, 100, 80, 60, 40, 20,
)  # fmt: skip

#: Bytes of a bin: mean, low and high, as float32.
_BYTES = 4 * 3

_NAMES = tuple(quantity.name for quantity in QUANTITIES)


@dataclass(frozen=True)
class Extent:
    """How much of a run is kept: at most so many bins, of these quantities."""

    bins: int = MOST_BINS
    statistics: tuple[str, ...] = _NAMES


def extent_within(stored: StoredRun, budget: int) -> Extent:
    """As much of a run as fits into a number of bytes.

    As many quantities as leave room for `_ENOUGH_BINS`, then as many bins as there is room
    for.
    """
    for most in range(len(_NAMES), 0, -1):
        extents = (Extent(bins, _NAMES[:most]) for bins in _BINS)
        fits = next((each for each in extents if nbytes_of(stored, each) <= budget), None)
        if fits and fits.bins >= _ENOUGH_BINS:
            return fits
    return fits or Extent(_BINS[-1], _NAMES[:1])


def nbytes_of(stored: StoredRun, extent: Extent) -> int:
    """How many bytes are kept of a run, as float32."""
    total = 0
    replicas = len(stored.info.replicas)
    for table in stored.tables.values():
        series = sum(
            1 if quantity.merged_only else replicas + 1
            for quantity in _chosen(table, extent, replicas)
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
    progress: Progress = lambda _: None,
) -> Overview:
    """Read a run once.

    Args:
        stored: the run.
        extent: how much is kept; as much as a screen shows if not given.
        signals: names of those that are read; all if not given.
        progress: called with how many more rows are read.

    Raises:
        UnknownSignalError: the run has no such signal.
    """
    for name in signals or ():
        find(stored, name)
    return stored.reading(lambda: _read(stored, extent or Extent(), signals, progress))


def _read(
    stored: StoredRun, extent: Extent, signals: Sequence[str] | None, progress: Progress
) -> Overview:
    digest = Digest(stored.info, stored.epochs)
    tables = [
        _Reading(table, stored, extent, signals)
        for table in stored.tables.values()
        if table.steps and (signals is None or set(signals) & set(table.table.names))
    ]
    for table in tables:
        for block in table.blocks():
            if signals is None:
                digest.observe(block)
            table.observe(block)
            progress(len(block))
    for copies in stored.copies.values() if signals is None else ():
        for block in blocks(copies):
            digest.observe(block)
    kept = {each.name for table in tables for each in table.quantities}
    return Overview(
        info=stored.info,
        histories=tuple(table.history() for table in tables),
        digest=digest,
        quantities=tuple(quantity for quantity in QUANTITIES if quantity.name in kept),
        steps=max((table.steps for table in tables), default=0),
        epochs=_epochs(stored),
    )


def _epochs(stored: StoredRun) -> Epochs:
    """Where epochs begin, by the table that has most steps."""
    tables = [table for table in stored.tables.values() if table.steps]
    if not tables:
        return Epochs(np.zeros(0, np.int64), np.zeros(0, np.int64))
    longest = max(tables, key=lambda table: table.steps)
    return epochs_of(longest.read("step"), longest.read("epoch"))


def epochs_of(step: Ints, epoch: Ints) -> Epochs:
    """Where epochs begin, by the step and the epoch of each row: shape (row,)."""
    begins = np.flatnonzero(np.diff(epoch, prepend=epoch[:1] - 1))
    return Epochs(step[begins], epoch[begins])


def _chosen(stored: ReadableTable, extent: Extent, replicas: int) -> list[Quantity]:
    """The quantities that are kept; what compares replicas only with two of them."""
    return [
        quantity
        for quantity in stored.table.statistic.quantities
        if quantity.name in extent.statistics and (replicas > 1 or not quantity.merged_only)
    ]


class _Reading:
    """Reads one table that has steps and some of the signals."""

    def __init__(
        self,
        stored: ReadableTable,
        run: StoredRun,
        extent: Extent,
        signals: Sequence[str] | None,
    ) -> None:
        self._stored = stored
        self._replicas = len(run.info.replicas)
        names = stored.table.names
        wanted = names if signals is None else signals
        self.places = [i for i, name in enumerate(names) if name in wanted]
        self.steps = stored.steps
        self.quantities = _chosen(stored, extent, self._replicas)
        self.bins = bins_of(stored.read("step"), extent.bins)
        series, size = self._replicas + 1, len(self.places)
        self._kept = {
            quantity.name: Binning(self.bins, (1 if quantity.merged_only else series, size))
            for quantity in self.quantities
        }
        self._broken = Binning(self.bins, (series, size))
        self._apart = Apart(self._replicas, size)

    def blocks(self) -> Iterator[Block]:
        """The table's rows in pieces of one chunk each, of the chosen signals alone."""
        between = slice(self.places[0], self.places[-1] + 1)
        within = [place - self.places[0] for place in self.places]
        every = len(within) == between.stop - between.start
        for block in blocks(self._stored, signals=between):
            yield (
                block
                if every
                else replace(
                    block, rows=block.rows[:, :, within], merged=block.merged[:, within]
                )
            )

    # Sums of values near the largest number overflow; that needs no warning.
    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def observe(self, block: Block) -> None:
        """Take the next block."""
        states = np.concatenate([block.rows, block.merged[:, None]], axis=1)
        known = self._stored.table.read(states)
        for quantity in self.quantities:
            self._kept[quantity.name].observe(quantity.derive(known))
        self._broken.observe(special_elements(known))
        self._apart.observe(known)

    def history(self) -> History:
        """What was read."""
        table = self._stored.table
        return History(
            table=table,
            signals=tuple(table.signals[place] for place in self.places),
            bins=self.bins,
            kept={name: binning.done() for name, binning in self._kept.items()},
            broken=self._broken.done().high > 0,
            apart=self._apart.apart(),
            offset=self._apart.offset(),
        )
