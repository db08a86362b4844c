"""Checksums of the replicas' copies of variables, taken on their devices between steps.

A copy is read as 64-bit words, whose terms are those of `distwatch.statistics.Checksum`: whole
numbers that wrap around, so that neither the order of a sum nor its rounding matters. Nothing
leaves a device but one number a variable, and nothing is exchanged between replicas: the host
compares what it drains. Only where two copies differ it reads their values, of its own replicas
alone, so that no collective is needed.

What is compiled is one function, traced once for all replicas, and called between two steps;
the training's own graph has no operation of it. Rejected: a condition inside that graph. For
128 variables on each of two replicas it took 3 s more before the first step, and 0.4 ms at
every step that was not looked at, of 4 ms, since each variable is an input of the condition.

Also rejected: ``tf.fingerprint`` (0.8 ns an element, where this takes 2.6 to 4), which has no
GPU kernel; one word an element, which takes twice as long; an XLA cluster, which does it in one
pass, but has to be compiled before the first step.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from distwatch.findings import minority
from distwatch.records import Block, Floats, Ints, Table
from distwatch.signals.schedules import Schedule
from distwatch.statistics import ROW, checksum_of, merge_axis, observe, weighted
from distwatch.training import strategies
from distwatch.training.device.deltas import Flattening

Tensor = Any

#: Elements of the largest copy that is put beside others: small enough for the caches.
_LARGEST = 16_384

#: Bytes of a word.
_WORD = 8


class CopiesPlan(NamedTuple):
    """A table of checksums: of which variables, and when."""

    table: Table
    schedule: Schedule
    compared: Compared
    #: After so many steps it is drained.
    drained_after: int


class Compared(ABC):
    """What every replica should have the same bits of."""

    #: Whether values take a run of the model: then one is read at a time, and none in haste.
    heavy: ClassVar[bool] = False

    def try_once(self) -> None:  # noqa: B027 - what is only read can always be
        """Called after the first step, to see whether it can be computed.

        Raises:
            UnwatchableError: it cannot.
        """

    @abstractmethod
    def checksums(self) -> list[Any]:
        """Of each replica of this process, float64 of shape (signal,)."""

    @abstractmethod
    def values(self, i: int) -> list[Floats]:
        """One of them as numbers, on each replica of this process."""


class CopiesOfVariables(Compared):
    """The replicas' copies of variables.

    Args:
        variables: TensorFlow's own, each with a copy on every replica.
    """

    def __init__(self, variables: Sequence[Any]) -> None:
        #: The copies of each variable, in the order of the replicas.
        self._copies = [strategies.copies_of(variable) for variable in variables]
        self._checksums = checksums_function([copies[0] for copies in self._copies])

    def checksums(self) -> list[Any]:
        found = []
        for of_replica in zip(*self._copies, strict=True):
            with tf.device(of_replica[0].device):
                found.append(self._checksums([copy.handle for copy in of_replica]))
        return found

    def values(self, i: int) -> list[Floats]:
        return [np.asarray(tf.cast(copy.read_value(), tf.float64)) for copy in self._copies[i]]


class _Taken(NamedTuple):
    """The checksums after one step: shape (variable,) on each replica's device."""

    step: int
    iteration: int
    checksums: list[Tensor]


class CopiesRecorder:
    """Takes checksums between steps, and gives rows.

    Args:
        plan: of what, and when.
        first_step: what the first step is counted as.
    """

    def __init__(self, plan: CopiesPlan, first_step: int) -> None:
        self.table = plan.table
        self._drained_after = plan.drained_after
        self._schedule = plan.schedule
        self._statistic = plan.table.statistic
        self._column = self._statistic.fields.index("checksum")
        self._compared = plan.compared
        self._reported = first_step
        self._taken: list[_Taken] = []
        #: Whose values were compared, for as long as they differ.
        self._known = np.zeros(len(plan.table.signals), bool)

    def try_once(self) -> None:
        """See whether checksums can be taken, once the model has done a step.

        Raises:
            UnwatchableError: they cannot.
        """
        with tf.init_scope():
            self._compared.try_once()

    def after_steps(
        self, steps: int, done: Callable[[], int], iteration: Callable[[], int]
    ) -> None:
        """Take checksums, if the schedule looks at one of the steps that were just done.

        Of several it is the last one whose variables are there to be read, and that the row
        is labelled with.

        Args:
            steps: how many were done.
            done: how many were done in all.
            iteration: the optimizer's count.
        """
        ended = np.arange(self._reported, self._reported + steps)
        self._reported += steps
        if self._schedule(ended).any():
            step = done() - 1
            if not self._taken or self._taken[-1].step < step:
                with tf.init_scope():
                    taken = self._compared.checksums()
                self._taken.append(_Taken(step, iteration(), taken))

    def is_due(self, steps: int) -> bool:
        """Whether to drain, so many steps after the last drain."""
        return steps >= self._drained_after

    def undrained(self) -> int:
        """How many rows were taken since the last drain."""
        return len(self._taken)

    @property
    def capacity(self) -> int:
        """How many rows are kept until they are drained: all that were taken."""
        return len(self._taken)

    def drain(self, epoch: int = 0, *, together: bool = True) -> Block | None:
        """The rows since the last drain; None if there are none.

        The row of the last step gets, where a difference is new, the usual statistics of a
        copy minus that of most, as they are now.

        Args:
            epoch: what they are labelled with.
            together: whether the training goes on, so that there is time to read values.
        """
        taken = [*self._taken]
        if not taken:
            return None
        checksums = np.stack([[np.asarray(x) for x in each.checksums] for each in taken])
        rows = self._rows(checksums)
        if together or not self._compared.heavy:
            self._compare_new(checksums[-1], rows[-1])
        labels: Ints = np.array([(each.step, each.iteration) for each in taken], np.int64)
        block = Block(
            table=self.table.name,
            step=labels[:, 0],
            epoch=np.full(len(taken), epoch, np.int64),
            iteration=labels[:, 1],
            rows=rows,
            merged=merge_axis(self._statistic, rows, axis=1),
        )
        self._taken = self._taken[len(taken) :]
        return block

    def _rows(self, checksums: Floats) -> Floats:
        """States of no elements, but for their checksums.

        Shapes: (n, replica, variable) -> (n, replica, variable, field).
        """
        fields = len(self._statistic.fields)
        nothing = merge_axis(self._statistic, np.zeros((0, fields)), axis=0)
        rows = np.broadcast_to(nothing, (*checksums.shape, fields)).copy()
        rows[..., self._column] = checksums
        return rows

    def _compare_new(self, checksums: Floats, rows: Floats) -> None:
        """Compare the values of variables whose copies differ, unless they were already."""
        differ = (checksums != checksums[:1]).any(axis=0)
        new = np.flatnonzero(differ & ~self._known)
        self._known = differ
        for i in map(int, new[:1] if self._compared.heavy else new):
            try:
                with tf.init_scope():
                    values = self._compared.values(i)
            except (RuntimeError, tf.errors.OpError):
                # As where a device is gone: that they differ is known, their size is not.
                continue
            odd = minority(checksums[:, i])
            usual = next(place for place in range(len(values)) if place not in odd)
            for place in np.flatnonzero(checksums[:, i] != checksums[usual, i]):
                rows[place, i, : ROW.columns] = _apart(values[place], values[usual])


