"""The ring: rows in, inside the training graph; blocks of rows out, on the host.

Each replica writes its row into a ring of plain variables on its own device and
never talks to Python or to another replica while it trains. The host reads the
ring now and then and merges what it holds by cross-replica reductions. The
variables live here and not in the model, so no weight, checkpoint or file of the
model knows of them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from distwatch import kernels, replicas
from distwatch.errors import WatcherError
from distwatch.records import Floats, Ints
from distwatch.references import References
from distwatch.schedules import Schedule
from distwatch.statistics import ROW, merge_axis

Tensor = Any

#: Columns before the statistics: step, the optimizer's iteration.
_MARKS = 2


@dataclass(frozen=True)
class Drained:
    """What a drain brings home.

    Shapes: step, iteration (n,); rows (n, replica, signal, field); merged
    (n, signal, field). ``lost`` steps were overwritten before they were read.
    """

    step: Ints
    iteration: Ints
    rows: Floats
    merged: Floats
    lost: int


class _Ring:
    """The variables of one replica."""

    def __init__(
        self, capacity: int, width: int, references: References, schedule: Schedule, device: str
    ) -> None:
        self.references = references

        def counter() -> Any:
            return tf.Variable(0, dtype=tf.int64, trainable=False)

        def rows() -> Any:
            return tf.Variable(tf.zeros([capacity, width], tf.float64), trainable=False)

        #: Train steps seen, and rows written.
        self.steps = replicas.on_device(device, counter)
        self.written = replicas.on_device(device, counter)
        self.rows = replicas.on_device(device, rows)
        #: What of the schedule may change while training runs.
        self.parameters = replicas.on_device(
            device,
            lambda: tf.Variable(schedule.parameters, dtype=tf.int64, trainable=False),
        )


class Recorder:
    """Takes the watched tensors of every step on every replica, and gives rows.

    Args:
        strategy: the strategy that trains.
        carrier: for each signal the position of its tensor.
        references: what each tensor's delta is measured against.
        capacity: how many steps each ring holds.
        schedule: at which steps to look.
    """

    def __init__(
        self,
        strategy: Any,
        *,
        carrier: Sequence[int],
        references: Sequence[str],
        capacity: int,
        schedule: Schedule,
    ) -> None:
        self._carrier = tuple(carrier)
        self._references = tuple(references)
        self._capacity = capacity
        self._schedule = schedule
        self._merger = replicas.RowMerger(strategy)
        self._rings: dict[int, _Ring] = {}
        self._lock = threading.Lock()
        self._read = 0
        self._following = schedule.parameters

    # Inside the graph

    def record(self, tensors: Sequence[Tensor], iteration: Tensor) -> None:
        """Take one step's tensors, in the train step on one replica."""
        ring = self._ring(tensors)
        step = ring.steps.read_value()
        parameters = ring.parameters.read_value()
        looking = self._schedule.decide(step, parameters)
        tf.cond(looking, lambda: self._write(ring, tensors, step, iteration), lambda: None)
        # The reference of a step is the batch before it, never the last one that
        # was looked at; so it is kept on the step before a look, and else forgotten.
        next_looking = self._schedule.decide(step + 1, parameters)
        references = ring.references
        tf.cond(next_looking, lambda: references.keep(tensors), references.forget)
        ring.steps.assign_add(1, read_value=False)

    def _write(
        self, ring: _Ring, tensors: Sequence[Tensor], step: Tensor, iteration: Tensor
    ) -> None:
        deltas, counts = ring.references.deltas(tensors)
        states = ROW.pack(ROW.from_passes(kernels.measure(deltas, counts)))
        if self._carrier != tuple(range(len(deltas))):
            states = tf.gather(states, self._carrier)
        marks = tf.cast(tf.stack([step, iteration]), tf.float64)
        row = tf.concat([marks, tf.reshape(states, [-1])], axis=0)
        slot = ring.written.read_value() % self._capacity
        write = tf.raw_ops.ResourceScatterUpdate(
            resource=ring.rows.handle, indices=slot[None], updates=row[None]
        )
        # The row is there before it is counted (in eager mode it is already).
        with tf.control_dependencies([write] if write is not None else []):
            ring.written.assign_add(1, read_value=False)

    def _ring(self, tensors: Sequence[Tensor]) -> _Ring:
        number = replicas.replica_id()
        with self._lock:
            if number not in self._rings:
                device = replicas.replica_device()
                references = References(self._references, tensors, device)
                width = _MARKS + len(self._carrier) * len(ROW.fields)
                self._rings[number] = _Ring(
                    self._capacity, width, references, self._schedule, device
                )
            return self._rings[number]

    # On the host

    @property
    def started(self) -> bool:
        """Whether a step was traced, so that there are rings to read."""
        return bool(self._rings)

    def follow_schedule(self) -> None:
        """Take over a change of the schedule, from the next step on."""
        if self._schedule.parameters != self._following:
            self._following = self._schedule.parameters
            for ring in self._rings.values():
                ring.parameters.assign(self._following)

    def drain(self, *, together: bool = True) -> Drained:
        """Bring home the rows written since the last drain.

        Args:
            together: merge by cross-replica reductions. False on an interrupt or
                error, where another worker may never enter them: then the host
                merges, to the same result.

        Raises:
            WatcherError: the replicas do not hold the same steps.
        """
        rings = [self._rings[number] for number in sorted(self._rings)]
        written = [int(ring.written.numpy()) for ring in rings]
        if together and len(set(written)) > 1:
            raise WatcherError(
                f"the replicas wrote different numbers of rows ({written}); they do not "
                "take the same steps."
            )
        # A step that was interrupted may stand on some replicas only.
        end = min(written)
        lost = max(0, max(written) - self._read - self._capacity)
        start = self._read + lost
        self._read = end
        slots = np.arange(start, end) % self._capacity
        held = [ring.rows.read_value() for ring in rings]
        states = [self._states(rows) for rows in held]
        marks = held[0].numpy()[slots, :_MARKS].astype(np.int64)
        rows = np.stack([state.numpy()[slots] for state in states], axis=1)
        merged = self._merger(states)[slots] if together else merge_axis(ROW, rows, axis=1)
        return Drained(marks[:, 0], marks[:, 1], rows, merged, lost)

    def _states(self, ring: Tensor) -> Tensor:
        shape = [self._capacity, len(self._carrier), len(ROW.fields)]
        return tf.reshape(ring[:, _MARKS:], shape)
