"""Appending to one table: each block is there whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec

from distwatch.errors import StateShapeError
from distwatch.records import Block, RunInfo, Table, concatenate
from distwatch.store import encoding, schema
from distwatch.store.staging import StagedStore

#: A tail that is not a whole chunk is rewritten at most this often, in seconds.
TAIL_INTERVAL = 30.0


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
        #: Steps in whole chunks.
        self.whole = 0
        #: Steps that were committed once and taken out since.
        self.thinned = 0
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
            self.whole += whole
            self._commit(self.whole)
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
        self._commit(self.whole + len(tail))
        self._tail_time = time.monotonic()

    def count_lost(self, steps: int) -> None:
        """Declare steps that will never come; said in the store at the next commit."""
        self._lost += steps

    def give_up(self, reason: str, lost: int) -> None:
        """Say why no more comes than what is committed; ``lost`` never came here."""
        self._lost += lost + self._given - self._committed
        self._commit(self._committed, ended=reason)

    def take_over(self, source: TableWriter, left_out: int) -> None:
        """Go on in the place of a table, whose steps are here but for some of the old ones."""
        self._lost = source._lost
        self.thinned = source.thinned + left_out

    def close(self) -> None:
        """Commit everything."""
        self.commit_tail()
        self._commit(self._committed, settle=True, ended=schema.CLOSED)

    def _write(self, block: Block) -> None:
        """Write the chunks of a block; its steps are there when they are committed."""
        self._store.put(self._chunks(block))

    def _chunks(self, block: Block) -> Iterator[tuple[str, bytes]]:
        for name, values in self._values(block).items():
            for key, content in self._arrays[name].chunks(self.whole, values):
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
        attributes = schema.table_attributes(
            self._table, steps, self._lost, ended, self.thinned
        )
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
