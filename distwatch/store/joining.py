"""Tables of one run that several starts and several workers wrote, read as one."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from distwatch.errors import DamagedStoreError
from distwatch.records import Block, Floats, Ints, Table, Tensors, joined_tensors, padded
from distwatch.statistics import merge_axis, with_row
from distwatch.store import schema

_ALL = slice(None)


class ReadableStates(Protocol):
    """The states of a table's scalar fields, whoever wrote them."""

    table: Table
    replicas: tuple[int, ...]
    steps: int

    def present(self, steps: slice = _ALL) -> npt.NDArray[np.bool_]:
        """Whether a replica's row is there: shape (step, replica)."""

    def coordinate(self, name: str, steps: slice = _ALL) -> Ints:
        """``step``, ``epoch`` or ``iteration``: shape (step,)."""

    def rows(self, steps: slice = _ALL, signals: slice = _ALL) -> Floats:
        """Per-replica states of scalar fields: shape (step, replica, signal, field)."""

    def merged(self, steps: slice = _ALL, signals: slice = _ALL) -> Floats:
        """The same merged over replicas: shape (step, signal, field)."""


class ReadableTable(ReadableStates, Protocol):
    """What is read of a table, whoever wrote it."""

    lost: int
    thinned: int

    def histogram(self, steps: slice = _ALL, signals: slice = _ALL) -> Ints:
        """Bucket counts on each replica: shape (step, replica, signal, bucket)."""

    def histogram_merged(self, steps: slice = _ALL, signals: slice = _ALL) -> Ints:
        """The same merged over replicas: shape (step, signal, bucket)."""

    def tensors(self, steps: slice = _ALL) -> Tensors | None:
        """Raw deltas, where the table keeps them and a step was looked at."""


def blocks(stored: ReadableTable) -> Iterator[Block]:
    """A table's scalar fields in pieces of one chunk each, in order of step."""
    window = stored.table.window
    # Whole, since a chunk of these spans many windows.
    step, epoch, iteration = map(stored.coordinate, ("step", "epoch", "iteration"))
    for start in range(0, stored.steps, window):
        steps = slice(start, min(start + window, stored.steps))
        yield Block(
            table=stored.table.name,
            step=step[steps],
            epoch=epoch[steps],
            iteration=iteration[steps],
            rows=stored.rows(steps),
            merged=stored.merged(steps),
        )


def check_rises(steps: Ints, where: str) -> None:
    """Refuse steps by which rows cannot be put in order.

    Raises:
        DamagedStoreError: they do not rise, or are below zero.
    """
    if len(steps) and (steps[0] < 0 or (np.diff(steps) <= 0).any()):
        raise DamagedStoreError(
            f"{where}: the steps in array 'step' do not rise from 0 on; the store was "
            "changed by something else than distwatch."
        )


class ContinuedTable:
    """One table that a worker wrote in several starts, one after another.

    A start replaces all steps of earlier ones from its own first step on: it took up the
    training again from there.

    Args:
        parts: the table of each start, in their order.
        ends: the step from which on each is replaced; None where it is not.
        where: the run, for messages.

    Raises:
        DamagedStoreError: they do not describe the same signals.
    """

    def __init__(
        self, parts: Sequence[ReadableTable], ends: Sequence[int | None], where: str
    ) -> None:
        if len({(part.table.signals, part.table.fields, part.replicas) for part in parts}) > 1:
            raise DamagedStoreError(
                f"{where}/{parts[0].table.name}: a later start watched other signals or "
                "replicas than the first, which no distwatch does."
            )
        self.table = parts[-1].table
        self.replicas = parts[-1].replicas
        self.lost = sum(part.lost for part in parts)
        self.thinned = sum(part.thinned for part in parts)
        self._parts = parts
        self._where = f"{where}/{self.table.name}"
        #: How many steps of each part still count.
        self.kept = [_place_of(part, end) for part, end in zip(parts, ends, strict=True)]
        self.steps = sum(self.kept)

    def present(self, steps: slice = _ALL) -> npt.NDArray[np.bool_]:
        return np.concatenate(self._of_each(lambda part, s: part.present(s), steps))

    def coordinate(self, name: str, steps: slice = _ALL) -> Ints:
        each = self._of_each(lambda part, s: part.coordinate(name, s), steps)
        values = np.concatenate(each)
        if name == "step":
            check_rises(values, self._where)
        return values

    def rows(self, steps: slice = _ALL, signals: slice = _ALL) -> Floats:
        return np.concatenate(self._of_each(lambda part, s: part.rows(s, signals), steps))

    def merged(self, steps: slice = _ALL, signals: slice = _ALL) -> Floats:
        return np.concatenate(self._of_each(lambda part, s: part.merged(s, signals), steps))

    def histogram(self, steps: slice = _ALL, signals: slice = _ALL) -> Ints:
        return np.concatenate(self._of_each(lambda part, s: part.histogram(s, signals), steps))

    def histogram_merged(self, steps: slice = _ALL, signals: slice = _ALL) -> Ints:
        each = self._of_each(lambda part, s: part.histogram_merged(s, signals), steps)
        return np.concatenate(each)

    def tensors(self, steps: slice = _ALL) -> Tensors | None:
        each = self._of_each(lambda part, s: part.tensors(s), steps)
        kept = [tensors for tensors in each if tensors is not None]
        return joined_tensors(kept) if kept else None

    def _of_each(self, read: Callable[[ReadableTable, slice], Any], steps: slice) -> list[Any]:
        """What each part has of some steps; at least one of them, be it of no steps."""
        start, stop, _ = steps.indices(self.steps)
        found, before = [], 0
        for part, kept in zip(self._parts, self.kept, strict=True):
            low, high = max(start - before, 0), min(stop - before, kept)
            if low < high:
                found.append(read(part, slice(low, high)))
            before += kept
        return found or [read(self._parts[-1], slice(0, 0))]


