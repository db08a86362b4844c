"""Opening what was committed: never more, never half of it."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from distwatch.errors import ConfigError, DamagedRowsWarning, DamagedStoreError
from distwatch.phases import in_order
from distwatch.records import TRAIN, Block, Epoch, KeptBatch, RunInfo
from distwatch.store import schema
from distwatch.store.addresses import Address, inside
from distwatch.store.changes import Change, changes_of
from distwatch.store.digests import Source
from distwatch.store.documents import read_group
from distwatch.store.epochs import epochs_of
from distwatch.store.kept_batches import kept_in
from distwatch.store.locations import location_of
from distwatch.store.parts import View
from distwatch.store.readable_tables import ReadableTable, blocks
from distwatch.store.salvage import without_damage
from distwatch.store.schema import RootAttributes
from distwatch.store.segments import continued, ended_of, joined, lost_documents, read_segments
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
        every = joined(self.workers, str(self.path))
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
        for document in lost_documents(self._location):
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
