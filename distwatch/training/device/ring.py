"""The ring: rows in, inside the training graph; blocks of rows out, on the host.

Each replica writes its row into a ring of plain variables on its own device and
never talks to Python or to another replica while it trains. The host reads the
ring now and then and merges what it holds by cross-replica reductions. The
variables live here and not in the model, so no weight, checkpoint or file of the
model knows of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from distwatch.errors import WatcherError
from distwatch.records import Block, Ints, Table, Tensors
from distwatch.signals.schedules import Schedule
from distwatch.statistics import ROW, Observation, Row, SignalCounts, merge_axis
from distwatch.training import strategies
from distwatch.training.device import kernels
from distwatch.training.device.references import Deltas, References
from distwatch.training.device.tensor_slots import TensorSlots, collect

Tensor = Any

#: Columns before the statistics: step, the optimizer's iteration.
_MARKS = 2

#: What is counted of the signals themselves, for all of them at once.
_SIGNAL_COUNTS = SignalCounts()


@dataclass(frozen=True)
class TablePlan:
    """How a table is fed: known when the first step was traced.

    A tensor that is two signals (a last layer's output is also the model's) is taken
    once; ``tensor_index[i]`` is the position of signal i's tensor. ``references`` has one
    entry a tensor.
    """

    table: Table
    schedule: Schedule
    tensor_index: tuple[int, ...]
    references: tuple[str, ...]


@dataclass(frozen=True)
class StepInput:
    """What one step gives a table, inside the graph.

    ``companions`` are those of the tensors (see `distwatch.statistics.Observation`). With
    ``evaluate`` the tensors are only examples of their kind: the real ones are made by
    it, from a flag that says whether they are needed.
    """

    tensors: Sequence[Tensor]
    companions: Sequence[Tensor | None] = ()
    evaluate: Callable[[Tensor], Sequence[Tensor]] | None = field(default=None, compare=False)


class Recorder:
    """Takes the watched tensors of every step on every replica, and gives rows.

    Args:
        strategy: the strategy that trains.
        feeds: the tables, and how they are fed.
        steps_per_execution: how many steps may pass between two looks at the rings.
        first_step: what the first step is counted as.
    """

    def __init__(
        self,
        strategy: Any,
        feeds: Sequence[TablePlan],
        *,
        steps_per_execution: int,
        first_step: int = 0,
    ) -> None:
        shared = _Shared(strategy)
        self.tables = [TableRecorder(shared, feed, steps_per_execution) for feed in feeds]
        self._first_step = first_step
        self._steps: strategies.PerReplica[Any] = strategies.PerReplica()

    def record(self, fed: Sequence[StepInput], iteration: Tensor) -> None:
        """Take one step's tensors, in the train step on one replica."""
        steps = self._steps.get(lambda device: _counter(device, self._first_step))
        step = steps.read_value()
        for table, given in zip(self.tables, fed, strict=True):
            table.record(given, step, iteration)
        steps.assign_add(1, read_value=False)

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

    def follow_schedules(self) -> None:
        """Take over changes of the schedules, from the next step on."""
        for table in self.tables:
            table.follow_schedule()


def _counter(device: str, first: Any = 0) -> Any:
    """A variable of one or several whole numbers."""
    return strategies.on_device(
        device, lambda: tf.Variable(first, dtype=tf.int64, trainable=False)
    )


class _Ring:
    """The variables of one table on one replica."""

    def __init__(
        self, feed: TablePlan, capacity: int, examples: Sequence[Tensor], device: str
    ) -> None:
        width = _MARKS + len(feed.tensor_index) * len(feed.table.statistic.fields)
        self.references = References(feed.references, examples, device)
        #: Rows written.
        self.written = _counter(device)
        self.rows = strategies.on_device(
            device,
            lambda: tf.Variable(tf.zeros([capacity, width], tf.float64), trainable=False),
        )
        #: What of the schedule may change while training runs.
        self.parameters = _counter(device, feed.schedule.parameters)
        layout = feed.table.tensor
        self.slots = TensorSlots(layout, capacity, device) if layout else None


class _Shared:
    """Compiled functions that the tables of one recorder share; each is traced once."""

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy
        self._mergers: dict[str, strategies.OverReplicas] = {}
        self.sum_over_replicas = strategies.sum_over_replicas(strategy)
        self.kernels = kernels.shared_functions()

    def merger_of(self, statistic: Row) -> strategies.OverReplicas:
        """What merges rows of a statistic."""
        parts = str([part.spec() for part in statistic.further])
        if parts not in self._mergers:
            self._mergers[parts] = strategies.row_merger(self._strategy, statistic)
        return self._mergers[parts]


