"""The rings on the host: which tables share one, and blocks of rows out of them.

The host reads the rings that `distwatch.training.device.cadence` fills now and then, and
merges what they hold by cross-replica reductions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from distwatch.errors import WatcherError
from distwatch.records import Block, Ints, Table, Tensors
from distwatch.signals import Adjustable
from distwatch.statistics import Row, SignalCounts, merge_axis
from distwatch.training import strategies
from distwatch.training.device import kernels
from distwatch.training.device.cadence import (
    MARKS,
    Cadence,
    Ring,
    StepInput,
    TablePlan,
    counter,
)
from distwatch.training.device.copies import CopiesPlan, CopiesRecorder
from distwatch.training.device.nonfinite import KeptBatches, StepBatch
from distwatch.training.device.tensor_slots import collect

Tensor = Any


#: The fields that count NaN and Inf of the signals themselves.
_OF_SIGNAL = SignalCounts().fields


class Unit(NamedTuple):
    """Tables that share a schedule, which is adjusted for all of them."""

    schedule: Adjustable
    tables: tuple[Table, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of their signals."""
        return tuple(name for table in self.tables for name in table.names)


class Recorder:
    """Takes the watched tensors of every step on every replica, and gives rows.

    Args:
        strategy: the strategy that trains.
        feeds: the tables, and how they are fed.
        copies: the tables of checksums of copies, which are taken between steps.
        steps_per_execution: how many steps may pass between two looks at the rings.
        first_step: what the first step is counted as.
        keep_batch: bytes up to which the first batch of a replica that has NaN or Inf is
            kept; None to keep none.
    """

    def __init__(
        self,
        strategy: Any,
        feeds: Sequence[TablePlan],
        copies: Sequence[CopiesPlan] = (),
        *,
        steps_per_execution: int,
        first_step: int = 0,
        keep_batch: int | None = None,
    ) -> None:
        kept = None if keep_batch is None else KeptBatches(keep_batch)
        functions = kernels.shared_functions()
        self._cadences = [
            # Twice what may come between two drains, so that none is ever overwritten.
            Cadence(group, 2 * max(group[0].table.window, steps_per_execution), functions, kept)
            for group in _looked_at_together(feeds)
        ]
        mergers = _Mergers(strategy)
        tables = {
            feed.table.name: TableRecorder(cadence, feed, mergers)
            for cadence in self._cadences
            for feed in cadence.feeds
        }
        self._ringed = [tables[feed.table.name] for feed in feeds]
        self._copies = [CopiesRecorder(plan, first_step) for plan in copies]
        self._first_step = first_step
        self._steps: strategies.PerReplica[Any] = strategies.PerReplica()

    def record(
        self,
        fed: Sequence[StepInput],
        iteration: Tensor,
        batch: StepBatch = StepBatch({}),  # noqa: B008 - it is a tuple
    ) -> None:
        """Take one step's tensors, in the train step on one replica.

        Args:
            fed: the tensors of each table.
            iteration: the optimizer's count.
            batch: what the step was given, as far as it is known.
        """
        steps = self._steps.get(lambda device: counter(device, self._first_step))
        batch = batch._replace(step=steps.read_value())
        names = [table.table.name for table in self._ringed]
        given = dict(zip(names, fed, strict=True))
        for cadence in self._cadences:
            own = [given[feed.table.name] for feed in cadence.feeds]
            cadence.record(own, iteration, batch)
        steps.assign_add(1, read_value=False)

    @property
    def tables(self) -> list[TableRecorder | CopiesRecorder]:
        """What is read of each table."""
        return [*self._ringed, *self._copies]

    def try_once(self) -> None:
        """See whether all that is computed between steps can be, after the first one.

        Raises:
            UnwatchableError: it cannot.
        """
        for copies in self._copies:
            copies.try_once()

    def after_steps(self, steps: int, iteration: Callable[[], int]) -> None:
        """Compare copies if that is due.

        Args:
            steps: how many were just done.
            iteration: the optimizer's count.
        """
        for copies in self._copies:
            copies.after_steps(steps, lambda: self.steps, iteration)

    @property
    def started(self) -> bool:
        """Whether a step was traced, so that there are rings to read."""
        return bool(self._steps.made)

    @property
    def steps(self) -> int:
        """How many steps all replicas have done, those of earlier starts among them."""
        with tf.init_scope():
            done = [int(steps.numpy()) for steps in self._steps.made.values()]
        return min(done, default=self._first_step)

    @property
    def units(self) -> list[Unit]:
        """What can be turned off, on and to another cadence, each as a whole."""
        tables: dict[int, tuple[Adjustable, list[Table]]] = {}
        for cadence in self._cadences:
            for feed in cadence.feeds:
                if isinstance(feed.schedule, Adjustable):
                    held = tables.setdefault(id(feed.schedule), (feed.schedule, []))
                    held[1].append(feed.table)
        return [Unit(schedule, tuple(held)) for schedule, held in tables.values()]

    def follow_schedules(self) -> None:
        """Take over changes of the schedules, from the next step on."""
        for cadence in self._cadences:
            cadence.follow_schedule()


def _looked_at_together(feeds: Sequence[TablePlan]) -> list[list[TablePlan]]:
    """The tables of one schedule and window. Schedules that are equal may change apart."""
    groups: dict[tuple[int, int], list[TablePlan]] = {}
    for feed in feeds:
        groups.setdefault((id(feed.schedule), feed.table.window), []).append(feed)
    return list(groups.values())


