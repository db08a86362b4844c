"""What can be read of a table, wherever its rows are: several kinds derive from it."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from distwatch.errors import DamagedStoreError
from distwatch.records import Block, BrokenRows, Ints, Table, Tensors, padded
from distwatch.store import schema

Array = npt.NDArray[Any]

ALL = slice(None)


@dataclass(eq=False)
class ReadableTable(abc.ABC):
    """A table as it was committed, whoever wrote it.

    Args:
        table: what it holds.
        replicas: the global numbers of its replicas.
        steps: how many steps it has.
        lost: how many steps were due and are not there.
        thinned: how many steps were there once and were taken out again.
        has_tensors: whether it keeps raw deltas, and has some.
        broken: in which rows of their batches signals had NaN or Inf first.
    """

    table: Table
    replicas: tuple[int, ...]
    steps: int
    lost: int = field(kw_only=True)
    thinned: int = field(kw_only=True)
    has_tensors: bool = field(kw_only=True)
    broken: tuple[BrokenRows, ...] = field(default=(), kw_only=True)

    @abc.abstractmethod
    def read(self, name: str, steps: slice = ALL, signals: slice = ALL) -> Array:
        """Read one array of the table, or a part of it.

        ============================  ==================================================
        name                          holds
        ============================  ==================================================
        step, epoch, iteration        coordinates: int64 of shape (step,)
        present                       whether a replica's row is there: (step, replica)
        rows                          states on each replica, of the scalar fields:
                                      float64 of shape (step, replica, signal, field)
        merged                        the same merged over replicas: (step, signal, field)
        histogram                     bucket counts on each replica: int64 of shape (step,
                                      replica, signal, bucket)
        histogram_merged              the same merged: (step, signal, bucket)
        tensor, valid                 see `tensors`
        ============================  ==================================================

        Args:
            name: which array.
            steps: which steps, by their place in the table.
            signals: which signals, where the array has signals.

        Raises:
            DamagedStoreError: it cannot be read.
            RunChangedError: it was replaced since the run was opened.
            UnreachableError: the run's location does not answer.
        """

    def value_at(self, coordinate: str, place: int) -> int:
        """A coordinate of the step at one place. Raises as `read` does."""
        return int(self.read(coordinate, slice(place, place + 1))[0])

    def tensors(self, steps: slice = ALL) -> Tensors | None:
        """Raw deltas; None where the table keeps none. Raises as `read` does."""
        if not self.has_tensors:
            return None
        return Tensors(self.read("tensor", steps), self.read("valid", steps))

    def block(self, steps: slice) -> Block:
        """Some steps with all columns of the table's statistic, as they were written."""
        rows, merged = self.read("rows", steps), self.read("merged", steps)
        if self.table.statistic.histogram is not None:
            rows = np.concatenate([rows, self.read("histogram", steps)], axis=-1)
            merged = np.concatenate([merged, self.read("histogram_merged", steps)], axis=-1)
        step, epoch, iteration = (self.read(name, steps) for name in schema.COORDINATES)
        tensors = self.tensors(steps)
        broken = broken_among(self, step)
        return Block(
            self.table.name, step, epoch, iteration, rows, merged, tensors, broken=broken
        )


def blocks(stored: ReadableTable, *, since: int = 0, signals: slice = ALL) -> Iterator[Block]:
    """A table's scalar fields in pieces of one chunk each, in order of step.

    Args:
        stored: the table.
        since: the place of the first row that is wanted.
        signals: which signals are wanted.
    """
    window = stored.table.window
    # Whole, since a chunk of these spans many windows.
    step, epoch, iteration = (
        stored.read(name, slice(since, None)) for name in schema.COORDINATES
    )
    for chunk in range(since // window * window, stored.steps, window):
        start, stop = max(chunk, since), min(chunk + window, stored.steps)
        own = slice(start - since, stop - since)
        yield Block(
            table=stored.table.name,
            step=step[own],
            epoch=epoch[own],
            iteration=iteration[own],
            rows=stored.read("rows", slice(start, stop), signals),
            merged=stored.read("merged", slice(start, stop), signals),
            broken=broken_among(stored, step[own]),
        )


def broken_among(stored: ReadableTable, steps: Ints) -> tuple[BrokenRows, ...]:
    """What is known of the rows that were broken first, if that was at one of these steps."""
    if not stored.broken or not len(steps):
        return ()
    return tuple(each for each in stored.broken if steps[0] <= each.step <= steps[-1])


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


class DerivedTable(ReadableTable):
    """A table made of another one, whose replicas and losses it has.

    Args:
        stored: the other one.
        steps: how many steps this one has.
        table: what it holds; None for what the other one does.
    """

    def __init__(self, stored: ReadableTable, steps: int, table: Table | None = None) -> None:
        super().__init__(
            table or stored.table,
            stored.replicas,
            steps,
            lost=stored.lost,
            thinned=stored.thinned,
            has_tensors=stored.has_tensors,
            broken=stored.broken,
        )
        self._stored = stored


def of_one_length(name: str, parts: list[Array]) -> list[Array]:
    """Parts of an array that can be put together: raw deltas have batches of many lengths."""
    if name != "tensor":
        return parts
    most = max(part.shape[2] for part in parts)
    return [padded(part, most) for part in parts]
