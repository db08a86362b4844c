"""Opening what was committed: never more, never half of it."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from distwatch.errors import (
    ConfigError,
    DamagedRowsWarning,
    DamagedStoreError,
)
from distwatch.phases import in_order
from distwatch.records import TRAIN, Block, Epoch, KeptBatch, RunInfo
from distwatch.store import schema
from distwatch.store.addresses import Address, inside
from distwatch.store.changes import Change, changes_of
from distwatch.store.digests import Source
from distwatch.store.documents import read_group
from distwatch.store.epochs import epochs_of
from distwatch.store.joining import ContinuedTable, JoinedTable, ReadableTable, blocks
from distwatch.store.kept_batches import kept_in
from distwatch.store.locations import ROOT_DOCUMENT, Location, location_of
from distwatch.store.parts import View
from distwatch.store.salvage import WholeRows, without_damage
from distwatch.store.schema import RootAttributes, SegmentAttributes
from distwatch.store.tables import Damage, StoredTable
from distwatch.text import counted, printable

T = TypeVar("T")


class StoredRun:
    """A run on disk, as it was committed when this was opened.

    Args:
        path: what was given to Watch.
        phase: which phase's rows; None for "train", or the only one that there is.

    Raises:
        NotARunError: there is no run.
        FormatVersionError: a newer distwatch wrote it.
        DamagedStoreError: it contradicts its own description.
        ConfigError: the run has no such phase.
    """

    def __init__(self, path: str | Path, phase: str | None = None) -> None:
        self._location = location_of(path)
        #: Where it is: a folder's path, or a URL.
        self.path: Address = self._location.address
        #: The phase that was asked for; None for the usual one.
        self.phase = phase
        root, _ = read_group(self._location, "", RootAttributes)
        #: This differs where another run has taken the place of this one.
        self.identity = (root.run, root.created)
        self.created = root.created
        found = read_segments(self._location)
        #: The phases that have rows.
        self.phases = in_order(segment.info.phase for segment in found)
        chosen = self._choose(phase)
        #: What was written of this phase: by each worker, since each start.
        self.segments = [segment for segment in found if segment.info.phase == chosen]
        #: The same, with the starts of each worker read as one.
        self.workers = continued(self.segments, str(path))
        #: What was made of it by `viewed`: nothing for the whole run.
        self.views: tuple[View, ...] = ()
        self._join()
        #: What its rows hold.
        self.info = self._joined_info() if self.workers else root.info
        #: Steps that are left out because they cannot be read, summed over tables.
        self.damaged = 0

    def viewed(self, view: View) -> StoredRun:
        """A part of the run; this stays as it is.

        Raises:
            DamagedStoreError: its steps cannot be read.
        """
        made = copy.copy(self)
        made.segments = list(self.segments)
        made.views = (*self.views, view)
        made._join()
        if made.workers:
            made.info = made._joined_info()
        return made

    def reopened(self) -> StoredRun:
        """The same part of the run, as it is committed now. Raises as `StoredRun` does."""
        made = StoredRun(self.path, self.phase)
        for view in self.views:
            # Where damage is met, its tables are replaced, and it is tried once more.
            made = made.reading(functools.partial(made.viewed, view))
        return made

    def _join(self) -> None:
        every = _joined(self.workers, str(self.path))
        for view in self.views:
            every = view.change(every)
        #: Tables of signals, by their names.
        self.tables = {k: each for k, each in every.items() if not each.table.of_copies}
        #: Those of checksums of the replicas' copies of variables.
        self.copies = {k: each for k, each in every.items() if each.table.of_copies}

    @property
    def every_table(self) -> dict[str, ReadableTable]:
        """All tables: of signals first."""
        return self.tables | self.copies

    @property
    def steps(self) -> int:
        """How many steps are committed in the table that has most."""
        return max((table.steps for table in self.every_table.values()), default=0)

    @property
    def last_step(self) -> int | None:
        """The number of the last committed step; None if there is none."""
        last = [
            int(table.read("step", slice(table.steps - 1, table.steps))[0])
            for table in self.every_table.values()
            if table.steps
        ]
        return max(last, default=None)

    @property
    def lost(self) -> int:
        """How many steps were due and are not there, summed over tables."""
        return sum(table.lost for table in self.every_table.values())

    @property
    def thinned(self) -> int:
        """How many steps were taken out again to save space, summed over tables."""
        return sum(table.thinned for table in self.every_table.values())

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self._location.size_below()

    @property
    def changes(self) -> list[Change]:
        """What was changed while the phase ran: see `distwatch.store.changes`."""
        return changes_of(self._location, self.info.phase)

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        """What the epochs of ``fit`` came to; none in other phases, and in older runs."""
        if self.info.phase != TRAIN:
            return ()
        origins = [segment.info.origin for segment in self.segments]
        return epochs_of(self._location, {each.start: each.step for each in origins})

    @property
    def kept_batches(self) -> list[KeptBatch]:
        """The first batch of each replica with NaN or Inf, where they were kept: by step.

        Raises:
            DamagedStoreError: a file of one cannot be understood.
        """
        found: dict[int, KeptBatch] = {}
        origins = [segment.info.origin for segment in self.segments]
        for segment in self.segments:
            start = segment.info.origin.start
            # What later starts replaced is gone.
            end = min((o.step for o in origins if o.start > start), default=math.inf)
            for each in kept_in(self._location, segment.name):
                if each.step < end:
                    found.setdefault(each.replica, each)
        return sorted(found.values(), key=lambda each: (each.step, each.replica))

    def reading(self, read: Callable[[], T]) -> T:
        """What ``read`` gives; where it meets damage, what it gives without it.

        Damage is looked for only then: whoever reads undamaged runs pays nothing.

        Args:
            read: reads from the tables of this run, and can be called once more.

        Raises:
            DamagedStoreError: no chunk is damaged, but what the chunks say.
        """
        try:
            return read()
        except DamagedStoreError as error:
            if not (error.in_chunks and self._leave_out_damage()):
                raise
            return read()

    def streaming(
        self, table: str, read: Callable[[ReadableTable], Iterator[Block]]
    ) -> Iterator[Block]:
        """What ``read`` gives of a table, block by block; where it meets damage, the rest.

        Args:
            table: its name.
            read: gives blocks in order of step, and can be called once more.

        Raises:
            DamagedStoreError: see `reading`.
        """
        last = -1
        try:
            for block in read(self.every_table[table]):
                yield block
                last = int(block.step[-1])
        except DamagedStoreError as error:
            if not (error.in_chunks and self._leave_out_damage()):
                raise
        else:
            return
        for block in read(self.every_table[table]):
            rest = block[np.flatnonzero(block.step > last)]
            if len(rest):
                yield rest

    def _leave_out_damage(self) -> bool:
        """Put tables in place of the damaged ones that have only what can be read."""
        found: list[Damage] = []
        before = sum(segment.whole_steps for segment in self.segments)
        for place, segment in enumerate(self.segments):
            tables = dict(segment.tables)
            for name, table in tables.items():
                if isinstance(table, StoredTable):
                    whole, damage = without_damage(table)
                    tables[name], found = (whole if damage else table), [*found, *damage]
            self.segments[place] = segment._replace(tables=tables)
        if not found:
            return False
        self.workers = continued(self.segments, str(self.path))
        self._join()
        self.damaged += before - sum(segment.whole_steps for segment in self.segments)
        more = f" And {counted(len(found) - 1, 'more chunk')}." if len(found) > 1 else ""
        warnings.warn(
            f"{counted(self.damaged, 'step')} of {printable(str(self.path))} are left out: "
            f"{printable(str(found[0]))}{more} 'distwatch verify' lists all damage.",
            DamagedRowsWarning,
            stacklevel=3,
        )
        return True

    @property
    def source(self) -> Source:
        """What a digest of this phase is made of: the phase as it was committed when opened."""
        counts = {
            table.path: (table.steps, table.lost, table.thinned, table.ended)
            for segment in self.segments
            for table in segment.stored
        }
        names = [segment.name for segment in self.segments]
        return Source(self._location, self.info.phase, names, counts)

    def verify(self) -> Iterator[tuple[int, Damage | None]]:
        """Read every chunk of every phase: how many bytes each has, and its damage.

        Nothing comes of a run without chunks, which may never have had any.
        """
        for document in _lost_documents(self._location):
            file = inside(self._location.address, document)
            yield 0, Damage("", 0, 0, file, "it is missing")
        for segment in read_segments(self._location):
            for table in segment.tables.values():
                yield from table.verify()

    @property
    def ended(self) -> str | None:
        """What ended the writing: "closed", or an error; None while it goes on, or if killed.

        This is about the latest start of each worker; an error of any of them comes first.
        """
        return ended_of(
            table.ended for worker in self.workers for table in worker.latest.tables.values()
        )

    def blocks(self) -> Iterator[Block]:
        """The run in pieces of one chunk each, table by table, in order of step."""
        for table in self.every_table.values():
            yield from blocks(table)

    def _joined_info(self) -> RunInfo:
        infos = [worker.info for worker in self.workers]
        replicas = tuple(number for info in infos for number in info.replicas)
        if len(set(replicas)) < len(replicas) or len(replicas) > schema.MOST_REPLICAS:
            raise DamagedStoreError(
                f"{self.path}: {len(infos)} workers have {len(replicas)} replicas, expected up "
                f"to {schema.MOST_REPLICAS}, each of one worker."
            )
        return replace(
            infos[0],
            tables=tuple(each.table for each in self.every_table.values()),
            replicas=replicas,
            unwatched={path: why for info in infos for path, why in info.unwatched.items()},
        )

    def _choose(self, phase: str | None) -> str:
        if phase is None:
            return self.phases[0] if self.phases else TRAIN
        if phase not in self.phases:
            has = ", ".join(self.phases) or "no rows"
            raise ConfigError(f"{self.path} has no phase {phase!r}; it has: {has}.")
        return phase


def ended_of(parts: Iterable[str | None]) -> str | None:
    """What ended the writing of several parts: an error of any of them before "closed"."""
    said = set(parts)
    wrong = sorted(each for each in said - {None, schema.CLOSED} if each)
    if wrong:
        return wrong[0]
    return schema.CLOSED if said == {schema.CLOSED} else None


class Segment(NamedTuple):
    """What one worker wrote of one phase since one start."""

    name: str
    info: RunInfo
    tables: dict[str, StoredTable | WholeRows]

    @property
    def steps(self) -> int:
        """How many steps are committed in the table that has most."""
        return max((table.steps for table in self.tables.values()), default=0)

    @property
    def stored(self) -> list[StoredTable]:
        """Its tables that nothing was left out of."""
        return [table for table in self.tables.values() if isinstance(table, StoredTable)]

    @property
    def whole_steps(self) -> int:
        """How many steps can be read, summed over tables."""
        return sum(table.steps for table in self.tables.values())


class Worker(NamedTuple):
    """What one worker wrote of one phase, since its first start."""

    info: RunInfo
    tables: dict[str, ReadableTable]
    latest: Segment

    @property
    def ended(self) -> str | None:
        """What ended its writing: an error before "closed"; None while a table goes on."""
        ends = [table.ended or "" for table in self.latest.tables.values()]
        order = ("", *sorted({*ends} - {"", schema.CLOSED}), schema.CLOSED)
        return min(ends, key=order.index, default=None) or None

    @property
    def steps(self) -> int:
        """How many steps it has in the table that has most."""
        return max((table.steps for table in self.tables.values()), default=0)


def read_segments(location: Location) -> list[Segment]:
    """All segments of a run that have rows, by worker and start.

    Raises:
        FormatVersionError: a newer distwatch wrote one.
        DamagedStoreError: one contradicts its own description.
    """
    found = filter(None, (_read_segment(location, name) for name in _segment_names(location)))
    return sorted(found, key=lambda each: (each.info.worker, each.info.origin.start))


def groups_of(location: Location) -> dict[str, list[str]]:
    """The groups that each segment of a run names as its tables.

    Raises:
        FormatVersionError, DamagedStoreError: a segment cannot be understood.
    """
    return {
        name: list(read_group(location, name, SegmentAttributes)[0].table_groups.values())
        for name in _segment_names(location)
    }


def _segment_names(location: Location) -> list[str]:
    """The segments of a run; one that was killed at once has no document."""
    return [
        name
        for name in location.children()
        if schema.start_of(name) is not None
        and location.size(f"{name}/{ROOT_DOCUMENT}") is not None
    ]


def _lost_documents(location: Location) -> Iterator[str]:
    """Documents that are gone: each is written before what lies beside it."""
    for name in location.children():
        if schema.start_of(name) is None:
            continue
        if location.size(f"{name}/{ROOT_DOCUMENT}") is None:
            if any(not child.endswith(".partial") for child in location.children(name)):
                yield f"{name}/{ROOT_DOCUMENT}"
            continue
        said, _ = read_group(location, name, SegmentAttributes)
        for group in said.table_groups.values():
            path = f"{name}/{group}"
            # The labels alone are there before it.
            if location.size(f"{path}/{ROOT_DOCUMENT}") is None and (
                location.children(f"{path}/{schema.COORDINATES[0]}")
            ):
                yield f"{path}/{ROOT_DOCUMENT}"


def _read_segment(location: Location, name: str) -> Segment | None:
    said, _ = read_group(location, name, SegmentAttributes)
    info, groups = said.info, said.table_groups
    # All tables are made before the first row is committed to any of them.
    documents = [f"{name}/{group}/{ROOT_DOCUMENT}" for group in groups.values()]
    if any(location.size(document) is None for document in documents):
        return None
    tables: dict[str, StoredTable | WholeRows] = {
        table: StoredTable(location, name, table, info, group)
        for table, group in groups.items()
    }
    return Segment(name, info, tables)


def continued(segments: list[Segment], where: str) -> list[Worker]:
    """The starts of each worker as one, in the order of the workers."""
    origins = [segment.info.origin for segment in segments]
    workers: dict[int, list[tuple[Segment, int | None]]] = {}
    for segment in segments:
        # A start of any worker replaces what all of them have from there on.
        later = [o.step for o in origins if o.start > segment.info.origin.start]
        started = (segment, min(later, default=None))
        workers.setdefault(segment.info.worker, []).append(started)
    return [_one_worker(starts, where) for starts in workers.values()]


def _one_worker(starts: list[tuple[Segment, int | None]], where: str) -> Worker:
    segments, ends = zip(*starts, strict=True)
    latest = segments[-1]
    begins = [segment.info.origin.step for segment in segments]
    if ends == (None,) and not begins[0]:
        return Worker(latest.info, dict(latest.tables), latest)
    tables: dict[str, ReadableTable] = {
        name: ContinuedTable(
            [segment.tables[name] for segment in segments], begins, ends, where
        )
        for name in _same_tables([segment.tables for segment in segments], where, "starts")
    }
    return Worker(latest.info, tables, latest)


def _joined(workers: list[Worker], where: str) -> dict[str, ReadableTable]:
    if len(workers) == 1:
        return workers[0].tables
    names = _same_tables([worker.tables for worker in workers], where, "workers")
    return {
        name: JoinedTable([worker.tables[name] for worker in workers], where) for name in names
    }


def _same_tables(tables: list[dict[str, Any]], where: str, of: str) -> list[str]:
    """The names of the tables that all of them have.

    Copies of variables are passed over where they are not those of all: a start by an older
    distwatch, or with another optimizer, has others or none.
    """
    signals = [[name for name in each if not each[name].table.of_copies] for each in tables]
    if len(set(map(tuple, signals))) > 1:
        raise DamagedStoreError(f"{where}: its {of} wrote different tables.")
    copies = [
        {name: each[name].table.signals for name in each if each[name].table.of_copies}
        for each in tables
    ]
    first = copies[0] if copies else {}
    same = [name for name in first if all(each.get(name) == first[name] for each in copies)]
    return [*(signals[0] if signals else []), *same]
