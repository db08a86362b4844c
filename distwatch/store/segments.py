"""The parts of a run: a segment is what one worker wrote of one phase since one start.

The starts of a worker are read as one, see `joining`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from distwatch.errors import DamagedStoreError
from distwatch.records import RunInfo
from distwatch.store import schema
from distwatch.store.documents import read_group
from distwatch.store.joining import ContinuedTable, JoinedTable
from distwatch.store.locations import ROOT_DOCUMENT, Location
from distwatch.store.readable_tables import ReadableTable
from distwatch.store.salvage import WholeRows
from distwatch.store.schema import SegmentAttributes
from distwatch.store.tables import StoredTable


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


def lost_documents(location: Location) -> Iterator[str]:
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


def joined(workers: list[Worker], where: str) -> dict[str, ReadableTable]:
    """The tables of all workers, each as one, by their names."""
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
