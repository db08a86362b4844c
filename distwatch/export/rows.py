"""A run block by block, as tidy rows.

A tidy row is one signal at one step on one replica, or merged over all of them. Its columns
are ``step``, ``epoch``, ``iteration``, ``replica`` (its number as text, or "merged"),
``signal``, and one for each statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from distwatch.errors import ConfigError, nearest
from distwatch.event_files.thinning import Thinning
from distwatch.records import Block
from distwatch.signals import names_matching
from distwatch.statistics import ROW, SPREAD, VALUES, replica_spread
from distwatch.store import StoredRun
from distwatch.store.readable_tables import ReadableTable, blocks

#: The ``replica`` of merged rows.
MERGED = "merged"

#: Statistics that are whole numbers; all others are float64.
WHOLE = frozenset(value.name for value in VALUES if value.whole)

#: Called with how many more steps are done.
Progress = Callable[[int], None]

#: Columns of equal length: name -> values, NaN where nothing is known.
Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Wanted:
    """Which part of a run is exported.

    Args:
        signals: patterns over the signals' names; none for all.
        statistics: their names; none for all that there are.
        replicas: rows of each replica.
        merged: rows merged over the replicas.
        every: keep the first recorded one of every so many steps.
    """

    signals: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    replicas: bool = True
    merged: bool = True
    every: int = 1

    def chosen(self, stored: StoredRun) -> set[str]:
        """The names of the signals.

        Raises:
            UnknownSignalError: a pattern matches none.
        """
        return set(names_matching(self.signals, stored.info.names, str(stored.path)))


def statistics_of(stored: StoredRun, wanted: Wanted) -> tuple[str, ...]:
    """The columns that tidy rows have: all that one of the tables has, or those asked for.

    Raises:
        ConfigError: no table has one that was asked for.
    """
    chosen = wanted.chosen(stored)
    tables = [each.table for each in stored.tables.values() if chosen & set(each.table.names)]
    usual = [value.name for value in ROW.values]
    further = [name for table in tables for name in table.values]
    known = list(dict.fromkeys([*usual, *further, *([SPREAD.name] * wanted.merged)]))
    for name in wanted.statistics:
        if name not in known:
            raise ConfigError(
                f"{stored.path}: no exported signal has the statistic {name!r}; nearest: "
                f"{nearest(name, known)}."
            )
    return tuple(dict.fromkeys(wanted.statistics)) or tuple(known)


def tidy_rows(stored: StoredRun, wanted: Wanted, progress: Progress) -> Iterator[Columns]:
    """A run's tidy rows, a block at a time: by table, and in it by step.

    Statistics that a signal does not have are NaN, and so are unknown ones: where no two
    elements could be compared, or ``spread`` on a replica. Where a worker wrote no row, there
    is none, nor at steps in damaged chunks, which are warned of.
    """
    names, chosen = statistics_of(stored, wanted), wanted.chosen(stored)
    for table, each in [*stored.tables.items()]:
        signals = [i for i, name in enumerate(each.table.names) if name in chosen]
        thinned = Thinning(wanted.every)
        for block in stored.streaming(table, recorded_blocks) if signals else ():
            kept = thinned.kept(block)
            if len(kept):
                yield _tidy(each, block[kept], signals, names, wanted)
            progress(len(block))


def recorded_blocks(stored: ReadableTable, *, histograms: bool = False) -> Iterator[Block]:
    """A table's blocks, NaN in rows that a worker did not write.

    Args:
        stored: the table.
        histograms: whether bucket counts follow the scalar fields, where there are any.
    """
    histograms = histograms and stored.table.statistic.histogram is not None
    start = 0
    for block in blocks(stored):
        steps = slice(start, start + len(block))
        start = steps.stop
        block.rows[~stored.read("present", steps)] = np.nan
        yield _with_histograms(stored, block, steps) if histograms else block


def _with_histograms(stored: ReadableTable, block: Block, steps: slice) -> Block:
    counts, merged = (stored.read(name, steps) for name in ("histogram", "histogram_merged"))
    return replace(
        block,
        rows=np.concatenate([block.rows, counts], axis=-1),
        merged=np.concatenate([block.merged, merged], axis=-1),
    )


def _tidy(
    stored: ReadableTable,
    block: Block,
    signals: list[int],
    names: tuple[str, ...],
    wanted: Wanted,
) -> Columns:
    """Columns of a block: step by step, in it by replica with merged last, then by signal."""
    every = np.concatenate([block.rows, block.merged[:, None]], axis=1)
    chosen_rows = slice(None if wanted.replicas else -1, None if wanted.merged else -1)
    replicas = [*map(str, stored.replicas), MERGED][chosen_rows]
    states = every[:, chosen_rows, signals]
    # Without those that a worker did not write.
    there = ~np.isnan(states[..., 0])
    steps, axis, chosen = np.nonzero(there)
    found = stored.table.read(states[there])
    if wanted.merged:
        # In the place of what is merged, which comes last.
        apart = np.full(there.shape, np.nan)
        apart[:, -1] = replica_spread(block.rows[:, :, signals])
        found[SPREAD.name] = apart[there]
    nothing = np.full(len(steps), np.nan)
    return {
        "step": block.step[steps],
        "epoch": block.epoch[steps],
        "iteration": block.iteration[steps],
        "replica": np.asarray(replicas, object)[axis],
        "signal": np.asarray([stored.table.names[i] for i in signals], object)[chosen],
        **{name: found.get(name, nothing) for name in names},
    }
