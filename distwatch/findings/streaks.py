"""Since when something has been so, without a break."""

from __future__ import annotations

import numpy as np

from distwatch.records import Floats, Ints

#: The step since which something has been so that is not so.
NONE = -1


class Streaks:
    """Since which step a share has been at least as large as each of several levels.

    Args:
        levels: in rising order; the last one is 1.
        signals: the number of signals.
    """

    def __init__(self, levels: int, signals: int) -> None:
        self._levels = (np.arange(levels) + 1.0) / levels
        #: Shape (level, signal); `NONE` where it is smaller at the last step.
        self.since: Ints = np.full((levels, signals), NONE)
        #: At how many steps, from then on.
        self.rows: Ints = np.zeros((levels, signals), np.int64)

    def observe(self, step: Ints, share: Floats) -> None:
        """Take the next steps.

        Args:
            step: shape (n,), at least one.
            share: shape (n, signal); NaN where it is not known, which breaks nothing.
        """
        known = ~np.isnan(share)[:, None]
        # Shares are ratios of whole numbers, and levels of others.
        holds = known & (np.nan_to_num(share)[:, None] >= self._levels[:, None] - 1e-9)
        fails = known & ~holds
        broken = fails.any(axis=0)
        last_fail = np.where(broken, len(step) - 1 - np.argmax(fails[::-1], axis=0), -1)
        after = holds & (np.arange(len(step))[:, None, None] > last_fail)
        begins = np.where(after.any(axis=0), step[np.argmax(after, axis=0)], NONE)
        goes_on = ~broken & (self.since != NONE)
        self.since = np.where(goes_on, self.since, begins)
        self.rows = np.where(goes_on, self.rows, 0) + after.sum(axis=0)

    def at_least(self, signal: int, share: float) -> tuple[int, int]:
        """Since when a signal's share has been at least about so large, and for how many
        steps: about, because the largest level below it is what is known."""
        level = max(int(share * len(self._levels) + 1e-6) - 1, 0)
        return int(self.since[level, signal]), int(self.rows[level, signal])

    def highest(self, signal: int, since: int) -> float:
        """The highest level that a signal has had since a step or longer; 0 if none."""
        held = (self.since[:, signal] != NONE) & (self.since[:, signal] <= since)
        return float(self._levels[held].max(initial=0.0))
