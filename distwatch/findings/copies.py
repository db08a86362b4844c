"""Whether the replicas' copies of a variable are equal."""

from __future__ import annotations

import numpy as np

from distwatch.findings.broken import NEVER
from distwatch.findings.findings import WARNING, Finding, and_more
from distwatch.records import Block, Ints, RunInfo, Table
from distwatch.signals import Signal
from distwatch.statistics import ROW
from distwatch.text import capitalized, listed

_USUAL = len(ROW.fields)
_COUNT = ROW.fields.index("count")

#: What does not depend on the order of a sum, which another machine may choose otherwise.
_EXACT = [ROW.fields.index(name) for name in ("count", "zeros", "nans", "infs", "min", "max")]


class Copies:
    """Which copies of a variable differ between replicas, and since when.

    Equal values give equal statistics, bit for bit, on one machine.
    """

    def __init__(self, info: RunInfo, table: Table) -> None:
        copied = [i for i, signal in enumerate(table.signals) if is_copied(signal)]
        self.signals = np.array(copied if len(info.replicas) > 1 else [], np.int64)
        self._fields = _EXACT if info.workers > 1 else list(range(_USUAL))
        #: The first step at which they differ: shape (copied signal,).
        self.first: Ints = np.full(len(self.signals), NEVER)
        #: Which replicas differ then from the one that most are equal to.
        self.replicas: list[tuple[int, ...]] = [()] * len(self.signals)

    def observe(self, block: Block) -> None:
        """Take the next block."""
        if not len(self.signals) or (self.first < NEVER).all():
            return
        rows = block.rows[:, :, self.signals][..., self._fields]
        there = block.rows[:, :, self.signals, _COUNT] > 0
        first = rows[:, :1]
        same = ((rows == first) | (np.isnan(rows) & np.isnan(first))).all(axis=-1)
        differ = (~same & there & there[:, :1]).any(axis=1)
        for place in np.flatnonzero(differ.any(axis=0) & (self.first == NEVER)):
            at = int(np.argmax(differ[:, place]))
            self.first[place] = block.step[at]
            self.replicas[place] = _odd(rows[at, :, place], there[at, :, place])


def is_copied(signal: Signal) -> bool:
    """Whether replicas hold equal copies of a signal.

    In stores from before that was recorded only that of an update is certain.
    """
    if signal.copied is None:
        return signal.name.startswith("update/")
    return signal.copied


def copies_differ(run: RunInfo, tables: list[tuple[Table, Copies]]) -> list[Finding]:
    """Variables whose copies should be equal on all replicas, and are not."""
    found = sorted(
        (int(step), not table.signals[i].name.startswith("weight/"), number, place)
        for number, (table, copies) in enumerate(tables)
        for place, (i, step) in enumerate(zip(copies.signals, copies.first, strict=True))
        if step < NEVER
    )
    if not found:
        return []
    names = [tables[n][0].names[tables[n][1].signals[place]] for _, _, n, place in found]
    step, _, number, place = found[0]
    odd = [run.replicas[i] for i in tables[number][1].replicas[place]]
    others = tuple(dict.fromkeys(names[1:]))
    who = (
        f"replicas {listed(run.replicas)}"
        if len(run.replicas) == 2
        else f"replica{'s' * (len(odd) > 1)} {listed(odd)} and the others"
    )
    brief = f"the copies of {names[0]}{and_more(others)} on {who} differ from step {step} on"
    text = (
        f"{capitalized(brief)}, although every replica holds a copy of the same "
        "variable. Look for a write that is not synchronized, or an optimizer that is applied "
        "on one replica only."
    )
    replica = odd[0] if len(odd) == 1 and len(run.replicas) > 2 else None
    return [Finding("copies_differ", WARNING, text, names[0], step, replica, others, brief)]


def _odd(rows: np.ndarray, there: np.ndarray) -> tuple[int, ...]:
    """The replicas that differ from the group of equal ones that is the largest."""
    groups: dict[bytes, list[int]] = {}
    for replica in np.flatnonzero(there):
        groups.setdefault((rows[replica] + 0.0).tobytes(), []).append(int(replica))
    largest = max(groups.values(), key=len)
    return tuple(sorted(set(np.flatnonzero(there).tolist()) - set(largest)))
