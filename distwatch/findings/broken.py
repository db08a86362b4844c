"""Where there is NaN or Inf."""

from __future__ import annotations

from typing import Any

import numpy as np

from distwatch.records import Block, BrokenRows, Ints, RunInfo, Table
from distwatch.statistics import ROW

#: The step of what never happened.
NEVER = np.iinfo(np.int64).max

#: Those of a change, and those of the signal itself. Older stores do not have the latter.
_OF_CHANGE = [ROW.fields.index(name) for name in ("nans", "infs")]
_OF_SIGNAL = ("signal_nan_count", "signal_inf_count")
_COUNT = ROW.fields.index("count")


class Broken:
    """Where a table has NaN or Inf: in the signals themselves where that is known.

    A change is also broken by what it is measured against, and nothing is known of the first
    one, which has nothing to be measured against.
    """

    def __init__(self, info: RunInfo, table: Table) -> None:
        shape = (len(info.replicas), len(table.signals))
        fields = table.fields
        self._own = [fields.index(name) for name in _OF_SIGNAL if name in fields]
        #: The first step that has any: shape (replica, signal).
        self.first: Ints = np.full(shape, NEVER)
        #: The same, without steps that the optimizer did not take.
        self.first_taken: Ints = np.full(shape, NEVER)
        #: How many steps have any, how many of them the optimizer did not take, and the last.
        self.steps = self.not_taken = 0
        self.last = -1
        #: Whether the last step of all has any.
        self.still = False
        #: Steps at which a signal was there, and it is not known whether any were in it.
        self.unseen = 0
        #: The first step and signal of which only the change has any, where both are known.
        self.of_change: tuple[int, int] | None = None
        #: In which rows of a batch they were first: by signal, replica and step.
        self.rows: dict[tuple[str, int, int], BrokenRows] = {}
        #: The last step before the first that has any; -1 if there is none.
        self.before = -1
        #: Rows from the first step that has any on, in all and up to the last such step.
        self._rows = self._rows_to_last = 0
        origin = info.origin
        #: By how many steps the optimizer was behind at the last row.
        self._behind = None if origin.iteration < 0 else origin.step - origin.iteration - 1

    @property
    def any(self) -> bool:
        """Whether there is any."""
        return self.steps > 0

    @property
    def contiguous(self) -> bool:
        """Whether all steps from the first to the last that has any have some."""
        return self._rows_to_last == self.steps

    def observe(self, block: Block) -> None:
        """Take the next block of at least one step."""
        bad = self._bad(block)
        self.rows |= {(each.signal, each.replica, each.step): each for each in block.broken}
        steps = bad.any(axis=(1, 2))
        at, taken = np.flatnonzero(steps), self._taken(block)
        self.still = bool(steps[-1])
        if not self.any:
            healthy = block.step[: at[0]] if len(at) else block.step
            self.before = int(healthy[-1]) if len(healthy) else self.before
        if not len(at):
            self._rows += len(block) * self.any
            return
        begin = 0 if self.any else int(at[0])
        self._rows_to_last = self._rows + int(at[-1]) - begin + 1
        self._rows += len(block) - begin
        self.first = np.minimum(self.first, _first(block.step, bad))
        self.first_taken = np.minimum(
            self.first_taken, _first(block.step, bad & taken[:, None, None])
        )
        self.steps += len(at)
        self.not_taken += int((steps & ~taken).sum())
        self.last = int(block.step[at[-1]])

    def _bad(self, block: Block) -> Any:
        of_change = block.rows[..., _OF_CHANGE].sum(axis=-1) > 0
        nothing: Any = ~(block.rows[..., _COUNT] > 0).any(axis=1)
        if self._own:
            own = block.rows[..., self._own].sum(axis=-1)
            known = ~np.isnan(own)
            if self.of_change is None:
                found = np.argwhere(of_change & known & (own == 0))
                if len(found):
                    self.of_change = (int(block.step[found[0][0]]), int(found[0][2]))
            nothing &= ~known.any(axis=1)
            of_change = np.where(known, own > 0, of_change)
        self.unseen += int(nothing.any(axis=1).sum())
        return of_change

    def _taken(self, block: Block) -> Any:
        """Whether the optimizer took a step: it falls behind where a loss scale skips one."""
        behind = block.step - block.iteration
        before = np.append(behind[0] if self._behind is None else self._behind, behind[:-1])
        self._behind = int(behind[-1])
        return (behind <= before) | (block.iteration < 0)


def _first(step: Ints, bad: Any) -> Ints:
    """The first step at which each is bad: (n, ...) -> (...)."""
    place = np.argmax(bad, axis=0)
    return np.where(bad.any(axis=0), step[place], NEVER)
