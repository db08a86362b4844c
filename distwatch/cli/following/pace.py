"""How fast a run grows, and how large it is."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

#: How many commits the pace is measured over.
_COMMITS = 16

#: Measuring the size walks over all files of a run; it may take this share of the time.
_SHARE = 0.02


class Growth(NamedTuple):
    """How much there was, and when."""

    time: float
    steps: int
    rows: int


class Pace:
    """Steps and rows a second.

    Rows are committed in blocks, so time is measured from commit to commit; a pause that is
    longer than twice the longest interval so far counts as well.
    """

    def __init__(self) -> None:
        #: Commits; before them what was there at the start, committed at an unknown time.
        self._seen: deque[Growth] = deque(maxlen=1 + _COMMITS)

    def observe(self, now: float, steps: int, rows: int) -> None:
        """Take the current counts."""
        if self._seen and steps < self._seen[-1].steps:
            # A resumed training replaces steps of the one before.
            self._seen.clear()
        if not self._seen or rows > self._seen[-1].rows:
            self._seen.append(Growth(now, steps, rows))

    def quiet(self, now: float) -> float:
        """Seconds since something new was seen, or since it was opened."""
        return now - self._seen[-1].time if self._seen else 0.0

    def per_second(self, now: float) -> tuple[float, float] | None:
        """Steps and rows a second; None until two commits were seen."""
        seen = list(self._seen)[1:]
        if len(seen) < 2:
            return None
        longest = max(b.time - a.time for a, b in itertools.pairwise(seen))
        until = now if self.quiet(now) > 2 * longest else seen[-1].time
        took = max(until - seen[0].time, 1e-9)
        return (
            (seen[-1].steps - seen[0].steps) / took,
            (seen[-1].rows - seen[0].rows) / took,
        )


class SizeGauge:
    """The size of a run in bytes, measured only as often as that is cheap.

    A longer run has more files, but must not cost more to follow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._nbytes: int | None = None
        self._due = 0.0

    def measure(self, measure: Callable[[], int], *, at_once: bool = False) -> int | None:
        """Bytes, possibly not current unless ``at_once``; None where they are not known."""
        began = self._clock()
        if self._nbytes is not None and began < self._due and not at_once:
            return self._nbytes
        # Files come and go while they are counted.
        with contextlib.suppress(OSError):
            self._nbytes = measure()
        ended = self._clock()
        self._due = ended + (ended - began) / _SHARE
        return self._nbytes


def free_space(path: str) -> int | None:
    """Free bytes where a run is written; None where they are not known."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None