def _place_of(part: ReadableTable, step: int | None) -> int:
    """Where the first step is that is not below ``step``; behind the last one for None."""
    if step is None:
        return part.steps

    def at(place: int) -> int:
        return int(part.coordinate("step", slice(place, place + 1))[0])

    return bisect.bisect_left(range(part.steps), step, key=at)


class JoinedTable:
    """One table, of which each worker wrote the rows of its own replicas.

    Its steps are those that any worker has. Where a worker has no row (it was killed
    before the others ended), its replicas hold the state of no elements and are not
    `present`, and what is merged is merged over the others.

    Args:
        parts: the workers' tables, in the order of their replicas.
        where: the run, for messages.

    Raises:
        DamagedStoreError: they do not describe the same signals.
    """

    def __init__(self, parts: Sequence[ReadableTable], where: str) -> None:
        self.table = parts[0].table
        described = [schema.table_attributes(part.table, 0, 0) for part in parts]
        if any(each != described[0] for each in described):
            raise DamagedStoreError(
                f"{where}/{self.table.name}: the workers watched different signals, "
                "which no distwatch does."
            )
        self._parts = parts
        self.replicas = tuple(number for part in parts for number in part.replicas)
        self.lost = max(part.lost for part in parts)
        self.thinned = max(part.thinned for part in parts)
        steps = [part.coordinate("step") for part in parts]
        self._step = _union(steps)
        self.steps = len(self._step)
        #: Where each part's rows stand among all steps.
        self._places = [np.searchsorted(self._step, each) for each in steps]
        further = tuple(f for f in self.table.statistic.further if not f.wide)
        self._scalars = with_row(further)

    def present(self, steps: slice = _ALL) -> npt.NDArray[np.bool_]:
        each = self._of_each(lambda part, s: part.present(s), steps, missing=False)
        return np.concatenate(each, axis=1)

    def coordinate(self, name: str, steps: slice = _ALL) -> Ints:
        # What one worker lacks another one has.
        least = np.iinfo(np.int64).min
        each = self._of_each(lambda part, s: part.coordinate(name, s), steps, missing=least)
        return np.asarray(np.max(each, axis=0))

    def rows(self, steps: slice = _ALL, signals: slice = _ALL) -> Floats:
        empty = self._no_elements
        each = self._of_each(lambda part, s: part.rows(s, signals), steps, missing=empty)
        return np.concatenate(each, axis=1)

    def merged(self, steps: slice = _ALL, signals: slice = _ALL) -> Floats:
        empty = self._no_elements
        each = self._of_each(lambda part, s: part.merged(s, signals), steps, missing=empty)
        return np.asarray(merge_axis(self._scalars, np.stack(each), axis=0))

    def histogram(self, steps: slice = _ALL, signals: slice = _ALL) -> Ints:
        each = self._of_each(lambda part, s: part.histogram(s, signals), steps, missing=0)
        return np.concatenate(each, axis=1)

    def histogram_merged(self, steps: slice = _ALL, signals: slice = _ALL) -> Ints:
        each = self._of_each(
            lambda part, s: part.histogram_merged(s, signals), steps, missing=0
        )
        return np.asarray(np.sum(each, axis=0))

    def tensors(self, steps: slice = _ALL) -> Tensors | None:
        kept = {id(part): part.tensors() for part in self._parts}
        there = {key: each for key, each in kept.items() if each is not None}
        if len(there) < len(self._parts):
            return None
        most = max(each.values.shape[2] for each in there.values())

        def values(part: ReadableTable, steps: slice) -> Any:
            return padded(there[id(part)].values[steps], most)

        def valid(part: ReadableTable, steps: slice) -> Any:
            return there[id(part)].valid[steps]

        return Tensors(
            np.concatenate(self._of_each(values, steps, missing=np.nan), axis=1),
            np.concatenate(self._of_each(valid, steps, missing=0), axis=1),
        )

    @property
    def _no_elements(self) -> Floats:
        """The state of no elements: shape (field,)."""
        none = np.zeros((0, len(self._scalars.fields)))
        return np.asarray(merge_axis(self._scalars, none, axis=0))

    def _of_each(
        self, read: Callable[[ReadableTable, slice], Any], steps: slice, *, missing: Any
    ) -> list[npt.NDArray[Any]]:
        """What each part has, put at its steps among all; ``missing`` at the others."""
        start, stop, _ = steps.indices(self.steps)
        return [
            _put(functools.partial(read, part), place, slice(start, stop), missing)
            for part, place in zip(self._parts, self._places, strict=True)
        ]


