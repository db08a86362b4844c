"""When the steps of a training were done, as far as its starts and commits say.

A commit has a time, a row has none. Each start notes those of its first commit, of its last one
and of some between, so that nothing is written more often for it.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distwatch.store.reader import StoredRun
from distwatch.store.segments import Segment

#: Commits within so many seconds are one.
_AT_ONCE = 1.0


@dataclass(frozen=True)
class Times:
    """How many steps were done when.

    Attributes:
        steps: numbers of steps that were done, rising. Where a later start goes on, the number
            that it began with is there twice: as the one ended, and as the other began.
        seconds: since the first start began, rising: one for each.
        commits: how many of these are commits, those within a second being one; the others are
            where a start begins or ends.
    """

    steps: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    commits: int = 0


def times_of(stored: StoredRun) -> Times:
    """The times of a run's steps, by its first worker; none where too little is known.

    There are none if fewer than two commits have a time, if it is not known when a start began,
    or if a clock was set back.
    """
    first = min((each.info.worker for each in stored.segments), default=0)
    segments = [each for each in stored.segments if each.info.worker == first]
    moments: list[tuple[float, float]] = []
    commits = 0
    for place, segment in enumerate(segments):
        began = _began(segment, stored.created)
        if began is None:
            return Times()
        later = [each.info.origin.step for each in segments[place + 1 :]]
        own, known = _of_start(segment, began, min(later, default=math.inf))
        moments += own
        commits += known
    steps, seconds = zip(*moments, strict=True) if moments else ((), ())
    if commits < 2 or not all(_rises(each) for each in (steps, seconds)):
        return Times()
    return Times(steps, tuple(each - seconds[0] for each in seconds), commits)


def _of_start(
    segment: Segment, began: float, end: float
) -> tuple[list[tuple[float, float]], int]:
    """The moments of a start up to the step from which it is replaced, and its commits."""
    reached = max((each.reached for each in segment.stored), key=len, default=())
    apart = _apart(reached)
    known = [moment for moment in apart if moment[0] <= end]
    moments = [(float(segment.info.origin.step), began), *known]
    if len(known) < len(apart) and moments[-1][0] < end:
        steps, seconds = zip(*moments, apart[len(known)], strict=True)
        moments.append((end, float(np.interp(end, steps, seconds))))
    return moments, len(known)


def _apart(moments: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of commits that come within a second the last one.

    What the devices kept is written at once, whenever its steps were done.
    """
    kept: list[tuple[float, float]] = []
    for moment in reversed(moments):
        if not kept or kept[-1][1] - moment[1] >= _AT_ONCE:
            kept.append(moment)
    return kept[::-1]


def _began(segment: Segment, created: str) -> float | None:
    """When a start began: seconds since 1970. The first one does so when its run is made."""
    if segment.info.provenance is not None:
        return segment.info.provenance.began
    if segment.info.origin.start or segment.info.origin.step:
        return None
    try:
        return datetime.datetime.fromisoformat(created).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _rises(values: Sequence[float]) -> bool:
    return bool(np.all(np.diff(values) >= 0)) and values[-1] > values[0]
