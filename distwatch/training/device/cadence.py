"""Inside the training graph: what is looked at together is written as one row of a ring.

Each replica writes its row into a ring of plain variables on its own device and never talks
to Python or to another replica while it trains. The variables live here and not in the model,
so no weight, checkpoint or file of the model knows of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import tensorflow as tf

from distwatch.records import Table
from distwatch.signals.schedules import Schedule
from distwatch.statistics import ROW, Observation, SignalCounts
from distwatch.training import strategies
from distwatch.training.device import kernels
from distwatch.training.device.deltas import Deltas
from distwatch.training.device.nonfinite import FirstBroken, KeptBatches, StepBatch
from distwatch.training.device.references import References, keeps_tensors
from distwatch.training.device.tensor_slots import TensorSlots

Tensor = Any

#: Columns before the statistics: step, the optimizer's iteration.
MARKS = 2

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
    #: The positions of the tensors that have a row for each of the batch's.
    by_rows: frozenset[int] = frozenset()
    #: Those of which NaN and Inf are meant, as of gradients that a loss scale tries.
    overflowing: frozenset[int] = frozenset()
    #: After so many steps it is drained, also if its window is not full; as many as the
    #: window has if this is less.
    drained_after: int = 0

    @property
    def width(self) -> int:
        """How many columns of a ring it takes."""
        return len(self.tensor_index) * len(self.table.statistic.fields)

    @property
    def keeps(self) -> bool:
        """Whether its tensors are needed on steps that are not looked at, as references."""
        return any(map(keeps_tensors, self.references))


class Making(NamedTuple):
    """How some of a table's tensors are made, at the steps where they are needed."""

    positions: Sequence[int]
    #: Called in the graph where they are needed.
    make: Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class StepInput:
    """What one step gives a table, inside the graph.

    ``companions`` are those of the tensors (see `distwatch.statistics.Observation`). With
    ``making`` some tensors are only examples of their kind: the real ones are yet to be made.
    """

    tensors: Sequence[Tensor]
    companions: Sequence[Tensor | None] = ()
    making: Making | None = field(default=None, compare=False)

    def made(self) -> StepInput:
        """With the real tensors, made in the current graph if they are yet to be made."""
        making = self.making
        return self if making is None else self._with(making, making.make())

    def made_if(self, needed: Tensor) -> StepInput:
        """With the real tensors, or ones of no rows where they are not needed.

        ``needed`` is a scalar bool and no constant, whose condition TensorFlow may take away.
        """
        making = self.making
        if making is None:
            return self
        examples = [self.tensors[i] for i in making.positions]
        made = tf.cond(
            needed,
            lambda: list(making.make()),
            lambda: [_without_rows(x) for x in examples],
        )
        return self._with(making, made)

    def _with(self, making: Making, made: Sequence[Tensor]) -> StepInput:
        real = dict(zip(making.positions, made, strict=True))
        return StepInput([real.get(i, x) for i, x in enumerate(self.tensors)], self.companions)


class Ring:
    """The variables of a cadence on one replica."""

    def __init__(
        self,
        feeds: Sequence[TablePlan],
        capacity: int,
        examples: Sequence[Tensor],
        device: str,
        functions: kernels.SharedFunctions,
    ) -> None:
        width = MARKS + sum(feed.width for feed in feeds)
        kinds = [kind for feed in feeds for kind in feed.references]
        self.references = References(kinds, examples, device)
        by_rows = [i in feed.by_rows for feed in feeds for i in range(len(feed.references))]
        self.broken = FirstBroken(by_rows, device, functions.rows_of)
        #: Rows written.
        self.written = counter(device)
        self.rows = strategies.on_device(
            device,
            lambda: tf.Variable(tf.zeros([capacity, width], tf.float64), trainable=False),
        )
        #: What of the schedule may change while training runs.
        self.parameters = counter(device, feeds[0].schedule.parameters)
        #: Raw deltas, of the tables that keep them: by their names.
        self.slots = {
            feed.table.name: TensorSlots(feed.table.tensor, capacity, device)
            for feed in feeds
            if feed.table.tensor
        }


def counter(device: str, first: Any = 0) -> Any:
    """A variable of one or several whole numbers."""
    return strategies.on_device(
        device, lambda: tf.Variable(first, dtype=tf.int64, trainable=False)
    )


