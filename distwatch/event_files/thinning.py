"""Keeping only some of the steps."""

from __future__ import annotations

import numpy as np

from distwatch.records import Block, Ints


class Thinning:
    """Keeps one of every so many steps of one table's blocks: the first that was recorded.

    Of steps 0, 3, 6, 9, 12 and every 5 that is 0, 6, 12; so a table that looks at few steps
    loses none.

    Args:
        every: of how many.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._last = -1

    def kept(self, block: Block) -> Ints:
        """The places of the steps to keep of the next block."""
        intervals = block.step // self._every
        kept = np.flatnonzero(np.diff(intervals, prepend=self._last))
        if len(kept):
            self._last = int(intervals[-1])
        return kept