def _apart(copy: Floats, usual: Floats) -> Floats:
    """The usual statistics of a copy minus another one."""
    same = (copy == usual) | (np.isnan(copy) & np.isnan(usual))
    with np.errstate(invalid="ignore", over="ignore"):
        packed: Floats = ROW.pack(observe(ROW, np.where(same, 0.0, copy - usual)))
    return packed


def checksums_function(copies: Sequence[Any]) -> Callable[[Sequence[Tensor]], Tensor]:
    """Compile what gives the checksums of variables like these, from their handles.

    Returns:
        A function of one handle a variable to float64 of shape (variable,), computed on the
        device that it is called for.
    """
    kinds = [(copy.dtype, copy.shape) for copy in copies]
    sizes = [shape.num_elements() for _, shape in kinds]
    small: dict[Any, list[int]] = defaultdict(list)
    for i, (dtype, _) in enumerate(kinds):
        if sizes[i] <= _LARGEST:
            small[dtype].append(i)
    large = [i for i, size in enumerate(sizes) if size > _LARGEST]

    def checksums(handles: Sequence[Tensor]) -> Tensor:
        flat = Flattening()
        totals: dict[int, Tensor] = {}

        def read(i: int) -> Tensor:
            dtype, shape = kinds[i]
            value = tf.raw_ops.ReadVariableOp(resource=handles[i], dtype=dtype)
            value.set_shape(shape)
            return flat(value)

        for positions in small.values():
            found = _side_by_side([read(i) for i in positions], [sizes[i] for i in positions])
            totals |= dict(zip(positions, found, strict=True))
        totals |= _one_by_one(large, read)
        return checksum_of(tf.stack([totals[i] for i in range(len(kinds))]))

    return tf.function(checksums, autograph=False)  # type: ignore[no-any-return]


def _side_by_side(copies: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """The sums of the terms of each of some flat copies of one dtype and few elements.

    Each begins a word. All are weighted by their places among all of them.
    """
    each, dtype = _in_a_word(copies[0].dtype), copies[0].dtype
    padding = {n: tf.zeros([n], dtype) for n in {-size % each for size in sizes} if n}
    parts = []
    for copy, size in zip(copies, sizes, strict=True):
        parts += [copy, *([padding[-size % each]] if size % each else [])]
    terms = weighted(_words(tf.concat(parts, axis=0)))
    axis = tf.constant([0])
    return [tf.reduce_sum(x, axis) for x in tf.split(terms, [-(-n // each) for n in sizes])]


def _one_by_one(positions: Sequence[int], read: Callable[[int], Tensor]) -> dict[int, Tensor]:
    """The same of large copies, one after another, so that memory is taken for one only."""
    traced = functools.cache(_traced)
    found: dict[int, Tensor] = {}
    for i in positions:
        with tf.control_dependencies([*found.values()][-1:]):
            copy = read(i)
            found[i] = traced(copy.dtype)(copy)
    return found


def _traced(dtype: tf.DType) -> Callable[[Tensor], Tensor]:
    return tf.function(  # type: ignore[no-any-return]
        total_of_terms,
        input_signature=[tf.TensorSpec([None], dtype)],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def total_of_terms(x: Tensor) -> Tensor:
    """The sum, int64, that `checksum_of` makes a checksum of; ``x`` is flat."""
    rest = -tf.size(x) % _in_a_word(x.dtype)
    return tf.reduce_sum(weighted(_words(tf.pad(x, [[0, rest]]))))


def _words(x: Tensor) -> Tensor:
    """A flat tensor as whole numbers of 64 bits; its elements fill them up."""
    if x.dtype == tf.bool:
        return tf.cast(x, tf.int64)
    each = _in_a_word(x.dtype)
    return tf.bitcast(tf.reshape(x, [-1, each]) if each > 1 else x, tf.int64)


def _in_a_word(dtype: tf.DType) -> int:
    return 1 if dtype == tf.bool else _WORD // int(dtype.size)