class TableRecorder:
    """The rings of one table."""

    def __init__(self, shared: _Shared, feed: TablePlan, steps_per_execution: int) -> None:
        self.table = feed.table
        self._feed = feed
        self._statistic = feed.table.statistic
        # Twice what may come between two drains, so that none is ever overwritten.
        self._capacity = 2 * max(feed.table.window, steps_per_execution)
        self._merger = shared.merger_of(self._statistic)
        self._shared = shared
        self._rings: strategies.PerReplica[_Ring] = strategies.PerReplica()
        self._read = 0
        self._following = feed.schedule.parameters

    # Inside the graph

    def record(self, fed: StepInput, step: Tensor, iteration: Tensor) -> None:
        """Take one step's tensors, on one replica."""
        ring = self._rings.get(
            lambda device: _Ring(self._feed, self._capacity, fed.tensors, device)
        )
        references = ring.references
        parameters = ring.parameters.read_value()
        looking = self._feed.schedule.decide(step, parameters)
        next_looking = self._feed.schedule.decide(step + 1, parameters)
        if fed.evaluate is not None:
            needed = _needed(references, step, looking, next_looking)
            fed = StepInput(fed.evaluate(needed), fed.companions)
        tf.cond(looking, lambda: self._write(ring, fed, step, iteration), lambda: None)
        # The reference of a step is the batch before it, never the last one that
        # was looked at; so it is kept on the step before a look, and else forgotten.
        if references.needs_step_before:
            tf.cond(next_looking, lambda: references.keep(fed.tensors), references.forget)
        if references.needs_every_step:
            references.follow(fed.tensors)

    def _write(self, ring: _Ring, fed: StepInput, step: Tensor, iteration: Tensor) -> None:
        deltas = ring.references.deltas(fed.tensors)
        states = self._look(deltas, fed)
        if self._feed.tensor_index != tuple(range(len(fed.tensors))):
            states = tf.gather(states, self._feed.tensor_index)
        marks = tf.cast(tf.stack([step, iteration]), tf.float64)
        row = tf.concat([marks, tf.reshape(states, [-1])], axis=0)
        slot = ring.written.read_value() % self._capacity
        if ring.slots is not None:
            ring.slots.write(slot, deltas.make[0]())
        write = tf.raw_ops.ResourceScatterUpdate(
            resource=ring.rows.handle, indices=slot[None], updates=row[None]
        )
        # The row is there before it is counted (in eager mode it is already).
        with tf.control_dependencies([write] if write is not None else []):
            ring.written.assign_add(1, read_value=False)

    def _look(self, deltas: Deltas, fed: StepInput) -> Tensor:
        """The states of all statistics: shape (tensor, field)."""
        functions = self._shared.kernels
        sums = kernels.measure(deltas.make, deltas.counts, functions)
        states = [ROW.pack(ROW.from_sums(sums))]
        if _SIGNAL_COUNTS in self._statistic.further:
            special = kernels.count_special(
                fed.tensors, sums, deltas.whole, deltas.same, functions
            )
            states.append(_SIGNAL_COUNTS.pack(special))
        if self._statistic.for_some:
            states.append(self._look_further(deltas.make, fed))
        return tf.concat(states, axis=-1)

    def _look_further(self, deltas: Sequence[Callable[[], Tensor]], fed: StepInput) -> Tensor:
        """The states of the statistics that not every row has: shape (tensor, field)."""
        companions = fed.companions or [None] * len(deltas)
        seen = [
            Observation(delta(), signal, companion)
            for delta, signal, companion in zip(deltas, fed.tensors, companions, strict=True)
        ]
        packed = [
            tf.stack([each.pack(state) for state in each.observe_each(seen)])
            for each in self._statistic.for_some
        ]
        return tf.concat(packed, axis=-1)

    # On the host

    def follow_schedule(self) -> None:
        """Take over a change of the schedule, from the next step on."""
        if self._feed.schedule.parameters != self._following:
            self._following = self._feed.schedule.parameters
            for ring in self._rings.made.values():
                ring.parameters.assign(self._following)

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
        # An error in a trace of the step is told inside of it, where nothing can be read.
        with tf.init_scope():
            return self._read_rows(epoch, together)

    def undrained(self) -> int:
        """How many rows were written since the last drain."""
        with tf.init_scope():
            written = [int(ring.written.numpy()) for ring in self._rings.made.values()]
        return max(written, default=0) - self._read

    @property
    def capacity(self) -> int:
        """How many rows are kept until they are drained."""
        return self._capacity

    def _read_rows(self, epoch: int, together: bool) -> Block | None:
        rings = [ring for _, ring in sorted(self._rings.made.items())]
        written = [int(ring.written.numpy()) for ring in rings]
        if together and len(set(written)) > 1:
            raise WatcherError(
                f"the replicas wrote different numbers of rows ({written}); they do not "
                "take the same steps."
            )
        # A step that was interrupted may stand on some replicas only.
        end = min(written, default=0)
        lost = max(0, max(written, default=0) - self._read - self._capacity)
        if end == self._read and not lost:
            return None
        slots = np.arange(self._read + lost, end) % self._capacity
        held = [ring.rows.read_value() for ring in rings]
        states = [self._states(rows) for rows in held]
        marks = held[0].numpy()[slots, :_MARKS].astype(np.int64)
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
        # Only now: after an interrupt or error up to here they can be read again.
        self._read = end
        return block

    def _states(self, ring: Tensor) -> Tensor:
        shape = [self._capacity, len(self._feed.tensor_index), len(self._statistic.fields)]
        return tf.reshape(ring[:, _MARKS:], shape)

    def _drain_tensors(self, rings: list[_Ring], slots: Ints, together: bool) -> Tensors | None:
        held = [ring.slots.read(slots) for ring in rings if ring.slots is not None]
        if self.table.tensor is None:
            return None
        return collect(
            held, self.table.tensor, self._shared.sum_over_replicas if together else None
        )


def _needed(
    references: References, step: Tensor, looking: Tensor, next_looking: Tensor
) -> Tensor:
    """Whether this step's values are needed, by a look or as a reference."""
    if references.needs_every_step:
        # True, but no constant: TensorFlow would take the condition away.
        return step >= 0
    return tf.logical_or(looking, next_looking) if references.needs_step_before else looking
