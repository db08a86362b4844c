"""Opening what was committed: never more, never half of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from distwatch.errors import DamagedStoreError, NotARunError
from distwatch.records import Block, Floats, Ints, RunInfo, Tensors
from distwatch.store import schema


class StoredRun:
    """A run on disk, as it was committed when this was opened.

    Args:
        path: what was given to Watch.

    Raises:
        NotARunError: there is no run.
        FormatVersionError: a newer distwatch wrote it.
        DamagedStoreError: it contradicts its own description.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        root = _open(self.path, None)
        attributes = schema.check_format(dict(root.attrs), str(path))
        self.created = str(attributes.get("created", ""))
        self.tables: dict[str, StoredTable] = {}
        #: The name of the group that holds the rows; None where none was written.
        self.segment = self._only_segment()
        if self.segment is None:
            self.info = schema.rowless_info(attributes, str(path))
            return
        where = f"{path}/{self.segment}"
        said = schema.check_format(dict(_open(self.path, self.segment).attrs), where)
        info = schema.segment_info(said, where)
        for name in schema.table_names(said, where):
            # A table without its document was killed before its first commit.
            if (self.path / self.segment / name / "zarr.json").exists():
                self.tables[name] = StoredTable(self.path, self.segment, name, info)
        self.info = replace(info, tables=tuple(each.table for each in self.tables.values()))

    @property
    def steps(self) -> int:
        """How many steps are committed in the table that has most."""
        return max((table.steps for table in self.tables.values()), default=0)

    @property
    def lost(self) -> int:
        """How many steps were due and are not there, summed over tables."""
        return sum(table.lost for table in self.tables.values())

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        total = 0
        for file in self.path.rglob("*"):
            # A writer may take a temporary file away in between.
            with contextlib.suppress(FileNotFoundError):
                total += file.stat().st_size if file.is_file() else 0
        return total

    def blocks(self) -> Iterator[Block]:
        """The run in pieces of one chunk each, table by table, in order of step."""
        for table in self.tables.values():
            yield from table.blocks()

    def _only_segment(self) -> str | None:
        # A segment without its document was killed before its first commit.
        committed = self.path.glob("worker-*/zarr.json")
        names = sorted(document.parent.name for document in committed)
        if len(names) > 1:
            raise DamagedStoreError(
                f"{self.path} holds {len(names)} segments ({', '.join(names)}); "
                "this distwatch writes and reads one."
            )
        return names[0] if names else None


class StoredTable:
    """One table of a run on disk.

    Args:
        path: the run's.
        segment: the name of the segment's group.
        name: the table's.
        info: what the segment says.

    Raises:
        FormatVersionError: a newer distwatch wrote it.
        DamagedStoreError: it contradicts its own description.
    """

    def __init__(self, path: Path, segment: str, name: str, info: RunInfo) -> None:
        self._where = f"{path}/{segment}/{name}"
        self._info = info
        self._group = _open(path, f"{segment}/{name}")
        said = schema.check_format(dict(self._group.attrs), self._where)
        self.table = schema.table_info(said, name, self._where)
        self.steps, self.lost = schema.progress(said, self._where)
        self._check_shapes()

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
        if self.table.tensor is None or "tensor" not in self._group:
            return None
        return Tensors(self._read("tensor", (steps,)), self._read("valid", (steps,)))

    def blocks(self) -> Iterator[Block]:
        """The table's scalar fields in pieces of one chunk each, in order of step."""
        for start in range(0, self.steps, self.table.window):
            steps = slice(start, min(start + self.table.window, self.steps))
            yield Block(
                table=self.table.name,
                step=self.coordinate("step", steps),
                epoch=self.coordinate("epoch", steps),
                iteration=self.coordinate("iteration", steps),
                rows=self.rows(steps),
                merged=self.merged(steps),
            )

    def _check_shapes(self) -> None:
        for spec in schema.growing(self._info, self.table):
            wanted = (self.steps, *spec.sizes)
            got = getattr(self._group.get(spec.name), "shape", None)
            if got != wanted:
                raise DamagedStoreError(
                    f"{self._where}: array {spec.name!r} is of shape {got}, its group says "
                    f"{wanted}; the store was changed by something else than distwatch."
                )

    def _read(self, name: str, where: tuple[slice, ...]) -> Any:
        array: Any = self._group[name]
        try:
            return np.asarray(array[where])
        except (ValueError, RuntimeError, OSError) as error:
            raise DamagedStoreError(
                f"{self._where}: array {name!r} cannot be read at "
                f"{where[0]} ({type(error).__name__}: {error}); a chunk is damaged."
            ) from error


def _open(path: Path, group: str | None) -> zarr.Group:
    if not path.is_dir():
        raise NotARunError(f"{path} is no distwatch run: there is no such folder.")
    try:
        return zarr.open_group(LocalStore(path, read_only=True), path=group, mode="r")
    except Exception as error:
        # Zarr raises many kinds of errors on documents that are not its own.
        if group is not None:
            raise schema.damaged(f"{path}/{group}", error) from error
        raise NotARunError(
            f"{path} is no distwatch run ({type(error).__name__}: {error}). "
            "Give the path that was given to Watch."
        ) from error