class Cadence:
    """The tables of one schedule, which are looked at together.

    They share a ring, a condition and the operations on what was reduced, since in small
    models it is the number of operations that costs.

    Args:
        feeds: the tables, and how they are fed; of one schedule and one window.
        capacity: how many rows a ring holds.
        functions: what the kernels share.
        kept: keeps the first batches that have NaN or Inf; None to keep none.
    """

    def __init__(
        self,
        feeds: Sequence[TablePlan],
        capacity: int,
        functions: kernels.SharedFunctions,
        kept: KeptBatches | None = None,
    ) -> None:
        self.feeds = feeds
        self.capacity = capacity
        self.rings: strategies.PerReplica[Ring] = strategies.PerReplica()
        stops = itertools.accumulate((feed.width for feed in feeds), initial=MARKS)
        #: Where each table stands in a row.
        self.columns = {
            feed.table.name: slice(*ends)
            for feed, ends in zip(feeds, itertools.pairwise(stops), strict=True)
        }
        #: The position of each table's first tensor among those of all.
        self.first_tensors = dict(
            zip(
                self.columns,
                itertools.accumulate((len(feed.references) for feed in feeds), initial=0),
                strict=False,
            )
        )
        self._functions = functions
        self.kept = kept
        #: Whether NaN and Inf of a tensor tell something of its batch.
        self._telling = [
            i not in feed.overflowing for feed in feeds for i in range(len(feed.references))
        ]
        self._schedule = feeds[0].schedule
        self._following = self._schedule.parameters

    def record(self, fed: Sequence[StepInput], iteration: Tensor, batch: StepBatch) -> None:
        """Take one step's tensors, a `StepInput` a table, on one replica."""
        ring = self.rings.get(
            lambda device: Ring(
                self.feeds, self.capacity, _tensors(fed), device, self._functions
            )
        )
        step = batch.step
        references = ring.references
        parameters = tf.unstack(ring.parameters.read_value())
        looking = self._schedule.decide(step, parameters)
        next_looking = self._schedule.decide(step + 1, parameters)
        needed = _needed(references, step, looking, next_looking)
        fed = [
            given.made_if(needed) if feed.keeps else given
            for feed, given in zip(self.feeds, fed, strict=True)
        ]
        tf.cond(looking, lambda: self._write(ring, fed, iteration, batch), lambda: None)
        # The reference of a step is the batch before it, never the last one that
        # was looked at; so it is kept on the step before a look, and else forgotten.
        if references.needs_step_before:
            tf.cond(next_looking, lambda: references.keep(_tensors(fed)), references.forget)
        if references.needs_every_step:
            references.follow(_tensors(fed))

    def follow_schedule(self) -> None:
        """Take over a change of the schedule, from the next step on."""
        if self._schedule.parameters != self._following:
            self._following = self._schedule.parameters
            for ring in self.rings.made.values():
                ring.parameters.assign(self._following)

    def _write(
        self, ring: Ring, fed: Sequence[StepInput], iteration: Tensor, batch: StepBatch
    ) -> None:
        fed = [given.made() for given in fed]
        deltas = ring.references.deltas(_tensors(fed))
        marks = tf.cast(tf.stack([batch.step, iteration]), tf.float64)
        row = tf.concat([marks, *self._look(ring, deltas, fed, batch)], axis=0)
        slot = ring.written.read_value() % self.capacity
        first = 0
        for feed, given in zip(self.feeds, fed, strict=True):
            if feed.table.tensor:
                ring.slots[feed.table.name].write(slot, deltas.each[first].value())
            first += len(given.tensors)
        write = tf.raw_ops.ResourceScatterUpdate(
            resource=ring.rows.handle, indices=slot[None], updates=row[None]
        )
        # The row is there before it is counted (in eager mode it is already).
        with tf.control_dependencies([write] if write is not None else []):
            ring.written.assign_add(1, read_value=False)

    def _look(
        self, ring: Ring, deltas: Deltas, fed: Sequence[StepInput], batch: StepBatch
    ) -> list[Tensor]:
        """The states of all signals, flat, a tensor a table."""
        tensors = _tensors(fed)

        def note(broken: Tensor) -> None:
            ring.broken.note(broken, tensors, batch)
            if self.kept is not None:
                self.kept.note(tf.reduce_any(broken & self._telling), batch)

        sums, special = kernels.measure(deltas, tensors, self._functions, note)
        columns = [*ROW.flatten(ROW.from_sums(sums)), *_SIGNAL_COUNTS.flatten(special)]
        usual = tf.stack(columns, axis=-1)
        found, first = [], 0
        for feed, given in zip(self.feeds, fed, strict=True):
            own = slice(first, first := first + len(given.tensors))
            states = _states(feed, usual[own], Deltas(deltas.each[own], *deltas[1:]), given)
            found.append(tf.reshape(states, [-1]))
        return found


def _states(feed: TablePlan, usual: Tensor, deltas: Deltas, given: StepInput) -> Tensor:
    """The states of a table's signals: shape (signal, field)."""
    statistic = feed.table.statistic
    counts_signals = _SIGNAL_COUNTS in statistic.further
    states = [usual if counts_signals else usual[:, : ROW.columns]]
    if statistic.for_some:
        companions = given.companions or [None] * len(given.tensors)
        each = zip(deltas.each, given.tensors, companions, strict=True)
        seen = [Observation(delta.value(), x, companion) for delta, x, companion in each]
        states += [part.observe_all(seen) for part in statistic.for_some]
    joined = tf.concat(states, axis=-1) if len(states) > 1 else states[0]
    if feed.tensor_index == tuple(range(len(given.tensors))):
        return joined
    return tf.gather(joined, feed.tensor_index)


def _without_rows(example: Tensor) -> Tensor:
    """A tensor like another, of no rows."""
    features = [size or 0 for size in example.shape[1:]]
    return tf.zeros([0, *features] if example.shape.rank else [], example.dtype)


def _tensors(fed: Sequence[StepInput]) -> list[Tensor]:
    return [x for given in fed for x in given.tensors]


def _needed(
    references: References, step: Tensor, looking: Tensor, next_looking: Tensor
) -> Tensor:
    """Whether this step's values are needed, by a look or as a reference."""
    if references.needs_every_step:
        # True, but no constant, whose condition TensorFlow may take away.
        return step >= 0
    return tf.logical_or(looking, next_looking) if references.needs_step_before else looking
