"""Writing a run: claiming its path, and committing blocks one by one."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec

from distwatch.errors import (
    NotWritableError,
    RunExistsError,
    StateShapeError,
    UnreachableError,
)
from distwatch.records import Block, RunInfo, Table, concatenate
from distwatch.store import encoding, schema
from distwatch.store.locations import ROOT_DOCUMENT, Location, location_of
from distwatch.store.staging import StagedStore

#: A tail that is not a whole chunk is rewritten at most this often, in seconds.
TAIL_INTERVAL = 30.0


def claim(
    path: str | Path,
    attributes: dict[str, Any],
    *,
    overwrite: bool = False,
    synced: bool = False,
) -> None:
    """Make ``path`` a run without rows, or say before training why it cannot be one.

    Args:
        path: a folder or URL where nothing is, or (to overwrite) a run.
        attributes: the root group's, from `schema.root_attributes`.
        overwrite: delete the run that is there.
        synced: wait until it is on the disk itself.

    Raises:
        RunExistsError: something is there already.
        NotWritableError: the path cannot be written.
    """
    location = location_of(path)
    try:
        with location.reached():
            _make_room(location, overwrite)
            store = location.store(synced=synced)
            zarr.create_group(store, attributes=attributes, zarr_format=3)
            store.close()
    except UnreachableError as error:
        raise NotWritableError(str(error)) from error
    except OSError as error:
        if isinstance(error, RunExistsError):
            raise
        raise NotWritableError(
            f"{path} cannot be written ({error.strerror or error}); "
            "give Watch a path in a folder where you may write."
        ) from error


def is_claimed(path: str | Path, run: str, *, wait: float) -> bool:
    """Whether another process has claimed ``path`` for a run, and this one may write it.

    Args:
        path: what that process claimed.
        run: the run's name, as in its root attributes.
        wait: seconds that a shared folder may take until it shows the claim.
    """
    until = time.monotonic() + wait
    while True:
        if run_name(path) == run:
            return location_of(path).is_writable()
        if time.monotonic() >= until:
            return False
        time.sleep(0.05)


def run_name(path: str | Path) -> str | None:
    """The name of the run at ``path``; None where there is none, or half of it."""
    try:
        document = json.loads(location_of(path).read(ROOT_DOCUMENT) or b"")
        return str(document["attributes"][schema.ATTRIBUTE]["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def disclaim(path: str | Path) -> None:
    """Take back a claim on which nothing was written, so that the next fit may claim."""
    location = location_of(path)
    if location.children() == [ROOT_DOCUMENT]:
        location.remove()


def _make_room(location: Location, overwrite: bool) -> None:
    path = location.address
    if location.is_free():
        location.prepare()
        return
    if not is_run(path):
        raise RunExistsError(
            f"{path} exists and is no distwatch run, so it is left alone; "
            "choose another path, or remove it yourself."
        )
    if not overwrite:
        raise RunExistsError(
            f"{path} holds a run already; choose another path, or pass overwrite=True "
            "to delete that run first, or resume=True to continue it."
        )
    location.clear()


def is_run(path: str | Path) -> bool:
    """Tell whether a distwatch run, of whatever format, lies at ``path``."""
    try:
        store = location_of(path).store(read_only=True)
        attributes = zarr.open_group(store, mode="r").attrs
    except Exception:
        # Zarr raises many kinds of errors on documents that are not its own.
        return False
    return schema.ATTRIBUTE in attributes


def now() -> str:
    """The time, as stores say it: ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class StoreWriter:
    """Appends blocks to one segment of a run, each to its table.

    Args:
        path: a claimed path.
        info: what the rows hold.
        synced: whether a commit waits until the disk has what is committed.
    """

    def __init__(self, path: str | Path, info: RunInfo, *, synced: bool = False) -> None:
        self._store = location_of(path).store(synced=synced)
        segment = schema.segment_name(info)
        attributes = schema.segment_attributes(info)
        zarr.create_group(self._store, path=segment, attributes=attributes, zarr_format=3)
        self._tables = {
            table.name: TableWriter(self._store, info, table, f"{segment}/{table.name}")
            for table in info.tables
        }

    @property
    def committed(self) -> int:
        """Steps that a reader sees, and will see after a crash, summed over tables."""
        return sum(table.committed for table in self._tables.values())

    def append(self, block: Block) -> None:
        """Take a block, and commit every whole chunk that it completes.

        Raises:
            StateShapeError: the block's shape is not that of its table.
        """
        self._tables[block.table].append(block)

    def commit_tail(self, *, at_once: bool = True) -> None:
        """Commit the steps that fill no chunk yet (unless that was done just now)."""
        for table in self._tables.values():
            table.commit_tail(at_once=at_once)

    def count_lost(self, steps: dict[str, int]) -> None:
        """Declare steps of tables that will never come."""
        for name, lost in steps.items():
            self._tables[name].count_lost(lost)

    def give_up(self, reason: str, lost: dict[str, int]) -> None:
        """Say in the store, if it can still be written, why it ends here and what is lost."""
        for name, table in self._tables.items():
            table.give_up(reason, lost.get(name, 0))

    def close(self) -> None:
        """Commit everything."""
        for table in self._tables.values():
            table.close()
        self._store.close()


