"""What a table of checksums adds up to: what differed between the replicas, and when."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distwatch.findings.broken import NEVER
from distwatch.records import Block, Floats, RunInfo, Table
from distwatch.statistics import ROW

_COUNT, _MIN, _MAX = (ROW.fields.index(name) for name in ("count", "min", "max"))


class CopyDigest:
    """Which copies of a table's variables differed, when, and by how much.

    Args:
        info: the run.
        table: one of its tables of checksums.
    """

    def __init__(self, info: RunInfo, table: Table) -> None:
        self.table = table
        self.replicas = info.replicas
        self.steps = 0
        self.lost = 0
        self.extent = (0, 0)
        self._column = table.fields.index("checksum")
        variables = len(table.signals)
        #: The first and the last step at which they differ: shape (variable,).
        self.first = np.full(variables, NEVER)
        self.last = np.full(variables, -1)
        #: Which replicas differ at the first from most; none where there is no majority.
        self.odd: list[tuple[int, ...]] = [()] * variables
        #: The statistics of a copy minus that of most, where values were compared.
        self.apart: dict[int, Floats] = {}

    def observe(self, block: Block) -> None:
        """Take the next block."""
        self.lost += block.lost
        if not len(block):
            return
        first = self.extent[0] if self.steps else int(block.step[0])
        self.extent = (first, int(block.step[-1]))
        self.steps += len(block)
        checksums = block.rows[..., self._column]
        # A replica that wrote no row has the state of no elements.
        there = checksums > 0
        low = np.where(there, checksums, np.inf).min(axis=1)
        differ = low < np.where(there, checksums, -np.inf).max(axis=1)
        for i in np.flatnonzero(differ.any(axis=0)):
            self._note(int(i), block, differ[:, i], checksums[:, :, i])

    def _note(
        self, i: int, block: Block, differ: npt.NDArray[np.bool_], checksums: Floats
    ) -> None:
        at = np.flatnonzero(differ)
        if self.first[i] == NEVER:
            self.first[i] = block.step[at[0]]
            self.odd[i] = tuple(map(int, minority(checksums[at[0]])))
        self.last[i] = block.step[at[-1]]
        # Only what is off has a row of more than a checksum.
        rows = block.rows[:, :, i]
        compared = rows[rows[..., _COUNT] > 0]
        if i not in self.apart and len(compared):
            self.apart[i] = compared[np.argmax(largest(compared))]


def minority(checksums: Floats) -> npt.NDArray[np.int64]:
    """The replicas whose copies differ from those of more than half; none without a majority.

    Args:
        checksums: of one variable at one step, shape (replica,); 0 where there is none.
    """
    there = checksums > 0
    found, counts = np.unique(checksums[there], return_counts=True)
    if not len(found) or 2 * counts.max() <= there.sum():
        return np.zeros(0, np.int64)
    return np.flatnonzero(there & (checksums != found[np.argmax(counts)]))


def largest(apart: Floats) -> Floats:
    """The largest absolute value of finite elements, from rows of shape (..., field)."""
    return np.maximum(np.abs(apart[..., _MIN]), np.abs(apart[..., _MAX]))
