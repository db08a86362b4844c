"""Checksums of the replicas' copies of variables, inside the graph, and where they differ.

A copy is read as 64-bit words, whose terms are those of `distwatch.statistics.Checksum`: whole
numbers that wrap around, so that neither the order of a sum nor its rounding matters. Copies
of few elements are put side by side, so that another variable takes three operations or so; a
larger one is read by itself, by a function that is traced once for all of its dtype.

Nothing is done on a step that is not looked at, and nothing is exchanged between replicas: the
host compares what it drains. Only where two differ it reads the values, of its own replicas
alone, so that no collective is needed.

Rejected: ``tf.fingerprint`` (0.8 ns an element, where this takes 2.6 to 4), which has no GPU
kernel; one word an element, which takes twice as long; an XLA cluster, which does it in one
pass, but has to be compiled before the first step.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from distwatch.findings import minority
from distwatch.records import Block, Floats
from distwatch.statistics import ROW, Row, checksum_of, merge_axis, observe, weighted
from distwatch.training import strategies
from distwatch.training.device.deltas import Flattening

Tensor = Any

#: Elements of the largest copy that is put beside others: small enough for the caches.
_LARGEST = 16_384

#: Bytes of a word.
_WORD = 8


class Copies:
    """Variables of which each replica has a copy, and the rows of their checksums.

    Args:
        variables: distributed ones, or of TensorFlow's own where there is one replica.
        statistic: that of the table, with a checksum.
    """

    def __init__(self, variables: Sequence[Any], statistic: Row) -> None:
        self._copies = [strategies.copies_of(variable) for variable in variables]
        self._statistic = statistic
        self._column = statistic.fields.index("checksum")
        #: Whose values were compared, for as long as they differ.
        self._compared = np.zeros(len(variables), bool)

    @property
    def width(self) -> int:
        """How many columns of a ring the checksums of one step take."""
        return len(self._copies)

    def checksums(self) -> Tensor:
        """Those of the replica that this is traced for: float64, shape (variable,)."""
        place = strategies.local_place()
        own = [copies[place] for copies in self._copies]
        small: dict[Any, list[int]] = defaultdict(list)
        large: list[int] = []
        for i, copy in enumerate(own):
            if copy.shape.num_elements() > _LARGEST:
                large.append(i)
            else:
                small[copy.dtype].append(i)
        totals: dict[int, Tensor] = {}
        for positions in small.values():
            found = _side_by_side([own[i] for i in positions])
            totals |= dict(zip(positions, found, strict=True))
        totals |= _one_by_one(large, own)
        return checksum_of(tf.stack([totals[i] for i in range(len(own))]))

    def rows(self, checksums: Floats) -> Floats:
        """The states of a row: those of no elements, and the checksums.

        Shapes: (n, replica, variable) -> (n, replica, variable, field).
        """
        fields = len(self._statistic.fields)
        nothing = merge_axis(self._statistic, np.zeros((0, fields)), axis=0)
        rows = np.broadcast_to(nothing, (*checksums.shape, fields)).copy()
        rows[..., self._column] = checksums
        return rows

    def compared(self, block: Block) -> Block:
        """A block with the size of each difference that it is the first to have.

        The row of the last step gets, on each replica whose copy is not that of most, the
        usual statistics of this copy minus that of most, as they are now.
        """
        if not len(block):
            return block
        checksums = block.rows[-1, :, :, self._column]
        differ = (checksums != checksums[:1]).any(axis=0)
        fresh = np.flatnonzero(differ & ~self._compared)
        self._compared = differ
        rows = block.rows.copy()
        for i in fresh:
            self._compare(int(i), checksums[:, i], rows[-1])
        return replace(block, rows=rows, merged=merge_axis(self._statistic, rows, axis=1))

    def _compare(self, variable: int, checksums: Floats, rows: Floats) -> None:
        """Put in the rows of one step how far the copies of a variable are apart now."""
        try:
            values = [_numbers(copy) for copy in self._copies[variable]]
        except (RuntimeError, tf.errors.OpError):
            # As where a device is gone: their size stays unknown, that they differ does not.
            return
        odd = minority(checksums)
        usual = next(place for place in range(len(values)) if place not in odd)
        for place in np.flatnonzero(checksums != checksums[usual]):
            rows[place, variable, : ROW.columns] = _apart(values[place], values[usual])


def _apart(copy: Floats, usual: Floats) -> Floats:
    """The usual statistics of a copy minus another one."""
    same = (copy == usual) | (np.isnan(copy) & np.isnan(usual))
    with np.errstate(invalid="ignore", over="ignore"):
        packed: Floats = ROW.pack(observe(ROW, np.where(same, 0.0, copy - usual)))
    return packed


def _numbers(copy: Any) -> Floats:
    return np.asarray(tf.cast(copy.read_value(), tf.float64))


def _read(copy: Any) -> Tensor:
    # Without the identity that read_value() adds.
    return tf.raw_ops.ReadVariableOp(resource=copy.handle, dtype=copy.dtype)


def _side_by_side(copies: Sequence[Any]) -> list[Tensor]:
    """The sums of the terms of each of some copies of one dtype, which are few elements."""
    flat, parts, sizes = Flattening(), [], []
    for copy in copies:
        elements, each = copy.shape.num_elements(), _in_a_word(copy.dtype)
        parts.append(flat(_read(copy)))
        if rest := -elements % each:
            parts.append(tf.zeros([rest], copy.dtype))
        sizes.append(-(-elements // each))
    terms = weighted(_words(tf.concat(parts, axis=0)))
    axis = tf.constant([0])
    return [tf.reduce_sum(part, axis) for part in tf.split(terms, sizes)]


def _one_by_one(positions: Sequence[int], copies: Sequence[Any]) -> dict[int, Tensor]:
    """The same of large copies, one after another, so that memory is taken for one only."""
    total = _total if tf.executing_eagerly() else None
    traced = functools.cache(_traced)
    flat, found = Flattening(), {}
    last: list[Tensor] = []
    for i in positions:
        function = total or traced(copies[i].dtype)
        with tf.control_dependencies(last):
            found[i] = function(flat(_read(copies[i])))
        last = [] if total else [found[i]]
    return found


def _traced(dtype: tf.DType) -> Callable[[Tensor], Tensor]:
    return tf.function(  # type: ignore[no-any-return]
        _total,
        input_signature=[tf.TensorSpec([None], dtype)],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def _total(x: Tensor) -> Tensor:
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