class TableWriter:
    """Appends blocks to one table; each is there whole or not at all.

    A block is written as whole chunks of ``table.window`` steps; what is left over
    waits in memory as the tail, until it fills a chunk or is committed as a part
    of one, to be replaced by a superset later.

    Args:
        store: where the run is.
        info: what the run holds.
        table: what this table holds.
        group: the path of the table's group.
    """

    def __init__(self, store: Store, info: RunInfo, table: Table, group: str) -> None:
        self._info = info
        self._table = table
        self._path = group
        self._store = StagedStore(store)
        self._group = zarr.create_group(self._store, path=group, zarr_format=3)
        self._arrays = {
            spec.name: encoding.create(self._group, spec)
            for spec in schema.growing(info, table)
        }
        _create_labels(self._group, info, table)
        self._tail: list[Block] = []
        #: Steps that were taken over.
        self._given = 0
        self._whole = 0
        self._lost = 0
        self._committed = 0
        self._tail_time = time.monotonic()
        self._commit(0, settle=True)

    @property
    def committed(self) -> int:
        """Steps that a reader sees, and will see after a crash."""
        return self._committed

    def append(self, block: Block) -> None:
        """Take a block, and commit every whole chunk that it completes.

        Raises:
            StateShapeError: the block's shape is not that of this table.
        """
        self._check(block)
        self._lost += block.lost
        # A tail of no steps is no reason to copy a block.
        waiting = concatenate([*self._tail, block]) if any(map(len, self._tail)) else block
        window = self._table.window
        whole = len(waiting) // window * window
        if whole:
            self._write(waiting[:whole])
            self._whole += whole
            self._commit(self._whole)
        self._tail = [waiting[whole:]]
        self._given += len(block)

    def commit_tail(self, *, at_once: bool = True) -> None:
        """Commit the steps that fill no chunk yet (unless that was done just now)."""
        due = at_once or time.monotonic() - self._tail_time >= TAIL_INTERVAL
        if not due or not self._tail:
            return
        tail = self._tail[0]
        if len(tail):
            self._write(tail)
        self._commit(self._whole + len(tail))
        self._tail_time = time.monotonic()

    def count_lost(self, steps: int) -> None:
        """Declare steps that will never come; said in the store at the next commit."""
        self._lost += steps

    def give_up(self, reason: str, lost: int) -> None:
        """Say why no more comes than what is committed; ``lost`` never came here."""
        self._lost += lost + self._given - self._committed
        self._commit(self._committed, ended=reason)

    def close(self) -> None:
        """Commit everything."""
        self.commit_tail()
        self._commit(self._committed, settle=True, ended=schema.CLOSED)

    def _write(self, block: Block) -> None:
        """Write the chunks of a block; its steps are there when they are committed."""
        self._store.put(self._chunks(block))

    def _chunks(self, block: Block) -> Iterator[tuple[str, bytes]]:
        for name, values in self._values(block).items():
            for key, content in self._arrays[name].chunks(self._whole, values):
                yield f"{self._path}/{name}/{key}", content

    def _values(self, block: Block) -> dict[str, Any]:
        """The values of each array of the table, for the steps of a block."""
        scalars = len(self._table.fields)
        values: dict[str, Any] = {
            "step": block.step,
            "epoch": block.epoch,
            "iteration": block.iteration,
            "rows": block.rows[..., :scalars],
            "merged": block.merged[..., :scalars],
        }
        if "histogram" in self._arrays:
            values["histogram"] = block.rows[..., scalars:].astype(np.int64)
            values["histogram_merged"] = block.merged[..., scalars:].astype(np.int64)
        if self._table.tensor is not None and block.tensors is not None:
            self._make_room_for_tensors(block.tensors.values.shape[2])
            values["tensor"] = block.tensors.values
            values["valid"] = block.tensors.valid
        return values

    def _make_room_for_tensors(self, rows: int) -> None:
        """How many rows a batch has is known when the first one comes."""
        if self._table.tensor is not None and "tensor" not in self._arrays:
            for spec in schema.tensor_arrays(self._info, self._table.tensor, max(rows, 1)):
                self._arrays[spec.name] = encoding.create(self._group, spec)

    def _commit(self, steps: int, *, settle: bool = False, ended: str | None = None) -> None:
        attributes = schema.table_attributes(self._table, steps, self._lost, ended)
        # Also of what a failed write left half done, no more is shown than the steps.
        shapes = {name: array.shape(steps) for name, array in self._arrays.items()}
        self._store.commit(self._path, attributes, shapes, settle=settle)
        self._committed = steps

    def _check(self, block: Block) -> None:
        signals, fields = len(self._table.signals), len(self._table.statistic.fields)
        wanted = (len(block), len(self._info.replicas), signals, fields)
        if block.rows.shape != wanted or block.merged.shape != (len(block), signals, fields):
            raise StateShapeError(
                f"a block of shape {block.rows.shape} (merged {block.merged.shape}) came "
                f"for a table of shape {wanted}; every replica must watch the same signals."
            )


def _create_labels(group: zarr.Group, info: RunInfo, table: Table) -> None:
    labels: dict[str, Any] = {
        "replica": np.asarray(info.replicas, np.int64),
        "signal": np.asarray(table.names, object),
        "field": np.asarray(table.fields, object),
        "bucket": schema.bucket_labels(table),
    }
    for name, values in labels.items():
        if name == "bucket" and not len(values):
            continue
        array = group.create_array(
            name,
            shape=(len(values),),
            chunks=(max(1, len(values)),),
            dtype="string" if values.dtype == object else str(values.dtype),
            compressors=[Crc32cCodec()],
            dimension_names=(name,),
            config={"write_empty_chunks": True},
        )
        array[:] = values
