"""Thinning out what earlier starts of a run left, together with what this one writes.

Otherwise their rows would keep their bytes for good, and each further start of a long training
would have less room than the one before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from distwatch.errors import StoreError
from distwatch.records import Ints, RunInfo
from distwatch.store import schema
from distwatch.store.documents import group_document, read_group
from distwatch.store.joining import interval_of, missing_of, place_of
from distwatch.store.locations import ROOT_DOCUMENT, Location
from distwatch.store.segments import Segment, read_segments
from distwatch.store.table_writer import Files, TableWriter
from distwatch.store.tables import StoredTable
from distwatch.store.thinning import PACE, copy_of

Write = Callable[[Files], None]


class EarlierTable:
    """A table that an earlier start wrote. What later starts replace of it is left out.

    Args:
        location: the run's.
        segment: the start's.
        name: the table's.
        end: the step from which on a later start replaces it.
    """

    def __init__(self, location: Location, segment: Segment, name: str, end: int) -> None:
        self.segment, self.name = segment, name
        self._location, self._end = location, end
        said, _ = read_group(location, segment.name, schema.SegmentAttributes)
        #: The name of its group.
        self.group = said.table_groups[name]
        #: How far apart its rows are, where their steps do not tell.
        self._stride = 1
        self._open()

    def _open(self) -> None:
        info = self.segment.info
        self._stored = StoredTable(
            self._location, self.segment.name, self.name, info, self.group
        )
        self._kept = place_of(self._stored, self._end)
        step = self._stored.read("step", slice(0, self._kept))
        interval = interval_of(self._stored)
        #: The numbers that its rows had before any was taken out.
        self._numbers: Ints = (
            (step - step[:1]) // interval if interval else np.arange(self._kept) * self._stride
        )
        self._target: TableWriter | None = None
        self._copied = 0

    @property
    def path(self) -> str:
        """The path of its group."""
        return f"{self.segment.name}/{self.group}"

    @property
    def steps(self) -> int:
        """How many rows it has, those that are replaced among them."""
        return self._stored.steps

    def kept(self, stride: int) -> int:
        """How many rows are left where only every so many-th stays.

        All of few: what two chunks hold is not worth a copy.
        """
        if self.steps < 2 * self._stored.table.window:
            return self.steps
        return int((self._numbers % stride == 0).sum())

    @property
    def removes(self) -> int:
        """How many rows its copy leaves out, without those that are replaced."""
        return self._kept - self.kept(self._stride)

    def start_copy(self, write: Write, stride: int) -> None:
        """Begin a copy with every so many-th row."""
        stored, kept, info = self._stored, self.kept(stride), self.segment.info
        path = f"{self.segment.name}/{copy_of(self.group)}"
        target = TableWriter(write, info, stored.table, path)
        target.lost = missing_of(stored, self._kept, info.origin.step, self._end)
        target.thinned = stored.thinned + self._kept - kept
        self._target, self._copied = target, 0
        self._stride = stride

    def advance(self) -> bool:
        """Copy some windows; False when everything is copied."""
        return all(self._copy_window() for _ in range(PACE))

    def _copy_window(self) -> bool:
        if self._target is None or self._copied == self._kept:
            return False
        stop = min(self._copied + self._stored.table.window, self._kept)
        chosen = np.flatnonzero(self._numbers[self._copied : stop] % self._stride == 0)
        self._target.append(self._stored.block(slice(self._copied, stop))[chosen])
        self._copied = stop
        return True

    def finish(self) -> None:
        """Commit the copy; how its writing ended stays as it was."""
        assert self._target is not None
        ended = self._stored.ended
        self._target.commit_tail() if ended is None else self._target.close(ended)

    def replaced(self) -> str:
        """Go on with the copy; returns the path of what it replaces."""
        before, self.group = self.path, copy_of(self.group)
        self._open()
        return before


class EarlierStarts:
    """The tables of earlier starts of the phase and worker that a writer writes.

    Args:
        location: the run's.
        info: the writer's.
        write: writes files, counted against the budget.
        adopt: is given a file that will be replaced, and its bytes.
    """

    def __init__(
        self, location: Location, info: RunInfo, write: Write, adopt: Callable[[str, int], None]
    ) -> None:
        self._location = location
        self._info = info
        self._write = write
        self._adopt = adopt
        #: Steps that were taken out, summed over tables.
        self.thinned = 0
        self._found: list[EarlierTable] | None = None
        self._copying: list[EarlierTable] = []

    def of(self, name: str) -> list[EarlierTable]:
        """The tables of a name. What is damaged is left as it is."""
        if self._found is None:
            self._found = []
            if self._info.origin.start:
                with contextlib.suppress(StoreError):
                    self._found = self._find()
        return [table for table in self._found if table.name == name]

    def _find(self) -> list[EarlierTable]:
        mine = (self._info.phase, self._info.worker)
        start, end = self._info.origin.start, self._info.origin.step
        found: list[EarlierTable] = []
        for segment in reversed(read_segments(self._location)):
            info = segment.info
            if (info.phase, info.worker) != mine or info.origin.start >= start:
                continue
            with contextlib.suppress(StoreError):
                found += [
                    EarlierTable(self._location, segment, name, end) for name in segment.tables
                ]
            end = min(end, info.origin.step)
        return found

    def start_copies(self, name: str, stride: int) -> None:
        """Begin copies of the tables of a name in which fewer rows stay."""
        for table in self.of(name):
            if table.kept(stride) < table.steps:
                table.start_copy(self._write, stride)
                self._copying.append(table)

    @property
    def are_copied(self) -> bool:
        """Whether copies are under way, or wait to be put in place."""
        return bool(self._copying)

    def advance(self) -> bool:
        """Copy a little more; False when everything is copied."""
        goes_on = False
        for table in [*self._copying]:
            try:
                goes_on |= table.advance()
            except StoreError:
                # Damage: it stays as it is, and this is no reason to end the watching.
                self._copying.remove(table)
                self._found = [each for each in self._found or [] if each is not table]
        return goes_on

    def put_in_place(self) -> list[str]:
        """Name the copies in the place of their tables; returns the paths of those."""
        for table in self._copying:
            table.finish()
        copied = {(table.segment.name, table.name) for table in self._copying}
        for segment in {table.segment.name: table.segment for table in self._copying}.values():
            said, _ = read_group(self._location, segment.name, schema.SegmentAttributes)
            groups = {
                name: copy_of(group) if (segment.name, name) in copied else group
                for name, group in said.table_groups.items()
            }
            tables = tuple(table.table for table in segment.tables.values())
            attributes = schema.segment_attributes(replace(segment.info, tables=tables), groups)
            key = f"{segment.name}/{ROOT_DOCUMENT}"
            self._adopt(key, self._location.size(key) or 0)
            self._write([(key, group_document(attributes))])
        self.thinned += sum(table.removes for table in self._copying)
        replaced = [table.replaced() for table in self._copying]
        self._copying.clear()
        return replaced

    def drop_copies(self) -> list[str]:
        """Give up what is not finished; returns the paths of the copies."""
        dropped = [f"{t.segment.name}/{copy_of(t.group)}" for t in self._copying]
        self._copying.clear()
        return dropped
