"""Writing a run: blocks go to their tables, within the run's budget."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

from distwatch.errors import BudgetReachedError, RunExistsError
from distwatch.records import Block, RunInfo, Table
from distwatch.store import schema
from distwatch.store.budget import Budget
from distwatch.store.documents import group_document
from distwatch.store.locations import ROOT_DOCUMENT, location_of
from distwatch.store.table_writer import TableWriter
from distwatch.store.tables import StoredTable
from distwatch.store.thinning import Distances, Replaced, TableCopy
from distwatch.text import format_bytes


class StoreWriter:
    """Appends blocks to one segment of a run, each to its table.

    Args:
        path: a claimed path.
        info: what the rows hold.
        synced: whether a commit waits until the disk itself has it.
        budget: what bounds the bytes of the run, if anything does.

    Raises:
        RunExistsError: the segment was written already.
        OSError: it cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        info: RunInfo,
        *,
        synced: bool = False,
        budget: Budget | None = None,
    ) -> None:
        self._location = location_of(path, synced=synced)
        self._budget = budget or Budget()
        self._info = info
        self._segment = schema.segment_name(info)
        #: The group of each table: another one after it was thinned out.
        self._groups = {table.name: table.name for table in info.tables}
        if self._location.size(self._path(ROOT_DOCUMENT)) is not None:
            raise RunExistsError(f"{path} has rows of {self._segment} already.")
        self._write_groups()
        self._tables = {table.name: self._writer_of(table) for table in info.tables}
        self._copies: dict[str, TableCopy] = {}
        self._distances = {table.name: Distances() for table in info.tables}
        self._replaced = Replaced(self._delete)

    @property
    def committed(self) -> int:
        """Steps that a reader sees or saw, and will see after a crash, summed over tables."""
        return self.thinned + sum(table.committed for table in self._tables.values())

    @property
    def thinned(self) -> int:
        """Steps that were taken out of the old part, summed over tables."""
        return sum(table.thinned for table in self._tables.values())

    def append(self, block: Block) -> None:
        """Take a block, and commit every whole chunk that it completes.

        Raises:
            StateShapeError: the block's shape is not that of its table.
            BudgetReachedError: it does not fit into the budget.
        """
        self._make_room(block, self._budget)
        self._tables[block.table].append(block)

    def commit_tail(self, *, at_once: bool = True) -> None:
        """Commit the steps that fill no chunk yet (unless that was done just now)."""
        for table in self._tables.values():
            table.commit_tail(at_once=at_once)

    def count_lost(self, steps: dict[str, int]) -> None:
        """Count steps of tables that will never come as lost."""
        for name, lost in steps.items():
            self._tables[name].count_lost(lost)

    def give_up(self, reason: str, lost: dict[str, int]) -> None:
        """Write into the store why it ends here and how many steps of each table are lost."""
        for name, table in self._tables.items():
            table.give_up(reason, lost.get(name, 0))

    def close(self) -> None:
        """Commit everything."""
        for name in self._copies:
            self._replaced.add(self._path(_copy_of(self._groups[name])))
        self._copies.clear()
        for table in self._tables.values():
            table.close()
        self._replaced.remove(at_once=True)

    def _writer_of(self, table: Table, group: str | None = None) -> TableWriter:
        path = self._path(group or self._groups[table.name])
        return TableWriter(self._write, self._info, table, path)

    def _path(self, group: str) -> str:
        return f"{self._segment}/{group}"

    def _write(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write files, counted against the budget."""

        def counted() -> Iterator[tuple[str, bytes]]:
            for key, content in files:
                yield key, content
                self._budget.count(key, len(content))

        self._location.write(counted())

    def _delete(self, group: str) -> None:
        self._location.delete(group)
        self._budget.forget(group)

    # Within the budget

    def _make_room(self, block: Block, budget: Budget) -> None:
        self._replaced.remove()
        if budget.wants_thinning or self._copies:
            self._thin_on()
        if not budget.has_room(block.nbytes):
            while self._copies:
                self._thin_on()
            self._replaced.remove(at_once=True)
        if not budget.has_room(block.nbytes):
            self.commit_tail()
            raise BudgetReachedError(
                f"{self._location.address} holds {format_bytes(budget.used)}, and its "
                f"max_bytes are {format_bytes(budget.most)}; what is committed stays."
            )

    def _thin_on(self) -> None:
        """Copy a little more, and put complete copies in the tables' place."""
        # Tables that were just replaced still count, and may be all that exceeds the budget.
        if not self._copies and not self._replaced.waiting:
            self._start_copies()
        behind = [copy.advance() for copy in self._copies.values()]
        if self._copies and not any(behind):
            self._put_in_place()

    def _start_copies(self) -> None:
        for table in self._info.tables:
            name, source = table.name, self._tables[table.name]
            if source.whole < 2 * table.window:
                continue
            reread = functools.partial(
                StoredTable, self._location, self._segment, name, self._info, self._groups[name]
            )
            target = self._writer_of(table, _copy_of(self._groups[name]))
            self._copies[name] = TableCopy(source, target, reread, self._distances[name])

    def _put_in_place(self) -> None:
        before = dict(self._groups)
        for name, copy in self._copies.items():
            copy.finish()
            self._groups[name] = _copy_of(before[name])
        self._write_groups()
        for name, copy in self._copies.items():
            self._tables[name], self._distances[name] = copy.target, copy.distances
            self._replaced.add(self._path(before[name]))
        self._copies.clear()

    def _write_groups(self) -> None:
        """Write the segment's document, which names the group of each table."""
        attributes = schema.segment_attributes(self._info, self._groups)
        self._write([(self._path(ROOT_DOCUMENT), group_document(attributes))])


def _copy_of(group: str) -> str:
    """The name of the group that a table's next copy gets."""
    name, _, generation = group.partition(".")
    return f"{name}.{int(generation or 0) + 1}"