class _Mergers:
    """Compiled functions that the tables of one recorder share; each is traced once."""

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy
        self._mergers: dict[str, strategies.OverReplicas] = {}
        self.sum_over_replicas = strategies.sum_over_replicas(strategy)

    def of(self, statistic: Row) -> strategies.OverReplicas:
        """What merges rows of a statistic."""
        parts = str([part.spec() for part in statistic.further])
        if parts not in self._mergers:
            self._mergers[parts] = strategies.row_merger(self._strategy, statistic)
        return self._mergers[parts]


class TableRecorder:
    """What is read of one table.

    Args:
        cadence: what fills the rings that hold it.
        feed: one of the cadence's tables, and how it is fed.
        mergers: what merges over replicas.
    """

    def __init__(self, cadence: Cadence, feed: TablePlan, mergers: _Mergers) -> None:
        self.table = table = feed.table
        self._cadence = cadence
        self._statistic = table.statistic
        self._mergers = mergers
        self._merger = mergers.of(self._statistic)
        self._columns = cadence.columns[table.name]
        self._read = 0
        self._drained_after = max(table.window, feed.drained_after)
        #: At how many steps after a drain the window may be full.
        self._full_at = table.window

    def is_due(self, steps: int) -> bool:
        """Whether to drain, so many steps after the last drain.

        Where a schedule leaves out steps, a short window is full much later than after its
        number of steps.
        """
        if steps >= self._drained_after:
            return True
        if steps < self._full_at:
            return False
        room = self.table.window - self.undrained()
        self._full_at = steps + room
        return room <= 0

    def drain(self, epoch: int = 0, *, together: bool = True) -> Block | None:
        """Read the rows written since the last drain; None if there are none.

        Args:
            epoch: what they are labelled with.
            together: merge by cross-replica reductions. False on an interrupt or
                error, where another worker may never enter them: then the host
                merges, to the same result.

        Raises:
            WatcherError: the replicas do not hold the same steps.
        """
        self._full_at = self.table.window
        # An error in a trace of the step is told inside of it, where nothing can be read.
        with tf.init_scope():
            return self._read_rows(epoch, together)

    def undrained(self) -> int:
        """How many rows were written since the last drain."""
        with tf.init_scope():
            written = [int(ring.written.numpy()) for ring in self._cadence.rings.made.values()]
        return max(written, default=0) - self._read

    @property
    def capacity(self) -> int:
        """How many rows are kept until they are drained."""
        return self._cadence.capacity

    def _read_rows(self, epoch: int, together: bool) -> Block | None:
        rings = [ring for _, ring in sorted(self._cadence.rings.made.items())]
        written = [int(ring.written.numpy()) for ring in rings]
        if together and len(set(written)) > 1:
            raise WatcherError(
                f"the replicas wrote different numbers of rows ({written}); they do not "
                "take the same steps."
            )
        # A step that was interrupted may stand on some replicas only.
        end = min(written, default=0)
        lost = max(0, max(written, default=0) - self._read - self.capacity)
        if end == self._read and not lost:
            return None
        slots = np.arange(self._read + lost, end) % self.capacity
        held = [ring.rows.read_value() for ring in rings]
        states = [self._states(rows) for rows in held]
        marks = held[0][:, :MARKS].numpy()[slots].astype(np.int64)
        rows = np.stack([state.numpy()[slots] for state in states], axis=1)
        block = Block(
            table=self.table.name,
            step=marks[:, 0],
            epoch=np.full(len(marks), epoch, np.int64),
            iteration=marks[:, 1],
            rows=rows,
            merged=self._merger(states)[slots]
            if together
            else merge_axis(self._statistic, rows, axis=1),
            tensors=self._drain_tensors(rings, slots, together),
            lost=lost,
        )
        block = self._with_what_broke(block)
        # Only now: after an interrupt or error up to here they can be read again.
        self._read = end
        if self.table.tensor is not None:
            for ring in rings:
                ring.slots[self.table.name].free(slots)
        return block

    def _with_what_broke(self, block: Block) -> Block:
        """A block with what was kept of NaN and Inf, if it has any."""
        fields = [i for i, name in enumerate(self.table.fields) if name in _OF_SIGNAL]
        if not (block.rows[..., fields] > 0).any():
            return block
        rings, kept = self._cadence.rings.made, self._cadence.kept
        (feed,) = [each for each in self._cadence.feeds if each.table.name == self.table.name]
        first = self._cadence.first_tensors[self.table.name]
        signals = [
            (name, first + i)
            for name, i in zip(self.table.names, feed.tensor_index, strict=True)
        ]
        broken = [
            each
            for number, ring in sorted(rings.items())
            for each in ring.broken.read(signals, number, block.step)
        ]
        batches = () if kept is None else kept.take(sorted(rings))
        return replace(block, broken=tuple(broken), kept=batches)

    def _states(self, rows: Tensor) -> Tensor:
        shape = [self.capacity, len(self.table.signals), len(self._statistic.fields)]
        return tf.reshape(rows[:, self._columns], shape)

    def _drain_tensors(self, rings: list[Ring], slots: Ints, together: bool) -> Tensors | None:
        if self.table.tensor is None:
            return None
        held = [ring.slots[self.table.name].read(slots) for ring in rings]
        return collect(
            held, self.table.tensor, self._mergers.sum_over_replicas if together else None
        )
