"""Tables of one run that several starts and several workers wrote, read as one."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from distwatch.errors import DamagedStoreError
from distwatch.records import Ints, Table
from distwatch.statistics import merge_axis, with_row
from distwatch.store import schema
from distwatch.store.readable_tables import (
    ALL,
    Array,
    DerivedTable,
    ReadableTable,
    check_rises,
    of_one_length,
)

#: What a coordinate holds where a table has no row; another table has it.
_NO_COORDINATE = np.iinfo(np.int64).min


class ContinuedTable(ReadableTable):
    """One table that a worker wrote in several starts, one after another.

    A start replaces all steps of earlier ones from its own first step on, since the training
    was resumed there.

    Args:
        parts: the table of each start, in their order.
        begins: the step from which on each has rows.
        ends: the step from which on each is replaced; None where it is not.
        where: the run, for messages.

    Raises:
        DamagedStoreError: they do not describe the same signals.
    """

    def __init__(
        self,
        parts: Sequence[ReadableTable],
        begins: Sequence[int],
        ends: Sequence[int | None],
        where: str,
    ) -> None:
        watched = {
            (part.table.signals, _lasting_fields(part.table), part.replicas) for part in parts
        }
        if len(watched) > 1:
            raise DamagedStoreError(
                f"{where}/{parts[0].table.name}: a later start watched other signals or "
                "replicas than the first, which no distwatch does."
            )
        #: How many steps of each part are not replaced.
        self.kept = [place_of(part, end) for part, end in zip(parts, ends, strict=True)]
        fullest = max((part.table.statistic for part in parts), key=lambda row: row.columns)
        super().__init__(
            replace(parts[-1].table, statistic=fullest),
            parts[-1].replicas,
            sum(self.kept),
            # Of starts that were killed before they made a table, no part is there.
            lost=_due(parts[0], 0, begins[0])
            + sum(map(missing_of, parts, self.kept, begins, ends)),
            thinned=sum(part.thinned for part in parts),
            has_tensors=any(part.has_tensors for part in parts),
            broken=tuple(
                each
                for part, end in zip(parts, ends, strict=True)
                for each in part.broken
                if end is None or each.step < end
            ),
        )
        self._parts = parts
        self._where = f"{where}/{self.table.name}"

    def read(self, name: str, steps: slice = ALL, signals: slice = ALL) -> Array:
        """See `ReadableTable.read`."""
        start, stop, _ = steps.indices(self.steps)
        found, before = [], 0
        for part, kept in zip(self._parts, self.kept, strict=True):
            low, high = max(start - before, 0), min(stop - before, kept)
            if low < high:
                found.append(self._read(part, name, slice(low, high), signals))
            before += kept
        if not found:
            # A part with steps has all arrays of the table.
            fullest = max(self._parts, key=lambda part: part.steps)
            return self._read(fullest, name, slice(0, 0), signals)
        values = np.concatenate(of_one_length(name, found))
        if name == "step":
            check_rises(values, self._where)
        return values

    def _read(self, part: ReadableTable, name: str, steps: slice, signals: slice) -> Array:
        """A part's array, NaN in states' fields that the part does not have."""
        values = part.read(name, steps, signals)
        if name not in ("rows", "merged") or part.table.fields == self.table.fields:
            return values
        states: Array = np.full((*values.shape[:-1], len(self.table.fields)), np.nan)
        states[..., [self.table.fields.index(field) for field in part.table.fields]] = values
        return states


def _lasting_fields(table: Table) -> tuple[str, ...]:
    """The fields that every start has, whichever distwatch wrote it."""
    added = {field for s in table.statistic.further if s.added_later for field in s.fields}
    return tuple(field for field in table.fields if field not in added)


def _due(part: ReadableTable, begin: int, end: int) -> int:
    """How many steps from ``begin`` on, below ``end``, a regular schedule looks at."""
    interval = interval_of(part)
    return max(0, -(-end // interval) + -begin // interval) if interval else 0


def interval_of(part: ReadableTable) -> int:
    """How far apart a regular schedule looks; 0 where that is not known."""
    regular = re.fullmatch(r"every\(([0-9]{1,16})\)", part.table.schedule)
    return max(1, int(regular[1])) if regular else 0


def missing_of(part: ReadableTable, kept: int, begin: int, end: int | None) -> int:
    """How many steps of a start are missing from what is kept of it.

    What was lost and trained once more is not missing; what a kill took between the last
    kept row and the next start is, though nobody counted it.
    """
    interval = interval_of(part)
    if end is None or not interval:
        return part.lost
    if part.thinned and kept < 2:
        return part.lost
    if not kept:
        return _due(part, begin, end)
    first, last = (part.value_at("step", place) for place in (0, kept - 1))
    # Where the schedule was changed, rows are further apart than it says.
    if kept > 1 and last - part.value_at("step", kept - 2) != interval:
        return part.lost
    due = (end - 1 - first) // interval + 1
    after_last = max(0, (end - 1 - last) // interval)
    return max(after_last, min(due - kept - part.thinned, part.lost + after_last))


def place_of(part: ReadableTable, step: int | None) -> int:
    """The place of the first step that is not below ``step``; that after the last for None."""
    if step is None:
        return part.steps
    return bisect.bisect_left(range(part.steps), step, key=lambda i: part.value_at("step", i))


class AlignedTable(DerivedTable):
    """One table on the steps of several.

    Where it has no row, its replicas are not present, and its states are ``missing``.

    Args:
        stored: the table.
        own: its steps.
        steps: those of all tables, its own among them.
        missing: the states of a step that it does not have.
    """

    def __init__(self, stored: ReadableTable, own: Ints, steps: Ints, missing: Any) -> None:
        super().__init__(stored, len(steps))
        self._step = steps
        #: The places of its rows among all steps.
        self._place = np.searchsorted(steps, own)
        #: What stands for a missing row in each array; 0 in the others.
        self._missing: dict[str, Any] = {
            **dict.fromkeys(schema.COORDINATES, _NO_COORDINATE),
            **dict.fromkeys(("rows", "merged"), missing),
            "tensor": np.nan,
        }

    def read(self, name: str, steps: slice = ALL, signals: slice = ALL) -> Array:
        """See `ReadableTable.read`; where a table has no row, coordinates are -2^63."""
        start, stop, _ = steps.indices(self.steps)
        if name == "step":
            return np.asarray(self._step[start:stop])
        low, high = (int(i) for i in np.searchsorted(self._place, [start, stop]))
        values = self._stored.read(name, slice(low, high), signals)
        shape = (stop - start, *values.shape[1:])
        out: Array = np.full(shape, self._missing.get(name, 0), values.dtype)
        out[self._place[low:high] - start] = values
        return out


class JoinedTable(ReadableTable):
    """One table, of which each worker wrote the rows of its own replicas.

    Its steps are those that any worker has. Where a worker has no row (it was killed
    before the others ended), its replicas hold the state of no elements and are not
    present, and what is merged is merged over the others.

    Args:
        parts: the workers' tables, in the order of their replicas.
        where: the run, for messages.

    Raises:
        DamagedStoreError: they do not describe the same signals.
    """

    def __init__(self, parts: Sequence[ReadableTable], where: str) -> None:
        table = parts[0].table
        # Signals are compared by what they are: how one is computed may differ.
        described = [
            {
                **schema.table_attributes(part.table, 0, 0)[schema.ATTRIBUTE],
                "signals": part.table.signals,
            }
            for part in parts
        ]
        if any(each != described[0] for each in described):
            raise DamagedStoreError(
                f"{where}/{table.name}: the workers watched different signals, "
                "which no distwatch does."
            )
        #: The statistic of the scalar fields.
        self._scalars = with_row(tuple(f for f in table.statistic.further if not f.wide))
        empty = merge_axis(self._scalars, np.zeros((0, len(self._scalars.fields))), axis=0)
        self._parts = _on_all_steps(parts, missing=empty)
        super().__init__(
            table,
            tuple(number for part in parts for number in part.replicas),
            self._parts[0].steps,
            lost=max(part.lost for part in parts),
            thinned=max(part.thinned for part in parts),
            has_tensors=all(part.has_tensors for part in parts),
            broken=tuple(each for part in parts for each in part.broken),
        )

    def read(self, name: str, steps: slice = ALL, signals: slice = ALL) -> Array:
        """See `ReadableTable.read`."""
        each = [part.read(name, steps, signals) for part in self._parts]
        if name in schema.COORDINATES:
            return np.asarray(np.max(each, axis=0))
        if name == "merged":
            return np.asarray(merge_axis(self._scalars, np.stack(each), axis=0))
        if name == "histogram_merged":
            return np.asarray(np.sum(each, axis=0))
        return np.concatenate(of_one_length(name, each), axis=1)


def aligned(tables: Sequence[ReadableTable]) -> Sequence[ReadableTable]:
    """Tables on the steps that any of them has; NaN where one has no row."""
    return tables if len(tables) < 2 else _on_all_steps(tables, missing=np.nan)


def _on_all_steps(tables: Sequence[ReadableTable], missing: Any) -> list[AlignedTable]:
    own = [table.read("step") for table in tables]
    steps = _union(own)
    return [
        AlignedTable(table, each, steps, missing)
        for table, each in zip(tables, own, strict=True)
    ]


def _union(steps: Sequence[Ints]) -> Ints:
    """The steps that are in any of several rising arrays, each once and rising.

    The same as `numpy.union1d`, which takes seconds for a million steps: a stable sort
    detects that the arrays rise already.
    """
    every = np.sort(np.concatenate(steps), kind="stable")
    return every[np.diff(every, prepend=-1) > 0]
