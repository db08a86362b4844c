"""Writing a run: claiming its path, and committing blocks one by one."""

from __future__ import annotations

import datetime
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec
from zarr.storage import LocalStore

from distwatch.errors import NotWritableError, RunExistsError, StateShapeError
from distwatch.records import Block, RunInfo, concatenate
from distwatch.store import schema
from distwatch.store.staging import StagedStore

#: A tail that is not a whole chunk is rewritten at most this often, in seconds.
TAIL_INTERVAL = 30.0


def claim(path: Path, attributes: dict[str, Any], *, overwrite: bool = False) -> None:
    """Make ``path`` a run without rows, or say before training why it cannot be one.

    Args:
        path: a folder that does not exist, is empty, or (to overwrite) holds a run.
        attributes: the root group's, from `schema.root_attributes`.
        overwrite: delete the run that is there.

    Raises:
        RunExistsError: something is there already.
        NotWritableError: the path cannot be written.
    """
    try:
        _make_room(path, overwrite)
        root = zarr.create_group(LocalStore(path), attributes=attributes, zarr_format=3)
        root.store.close()
    except OSError as error:
        if isinstance(error, RunExistsError):
            raise
        raise NotWritableError(
            f"{path} cannot be written ({error.strerror or error}); "
            "give Watch a path in a folder where you may write."
        ) from error


def disclaim(path: Path) -> None:
    """Take back a claim on which nothing was written, so that the next fit may claim."""
    if [child.name for child in path.iterdir()] == ["zarr.json"]:
        (path / "zarr.json").unlink()
        path.rmdir()


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
            "to delete that run first."
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
    """Appends blocks to one segment of a run; each is there whole or not at all.

    A block is written as whole chunks of ``info.window`` steps; what is left over
    waits in memory as the tail, until it fills a chunk or is committed as a part
    of one, to be replaced by a superset later.

    Args:
        path: a claimed path.
        info: what the rows hold.
        segment: the name of the segment's group.
    """

    def __init__(self, path: Path, info: RunInfo, segment: str) -> None:
        self._info = info
        self._segment = segment
        self._store = StagedStore(LocalStore(path))
        self._group = zarr.create_group(self._store, path=segment, zarr_format=3)
        self._arrays = {spec.name: _create(self._group, spec, info) for spec in schema.GROWING}
        _create_labels(self._group, info)
        self._tail: list[Block] = []
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
            StateShapeError: the block's shape is not that of this run.
        """
        self._check(block)
        self._lost += block.lost
        self._tail.append(block)
        waiting = concatenate(self._tail)
        window = self._info.window
        whole = len(waiting) // window * window
        if whole:
            self._write(waiting[:whole])
            self._whole += whole
            self._commit(self._whole)
        self._tail = [waiting[whole:]]

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

    def close(self) -> None:
        """Commit everything."""
        self.commit_tail()
        self._commit(self._committed, settle=True)
        self._store.close()

    def _write(self, block: Block) -> None:
        start, stop = self._whole, self._whole + len(block)
        for name, array in self._arrays.items():
            array.resize((stop, *array.shape[1:]))
            array[start:stop] = getattr(block, name)

    def _commit(self, steps: int, *, settle: bool = False) -> None:
        attributes = schema.segment_attributes(self._info, steps, self._lost)
        # Where xarray finds the coordinates that are no dims.
        attributes["coordinates"] = "epoch iteration"
        self._store.commit(self._segment, attributes, settle=settle)
        self._committed = steps

    def _check(self, block: Block) -> None:
        signals, fields = len(self._info.signals), len(self._info.fields)
        wanted = (len(block), len(self._info.replicas), signals, fields)
        if block.rows.shape != wanted or block.merged.shape != (len(block), signals, fields):
            raise StateShapeError(
                f"a block of shape {block.rows.shape} (merged {block.merged.shape}) came "
                f"for a run of shape {wanted}; every replica must watch the same signals."
            )


def _create(group: zarr.Group, spec: schema.ArraySpec, info: RunInfo) -> Any:
    """Create one growing array: shards of a window of steps, checksums inside."""
    sizes = {
        "step": info.window,
        "replica": len(info.replicas),
        "signal": len(info.signals),
        "field": len(info.fields),
    }
    shard = tuple(sizes[dim] for dim in spec.dims)
    chunk = tuple(
        _divisor(size, schema.SIGNALS_PER_CHUNK) if dim == "signal" else size
        for dim, size in zip(spec.dims, shard, strict=True)
    )
    rank = len(spec.dims)
    return group.create_array(
        spec.name,
        shape=(0, *shard[1:]),
        chunks=chunk,
        shards=shard if chunk != shard else None,
        dtype=spec.dtype,
        fill_value=spec.fill,
        # Time runs fastest, so that neighbours are alike and compress.
        filters=[TransposeCodec(order=(*range(1, rank), 0))] if rank > 1 else None,
        compressors=[BloscCodec(cname="lz4", shuffle="shuffle", typesize=8), Crc32cCodec()],
        dimension_names=spec.dims,
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )


def _create_labels(group: zarr.Group, info: RunInfo) -> None:
    labels: dict[str, Any] = {
        "replica": np.asarray(info.replicas, np.int64),
        "signal": list(info.names),
        "field": list(info.fields),
    }
    for name, values in labels.items():
        kind = "int64" if name == "replica" else "string"
        array = group.create_array(
            name,
            shape=(len(values),),
            chunks=(max(1, len(values)),),
            dtype=kind,
            compressors=[Crc32cCodec()],
            dimension_names=(name,),
            config={"write_empty_chunks": True},
        )
        array[:] = np.asarray(values, dtype=np.int64 if kind == "int64" else object)


def _divisor(size: int, most: int) -> int:
    """The largest divisor of ``size`` up to ``most``.

    Inner chunks have to divide a shard exactly, or every write reads it first.
    """
    return max(n for n in range(1, min(size, most) + 1) if size % n == 0)
