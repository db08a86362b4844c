"""Writing a run: claiming its path, and committing blocks one by one."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec
from zarr.storage import LocalStore

from distwatch.errors import NotWritableError, RunExistsError, StateShapeError
from distwatch.records import Block, RunInfo, Table, concatenate
from distwatch.store import encoding, schema
from distwatch.store.staging import StagedStore
from distwatch.store.syncing import SyncedStore

#: A tail that is not a whole chunk is rewritten at most this often, in seconds.
TAIL_INTERVAL = 30.0


def claim(
    path: Path, attributes: dict[str, Any], *, overwrite: bool = False, synced: bool = False
) -> None:
    """Make ``path`` a run without rows, or say before training why it cannot be one.

    Args:
        path: a folder that does not exist, is empty, or (to overwrite) holds a run.
        attributes: the root group's, from `schema.root_attributes`.
        overwrite: delete the run that is there.
        synced: wait until it is on the disk itself.

    Raises:
        RunExistsError: something is there already.
        NotWritableError: the path cannot be written.
    """
    try:
        _make_room(path, overwrite)
        root = zarr.create_group(_store(path, synced), attributes=attributes, zarr_format=3)
        root.store.close()
    except OSError as error:
        if isinstance(error, RunExistsError):
            raise
        raise NotWritableError(
            f"{path} cannot be written ({error.strerror or error}); "
            "give Watch a path in a folder where you may write."
        ) from error


def is_claimed(path: Path, run: str, *, wait: float) -> bool:
    """Whether another process has claimed ``path`` for a run, and this one may write it.

    Args:
        path: what that process claimed.
        run: the run's name, as in its root attributes.
        wait: seconds that a shared folder may take until it shows the claim.
    """
    until = time.monotonic() + wait
    while True:
        if run_name(path) == run:
            return os.access(path, os.W_OK)
        if time.monotonic() >= until:
            return False
        time.sleep(0.05)


def run_name(path: Path) -> str | None:
    """The name of the run at ``path``; None where there is none, or half of it."""
    try:
        document = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        return str(document["attributes"][schema.ATTRIBUTE]["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def disclaim(path: Path) -> None:
    """Take back a claim on which nothing was written, so that the next fit may claim."""
    if [child.name for child in path.iterdir()] == ["zarr.json"]:
        (path / "zarr.json").unlink()
        path.rmdir()


def _store(path: Path, synced: bool) -> LocalStore:
    return SyncedStore(path) if synced else LocalStore(path)


def _make_room(path: Path, overwrite: bool) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        path.mkdir(parents=True, exist_ok=True)
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
    # Away in one rename, so that an interrupted deletion leaves no half of a run.
    doomed = path.with_name(f".{path.name}.{uuid.uuid4().hex}.deleted")
    path.rename(doomed)
    shutil.rmtree(doomed)
    path.mkdir()


def is_run(path: Path) -> bool:
    """Tell whether a distwatch run, of whatever format, lies at ``path``."""
    try:
        attributes = zarr.open_group(LocalStore(path, read_only=True), mode="r").attrs
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

    def __init__(self, path: Path, info: RunInfo, *, synced: bool = False) -> None:
        self._store = _store(path, synced)
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
