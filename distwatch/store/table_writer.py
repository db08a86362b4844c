"""Appending to one table: each block is there whole or not at all.

A commit must not show steps whose chunks are not written. So chunks are written first, under
keys that no metadata mentions yet; then one document is replaced, the group's, in one atomic
rename. It carries the metadata of all arrays inline (``consolidated_metadata``), so that
this one replacement is the commit.

Rejected: plain ``Array.append`` of zarr-python (after 116 of 150 kills it showed rows that
were never written), and a file format of our own (nobody else could read it).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from distwatch.errors import StateShapeError
from distwatch.records import Block, BrokenRows, RunInfo, Table, concatenate
from distwatch.store import layout, schema
from distwatch.store.documents import group_document
from distwatch.store.encoding import ChunkEncoder, encode_labels
from distwatch.store.locations import ROOT_DOCUMENT
from distwatch.store.value_types import MOST_MOMENTS

Files = Iterable[tuple[str, bytes]]

#: A tail that is not a whole chunk is rewritten at most this often, in seconds.
TAIL_INTERVAL = 30.0


class TableWriter:
    """Appends blocks to one table; each is there whole or not at all.

    A block is written as whole chunks of ``table.window`` steps; what is left over
    waits in memory as the tail, until it fills a chunk or is committed as a part
    of one, to be replaced by a superset later.

    Args:
        write: writes files, given as key and content; see `locations`.
        info: what the run holds.
        table: what this table holds.
        group: the path of the table's group.
    """

    def __init__(
        self, write: Callable[[Files], None], info: RunInfo, table: Table, group: str
    ) -> None:
        self._write = write
        self._info = info
        self._table = table
        self._path = group
        self._arrays = {each.name: ChunkEncoder(each) for each in layout.growing(info, table)}
        labels = layout.labels(info, table)
        self._labels = {name: label.metadata() for name, (label, _) in labels.items()}
        self._write(
            (f"{group}/{name}/{label.key((0,))}", encode_labels(label, values))
            for name, (label, values) in labels.items()
        )
        self._tail: list[Block] = []
        #: Steps that were appended.
        self._appended = 0
        #: Steps in whole chunks.
        self.whole = 0
        #: Steps that were committed once and taken out since.
        self.thinned = 0
        #: Steps that were due and will never come; the next commit stores how many.
        self.lost = 0
        #: Steps that a reader sees, and will see after a crash.
        self.committed = 0
        self._tail_time = time.monotonic()
        #: Of the last step, and when it came: see `schema.TableAttributes`.
        self.last: dict[str, list[float]] = {}
        self.reached: list[list[float]] = []
        #: Where signals had NaN or Inf first, as far as that was appended.
        self._broken: list[BrokenRows] = []
        self._commit(0)
        self._write_metadata({**self._metadata(0), **self._labels})

    def append(self, block: Block) -> None:
        """Take a block, and commit every whole chunk that it completes.

        If that fails nothing of the block is counted, neither its steps nor what it lost.

        Raises:
            StateShapeError: the block's shape is not that of this table.
        """
        self._check(block)
        self.lost += block.lost
        self._broken += block.broken
        try:
            self._append(block)
        except BaseException:
            self.lost -= block.lost
            raise
        self._appended += len(block)

    def take_over_end(self, other: TableWriter) -> None:
        """Say of the end of the rows what another writer of the same table says."""
        self.last, self.reached = other.last, other.reached

    def _note_last(self, block: Block) -> None:
        """Note what the last of the steps says that are about to be committed."""
        steps = int(block.step[-1]) + 1
        if self.reached and self.reached[-1][0] >= steps:
            return
        fields, row = self._table.fields, block.merged[-1]
        n, mean = fields.index("n"), fields.index("mean")
        self.last = {
            signal.name: [float(row[i, n]), float(row[i, mean])]
            for i, signal in enumerate(self._table.signals)
            # JSON has no infinity, which a mean of large numbers may be.
            if signal.is_one_number and row[i, n] > 0 and math.isfinite(row[i, mean])
        }
        self.reached = _noted(self.reached, [steps, time.time()])

    def _append(self, block: Block) -> None:
        # A tail of no steps is no reason to copy a block.
        waiting = concatenate([*self._tail, block]) if any(map(len, self._tail)) else block
        window = self._table.window
        whole = len(waiting) // window * window
        if whole:
            self._write(self._chunks(waiting[:whole]))
            self.whole += whole
            self._note_last(waiting[:whole])
            self._commit(self.whole)
        self._tail = [waiting[whole:]]

    def commit_tail(self, *, at_once: bool = True) -> None:
        """Commit the steps that fill no chunk yet (unless that was done just now)."""
        due = at_once or time.monotonic() - self._tail_time >= TAIL_INTERVAL
        if not due or not self._tail:
            return
        tail = self._tail[0]
        if len(tail):
            self._write(self._chunks(tail))
            self._note_last(tail)
        self._commit(self.whole + len(tail))
        self._tail_time = time.monotonic()

    def give_up(self, reason: str, lost: int) -> None:
        """Commit the reason why no more steps come; ``lost`` steps were never appended.

        It may be called again, with further steps.
        """
        self.lost += lost + self._appended - self.committed
        self._appended = self.committed
        self._commit(self.committed, ended=reason)

    def close(self, ended: str = schema.CLOSED) -> None:
        """Commit everything, and the reason why it ends here if there is one."""
        self.commit_tail()
        self._commit(self.committed, ended=ended)
        self._write_metadata(self._metadata(self.committed))

    def _chunks(self, block: Block) -> Iterator[tuple[str, bytes]]:
        """Encode the chunks of a block; its steps are there when they are committed."""
        if block.tensors is not None:
            self._add_tensor_arrays(block.tensors.values.shape[2])
        for name, values in layout.values_of(self._table, block).items():
            for key, content in self._arrays[name].chunks(self.whole, values):
                yield f"{self._path}/{name}/{key}", content

    def _add_tensor_arrays(self, rows: int) -> None:
        """How many rows a batch has is known when the first one comes."""
        if self._table.tensor is not None and "tensor" not in self._arrays:
            arrays = layout.tensor_arrays(self._info, self._table.tensor, max(rows, 1))
            self._arrays |= {each.name: ChunkEncoder(each) for each in arrays}

    def _commit(self, steps: int, *, ended: str | None = None) -> None:
        attributes = schema.table_attributes(
            self._table,
            steps,
            self.lost,
            ended,
            self.thinned,
            last=self.last,
            reached=self.reached,
            first_broken=[{**asdict(each), "first": [*each.first]} for each in self._broken],
        )
        # Also of what a failed write left half done, no more is shown than the steps.
        arrays = {**self._metadata(steps), **self._labels}
        document = group_document(attributes, arrays)
        self._write([(f"{self._path}/{ROOT_DOCUMENT}", document)])
        self.committed = steps

    def _metadata(self, steps: int) -> dict[str, Any]:
        return {name: array.metadata(steps) for name, array in self._arrays.items()}

    def _write_metadata(self, arrays: dict[str, Any]) -> None:
        """Write the arrays' own documents, which may lag behind the group's, never lead it.

        At each commit, these further files would double its cost.
        """
        self._write(
            (f"{self._path}/{name}/{ROOT_DOCUMENT}", json.dumps(metadata).encode())
            for name, metadata in arrays.items()
        )

    def _check(self, block: Block) -> None:
        signals, fields = len(self._table.signals), len(self._table.statistic.fields)
        wanted = (len(block), len(self._info.replicas), signals, fields)
        if block.rows.shape != wanted or block.merged.shape != (len(block), signals, fields):
            raise StateShapeError(
                f"a block of shape {block.rows.shape} (merged {block.merged.shape}) came "
                f"for a table of shape {wanted}; every replica must watch the same signals."
            )


def _noted(moments: list[list[float]], last: list[float]) -> list[list[float]]:
    """The moments of commits with one more: the first, the last and some between."""
    added = [*moments, last]
    if len(added) > MOST_MOMENTS:
        # The one that is missed least, so that those that stay lie evenly over the steps.
        inner = range(1, len(added) - 1)
        del added[min(inner, key=lambda i: added[i + 1][0] - added[i - 1][0])]
    return added
