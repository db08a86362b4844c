"""Many small deltas of known sizes, read together as one matrix of blocks.

Gradients, updates and weights are many and mostly small. Read one by one, it is the number of
operations that costs, in the step and still more before the first; together, another delta
takes two or three (``tests/training/test_operations.py``). Each begins a row of the matrix, so
that a row is of one delta: everything is reduced along the rows first, and then, a number a
row, over the rows of each delta.

Rejected: larger deltas in the matrix, too. It then no longer fits into the caches between two
kernels, and a step takes longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from distwatch.training.device.deltas import Delta, Flattening
from distwatch.training.device.reductions import Grouping, Reduced, masked, nonzero

Tensor = Any

#: Elements of a row: with fewer, more is left to be reduced over the rows; with more, there
#: is more padding.
_WIDTH = 64

#: Elements of the largest delta that is read together with others.
_LARGEST = 16_384

#: Fewer deltas are not worth it.
_FEWEST = 4


class Blocks:
    """Some small deltas of known sizes, in one matrix of shape (block, element).

    Args:
        deltas: float32, of fully known shapes.
    """

    def __init__(self, deltas: Sequence[Tensor]) -> None:
        sizes = np.array([delta.shape.num_elements() for delta in deltas])
        blocks = np.maximum(-(-sizes // _WIDTH), 1)
        #: The last block of each delta, and how many elements that has.
        self._last = np.cumsum(blocks, dtype=np.int32) - 1
        self._rest = sizes - (blocks - 1) * _WIDTH
        self._sizes = sizes
        filled = np.full(blocks.sum(), _WIDTH)
        filled[self._last] = self._rest
        owner = np.repeat(np.arange(len(deltas), dtype=np.int32), blocks)
        self._grouping = _Owners(owner, filled, len(deltas))
        self._values = self._side_by_side(deltas)

    def reduced(self) -> Tensor:
        """What `reductions.reduce` gives of each: shape (delta, its fields), float64."""
        x = self._values
        magnitudes = tf.abs(x)
        each = (x, tf.square(x), magnitudes, tf.cast(nonzero(magnitudes), x.dtype))
        sums = tf.stack([tf.reduce_sum(numbers, axis=1) for numbers in each], axis=1)
        total, squares, l1, nonzeros = tf.unstack(self._grouping.sum_blocks(sums), axis=1)
        extremes = self._grouping.least_of_blocks(self._extremes())
        low, minus_high = tf.unstack(extremes, axis=1)
        return tf.stack(Reduced(total, 0.5 * squares, low, -minus_high, l1, nonzeros), axis=1)

    def looked_at_again(self, irregular: Tensor) -> Tensor:
        """The `BasicSums` of the irregular ones, right for all values: shape (delta, sum).

        Those of the others are of no use.
        """
        blocks = tf.where(tf.gather(irregular, self._grouping.owner))[:, 0]
        counts = tf.constant(self._sizes, tf.float64)
        sums = masked(tf.gather(self._values, blocks), counts, self._grouping.of(blocks))
        return tf.stack(sums, axis=1)

    def _side_by_side(self, deltas: Sequence[Tensor]) -> Tensor:
        padding = {n: tf.zeros([n]) for n in set(_WIDTH - self._rest) if n}
        flat, parts = Flattening(), []
        for delta, rest in zip(deltas, self._rest, strict=True):
            parts.append(flat(delta))
            if rest < _WIDTH:
                parts.append(padding[_WIDTH - rest])
        return tf.reshape(tf.concat(parts, axis=0), [-1, _WIDTH])

    def _extremes(self) -> Tensor:
        """The smallest of each block and of its negative: shape (block, 2)."""
        x = self._values
        each = tf.stack([tf.reduce_min(x, axis=1), -tf.reduce_max(x, axis=1)], axis=1)
        # Padding is zeros, which may be neither the smallest nor the largest.
        tails = tf.gather(x, self._last)
        there = np.arange(_WIDTH) < self._rest[:, None]
        both = tf.where(there[:, None], tf.stack([tails, -tails], axis=1), float("inf"))
        of_tails = tf.reduce_min(both, axis=-1)
        return tf.tensor_scatter_nd_update(each, self._last[:, None], of_tails)


class _Owners(Grouping):
    """Some blocks by the deltas that own them.

    Args:
        owner: of which delta each block is.
        filled: how many elements each block has.
        number: how many deltas there are.
    """

    def __init__(self, owner: Any, filled: Any, number: int) -> None:
        self.owner = owner
        self._filled = filled
        self._number = number

    def of(self, blocks: Tensor) -> _Owners:
        """Of these blocks only."""
        owner, filled = (tf.gather(each, blocks) for each in (self.owner, self._filled))
        return _Owners(owner, filled, self._number)

    def sum_blocks(self, each: Tensor) -> Tensor:
        """The sums over each delta of some numbers a block, float64."""
        numbers = tf.cast(each, tf.float64)
        return tf.math.unsorted_segment_sum(numbers, self.owner, self._number)

    def least_of_blocks(self, each: Tensor) -> Tensor:
        """The smallest over each delta of some numbers a block, float64."""
        numbers = tf.cast(each, tf.float64)
        least = tf.math.unsorted_segment_min(numbers, self.owner, self._number)
        # TensorFlow has the largest number for infinity there; no float32 is as large.
        return tf.where(least < tf.float64.max, least, float("inf"))

    def total(self, numbers: Tensor) -> Tensor:
        """The sums over each delta of a number an element."""
        return self.sum_blocks(tf.reduce_sum(numbers, axis=1))

    def least(self, numbers: Tensor) -> Tensor:
        """The smallest over each delta of a number an element."""
        return self.least_of_blocks(tf.reduce_min(numbers, axis=1))

    def at_each(self, numbers: Tensor) -> Tensor:
        """A number a delta, at each of its elements."""
        return tf.gather(numbers, self.owner)[:, None]

    def without_padding(self, mask: Tensor) -> Tensor:
        """A mask over elements, False where there is none."""
        return tf.logical_and(mask, tf.sequence_mask(self._filled, _WIDTH))


def small(deltas: Sequence[Delta]) -> list[int]:
    """The positions of the deltas that are read together, if there are enough of them.

    Those that are measured against something are not: how many rows they have varies.
    """
    found = [i for i, delta in enumerate(deltas) if _is_small(delta)]
    return found if len(found) >= _FEWEST else []


def _is_small(delta: Delta) -> bool:
    x, before = delta
    narrow = x.dtype.is_floating and x.dtype != tf.float64
    if before is not None or not narrow or not x.shape.is_fully_defined():
        return False
    return bool(x.shape.num_elements() <= _LARGEST)