class AlignedTable:
    """One table on the steps of several: NaN where it was not looked at.

    Args:
        stored: the table.
        own: its steps.
        steps: those of all tables, its own among them.
    """

    def __init__(self, stored: ReadableStates, own: Ints, steps: Ints) -> None:
        self.table = stored.table
        self.replicas = stored.replicas
        self.steps = len(steps)
        self._stored = stored
        self._step = steps
        #: Where its rows stand among all steps.
        self._place = np.searchsorted(steps, own)

    def present(self, steps: slice = _ALL) -> npt.NDArray[np.bool_]:
        return self._put(self._stored.present, steps, missing=False)

    def coordinate(self, name: str, steps: slice = _ALL) -> Ints:
        """As that of a table, but for the smallest integer where it has no row."""
        if name == "step":
            return self._step[steps]
        least = np.iinfo(np.int64).min
        return self._put(lambda own: self._stored.coordinate(name, own), steps, missing=least)

    def rows(self, steps: slice = _ALL, signals: slice = _ALL) -> Floats:
        return self._put(lambda own: self._stored.rows(own, signals), steps, missing=np.nan)

    def merged(self, steps: slice = _ALL, signals: slice = _ALL) -> Floats:
        return self._put(lambda own: self._stored.merged(own, signals), steps, missing=np.nan)

    def _put(
        self, read: Callable[[slice], Any], steps: slice, *, missing: Any
    ) -> npt.NDArray[Any]:
        start, stop, _ = steps.indices(self.steps)
        return _put(read, self._place, slice(start, stop), missing)


def aligned(tables: Sequence[ReadableStates]) -> Sequence[ReadableStates]:
    """Tables on the steps that any of them has."""
    if len(tables) < 2:
        return tables
    own = [table.coordinate("step") for table in tables]
    steps = _union(own)
    return [AlignedTable(*each, steps) for each in zip(tables, own, strict=True)]


def _union(steps: Sequence[Ints]) -> Ints:
    """The steps that are in any of several rising arrays, each once and rising.

    What `numpy.union1d` gives, which takes seconds for a million steps: a stable sort finds
    out that they rise already.
    """
    every = np.sort(np.concatenate(steps), kind="stable")
    return every[np.diff(every, prepend=-1) > 0]


def _put(
    read: Callable[[slice], Any], place: Ints, steps: slice, missing: Any
) -> npt.NDArray[Any]:
    """Rows that stand at some places among all steps, put there; ``missing`` elsewhere."""
    low, high = (int(i) for i in np.searchsorted(place, [steps.start, steps.stop]))
    values = read(slice(low, high))
    out: npt.NDArray[Any] = np.empty(
        (steps.stop - steps.start, *values.shape[1:]), values.dtype
    )
    out[...] = missing
    out[place[low:high] - steps.start] = values
    return out
