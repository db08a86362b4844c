"""Opening what was committed: never more, never half of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distwatch._text import shortened
from distwatch.addresses import Address
from distwatch.errors import (
    ConfigError,
    DamagedStoreError,
    RunChangedError,
    StoreError,
)
from distwatch.records import (
    PHASES,
    TRAIN,
    Block,
    Floats,
    Ints,
    RunInfo,
    Table,
    TensorLayout,
    Tensors,
)
from distwatch.store import descriptions, schema
from distwatch.store.damage import UNREADABLE, Damage, checked, is_missing
from distwatch.store.documents import read_document
from distwatch.store.guarding import (
    Layout,
    MissingChunkError,
    check_layout,
    label_layout,
    layout_of,
    open_array,
)
from distwatch.store.joining import ContinuedTable, JoinedTable, ReadableTable, blocks
from distwatch.store.locations import ROOT_DOCUMENT, Location, location_of


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
        #: Where it lies: a folder's path, or a URL.
        self.path: Address = self._location.address
        #: The phase that was asked for; None for the usual one.
        self.phase = phase
        attributes = root_of(self._location)
        #: By this a run is told from another one that has taken its place since.
        self.identity = descriptions.identity(attributes, str(path))
        self.created = self.identity[1]
        found = read_segments(self._location)
        #: The phases that have rows.
        self.phases = [phase for phase in PHASES if any(s.info.phase == phase for s in found)]
        chosen = self._choose(phase)
        #: What was written of this phase: by each worker, since each start.
        self.segments = [segment for segment in found if segment.info.phase == chosen]
        #: The same, the starts of each worker read as one.
        self.workers = continued(self.segments, str(path))
        self.tables = _joined(self.workers, str(path))
        tables = tuple(each.table for each in self.tables.values())
        if self.workers:
            self.info = _joined_info([worker.info for worker in self.workers], tables)
        else:
            self.info = descriptions.rowless_info(attributes, str(path))

    @property
    def steps(self) -> int:
        """How many steps are committed in the table that has most."""
        return max((table.steps for table in self.tables.values()), default=0)

    @property
    def lost(self) -> int:
        """How many steps were due and are not there, summed over tables."""
        return sum(table.lost for table in self.tables.values())

    @property
    def thinned(self) -> int:
        """How many steps were taken out again to save room, summed over tables."""
        return sum(table.thinned for table in self.tables.values())

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self._location.nbytes

    def verify(self) -> Iterator[tuple[int, Damage | None]]:
        """Read every chunk of every phase: how many bytes each has, and what is damaged."""
        for segment in read_segments(self._location):
            for table in segment.tables.values():
                yield from table.verify()

    @property
    def ended(self) -> str | None:
        """What ended the writing: "closed", an error; None while it goes on, or if killed.

        Of the latest start of each worker; what went wrong with one comes first.
        """
        latest = [worker.latest for worker in self.workers]
        said = {table.ended for segment in latest for table in segment.tables.values()}
        wrong = sorted(each for each in said - {None, schema.CLOSED} if each)
        if wrong:
            return wrong[0]
        return schema.CLOSED if said == {schema.CLOSED} else None

    def blocks(self) -> Iterator[Block]:
        """The run in pieces of one chunk each, table by table, in order of step."""
        for table in self.tables.values():
            yield from blocks(table)

    def _choose(self, phase: str | None) -> str:
        if phase is None:
            return self.phases[0] if self.phases else TRAIN
        if phase not in self.phases:
            has = ", ".join(self.phases) or "no rows"
            raise ConfigError(f"{self.path} has no phase {phase!r}; it has: {has}.")
        return phase


class Segment(NamedTuple):
    """What one worker wrote of one phase since one start."""

    name: str
    info: RunInfo
    tables: dict[str, StoredTable]

    @property
    def steps(self) -> int:
        """How many steps are committed in the table that has most."""
        return max((table.steps for table in self.tables.values()), default=0)


class Worker(NamedTuple):
    """What one worker wrote of one phase, since its first start."""

    info: RunInfo
    tables: dict[str, ReadableTable]
    latest: Segment

    @property
    def steps(self) -> int:
        """How many steps it has in the table that has most."""
        return max((table.steps for table in self.tables.values()), default=0)


def root_of(location: Location) -> dict[str, Any]:
    """What the root group says of a run.

    Raises:
        NotARunError: there is no run.
        FormatVersionError: a newer distwatch wrote it.
    """
    return descriptions.check_format(
        read_document(location, "")["attributes"], str(location.address)
    )


def read_segments(location: Location) -> list[Segment]:
    """All segments of a run that have rows, by worker and start.

    Raises:
        FormatVersionError: a newer distwatch wrote one.
        DamagedStoreError: one contradicts its own description.
    """
    found = [_read_segment(location, name) for name in _segment_names(location)]
    begun = [segment for segment in found if segment is not None]
    return sorted(begun, key=lambda each: (each.info.worker, each.info.origin.start))


def groups_of(location: Location) -> dict[str, list[str]]:
    """The groups that each segment of a run names as its tables.

    Raises:
        FormatVersionError, DamagedStoreError: a segment cannot be understood.
    """
    found = {}
    for name in _segment_names(location):
        where = f"{location.address}/{name}"
        said = descriptions.check_format(read_document(location, name)["attributes"], where)
        found[name] = list(descriptions.table_groups(said, where).values())
    return found


def _segment_names(location: Location) -> list[str]:
    """The segments that a run has; of one that was killed at once there is no document."""
    return [
        name
        for name in location.children()
        if schema.start_of(name) is not None
        and location.size(f"{name}/{ROOT_DOCUMENT}") is not None
    ]


def _read_segment(location: Location, name: str) -> Segment | None:
    where = f"{location.address}/{name}"
    said = descriptions.check_format(read_document(location, name)["attributes"], where)
    info = descriptions.segment_info(said, where)
    groups = descriptions.table_groups(said, where)
    # All tables are made before the first row is committed to any of them.
    documents = [f"{name}/{group}/{ROOT_DOCUMENT}" for group in groups.values()]
    if any(location.size(document) is None for document in documents):
        return None
    tables = {
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
    if ends == (None,):
        return Worker(latest.info, dict(latest.tables), latest)
    names = _same_tables([segment.tables for segment in segments], where, "starts")
    tables: dict[str, ReadableTable] = {
        name: ContinuedTable([segment.tables[name] for segment in segments], ends, where)
        for name in names
    }
    return Worker(latest.info, tables, latest)


def _joined(workers: list[Worker], where: str) -> dict[str, ReadableTable]:
    if len(workers) == 1:
        return workers[0].tables
    names = _same_tables([worker.tables for worker in workers], where, "workers")
    return {
        name: JoinedTable([worker.tables[name] for worker in workers], where) for name in names
    }


def _same_tables(tables: list[Any], where: str, of: str) -> list[str]:
    """The names of the tables that all of them have."""
    if len({tuple(each) for each in tables}) > 1:
        raise DamagedStoreError(f"{where}: its {of} wrote different tables.")
    return list(tables[0]) if tables else []


def _joined_info(infos: list[RunInfo], tables: tuple[Table, ...]) -> RunInfo:
    return replace(
        infos[0],
        tables=tables,
        replicas=tuple(number for info in infos for number in info.replicas),
        unwatched={path: why for info in infos for path, why in info.unwatched.items()},
    )


class StoredTable:
    """One table of a run on disk.

    Args:
        location: the run's.
        segment: the name of the segment's group.
        name: the table's.
        info: what the segment says.
        group: the name of the group that the table is in.

    Raises:
        FormatVersionError: a newer distwatch wrote it.
        DamagedStoreError: it contradicts its own description.
    """

    def __init__(
        self, location: Location, segment: str, name: str, info: RunInfo, group: str
    ) -> None:
        self._location = location
        self._segment = segment
        self._path = f"{segment}/{group}"
        self._where = f"{location.address}/{self._path}"
        self._info = info
        document = read_document(location, self._path)
        said = descriptions.check_format(document["attributes"], self._where)
        self.table = descriptions.table_info(said, name, self._where)
        self.replicas = info.replicas
        self.steps, self.lost, self.thinned = descriptions.progress(said, self._where)
        #: How the writing ended; None while it goes on, or if it was killed.
        self.ended = descriptions.ended(said, self._where)
        self._layouts = self._checked_layouts(_arrays_of(document))

    def present(self, steps: slice = slice(None)) -> npt.NDArray[np.bool_]:
        """Whether a replica's row is there, which they all are: shape (step, replica)."""
        start, stop, _ = steps.indices(self.steps)
        return np.ones((stop - start, len(self.replicas)), bool)

    def coordinate(self, name: str, steps: slice = slice(None)) -> Ints:
        """``step``, ``epoch`` or ``iteration``: shape (step,)."""
        return np.asarray(self._read(name, (steps,)), np.int64)

    def rows(self, steps: slice = slice(None), signals: slice = slice(None)) -> Floats:
        """Per-replica states of scalar fields: shape (step, replica, signal, field)."""
        return np.asarray(self._read("rows", (steps, slice(None), signals)), np.float64)

    def merged(self, steps: slice = slice(None), signals: slice = slice(None)) -> Floats:
        """The same merged over replicas: shape (step, signal, field)."""
        return np.asarray(self._read("merged", (steps, signals)), np.float64)

    def histogram(self, steps: slice = slice(None), signals: slice = slice(None)) -> Ints:
        """Bucket counts on each replica: shape (step, replica, signal, bucket)."""
        return np.asarray(self._read("histogram", (steps, slice(None), signals)), np.int64)

    def histogram_merged(
        self, steps: slice = slice(None), signals: slice = slice(None)
    ) -> Ints:
        """The same merged over replicas: shape (step, signal, bucket)."""
        return np.asarray(self._read("histogram_merged", (steps, signals)), np.int64)

    def tensors(self, steps: slice = slice(None)) -> Tensors | None:
        """Raw deltas, where the table keeps them and a step was looked at."""
        if "tensor" not in self._layouts:
            return None
        return Tensors(self._read("tensor", (steps,)), self._read("valid", (steps,)))

    def verify(self) -> Iterator[tuple[int, Damage | None]]:
        """Read every chunk: how many bytes each has, and what is damaged."""
        for name in sorted(self._layouts):
            with self._location.reached():
                yield from self._checked(name)

    def _checked(
        self, name: str, rows: slice | None = None
    ) -> Iterator[tuple[int, Damage | None]]:
        array, path = self._array(name), f"{self._path}/{name}"
        if name != "tensor":
            return checked(array, self._location, path, rows=rows)
        return checked(array, self._location, path, rows=rows, holds=self._has_rows_in)

    def _has_rows_in(self, region: tuple[slice, ...]) -> bool:
        """Whether a batch reaches into a region of the raw deltas."""
        try:
            valid = np.asarray(self._array("valid")[region[:2]])
            return bool((valid > region[2].start).any())
        except UNREADABLE:
            return True  # Which is damage of its own.

    def _is_in_place(self) -> bool:
        """Whether the segment still says that the table is here."""
        said = read_document(self._location, self._segment)["attributes"]
        where = f"{self._location.address}/{self._segment}"
        groups = descriptions.table_groups(descriptions.check_format(said, where), where)
        return self._path == f"{self._segment}/{groups.get(self.table.name)}"

    def _checked_layouts(self, said: dict[str, Any]) -> dict[str, Layout]:
        """The arrays that are there, each as the table's description wants it."""
        info, table = self._info, self.table
        layouts = [layout_of(spec, self.steps) for spec in schema.growing(info, table)]
        labels = schema.label_sizes(info, table)
        layouts += [label_layout(n, *about) for n, about in labels.items() if n in said]
        try:
            if table.tensor is not None and "tensor" in said:
                layouts += _tensor_layouts(info, table.tensor, self.steps, said["tensor"])
            for layout in layouts:
                check_layout(layout, said.get(layout.name), self._where)
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, DamagedStoreError):
                raise
            raise descriptions.damaged(self._where, error) from error
        return {layout.name: layout for layout in layouts}

    def _array(self, name: str) -> Any:
        return open_array(self._location, f"{self._path}/{name}", self._layouts[name])

    def _read(self, name: str, where: tuple[slice, ...]) -> Any:
        try:
            with self._location.reached():
                values = np.asarray(self._array(name)[where])
        except StoreError:
            raise
        except MissingChunkError as error:
            raise self._damaged(name, where, "a chunk is missing") from error
        except MemoryError as error:
            raise StoreError(
                f"{self._where}: array {name!r} takes more memory than there is "
                f"({shortened(str(error), quoted=False)}); read a part of it: one signal, "
                "or chunks='auto'."
            ) from error
        except UNREADABLE as error:
            raise self._damaged(name, where, f"{type(error).__name__}: {error}") from error
        if is_missing(name, values):
            raise self._damaged(name, where, "a chunk is missing")
        return values

    def _damaged(self, name: str, where: tuple[slice, ...], why: str) -> StoreError:
        if not self._is_in_place():
            return RunChangedError(
                f"{self._where} was thinned out since it was opened, to keep the run within "
                "its max_bytes; call refresh(), or open the run anew."
            )
        start, stop, _ = where[0].indices(self.steps)
        each = self._checked(name, slice(start, stop))
        found = [damage for _, damage in each if damage is not None]
        files = "; ".join(str(damage) for damage in found)
        return DamagedStoreError(
            f"{self._where}: array {name!r} cannot be read ({why}). {files or 'Try again.'} "
            "The rest of the run stays readable; 'distwatch verify' lists all damage."
        )


def _arrays_of(document: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a table's arrays, whatever they say."""
    consolidated = document.get("consolidated_metadata")
    arrays = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    return arrays if isinstance(arrays, dict) else {}


def _tensor_layouts(
    info: RunInfo, tensor: TensorLayout, steps: int, said: Any
) -> Iterator[Layout]:
    """Those of raw deltas: only the rows of a batch are known from the arrays alone."""
    rows = said["chunk_grid"]["configuration"]["chunk_shape"][2]
    most = said["shape"][2]
    if type(rows) is not int or type(most) is not int or not 0 < rows <= most:
        raise ValueError(f"{shortened(most)} rows of a batch in chunks of {shortened(rows)}")
    for spec in schema.tensor_arrays(info, tensor, rows):
        layout = layout_of(spec, steps, sparse=spec.name == "tensor")
        if layout.sparse:
            axis, _, *features = spec.sizes
            layout = replace(layout, shape=(steps, axis, most, *features))
        yield layout
