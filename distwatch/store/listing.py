"""What a list of runs says of each: from the documents alone, without opening an array."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from distwatch.errors import StoreError
from distwatch.phases import in_order
from distwatch.records import TRAIN
from distwatch.store import schema
from distwatch.store.addresses import Address
from distwatch.store.digests import keep, steps_in
from distwatch.store.documents import read_group
from distwatch.store.finding import FoundRun
from distwatch.store.locations import Location
from distwatch.store.locking import STALE, holder_of, lock_name
from distwatch.store.reader import StoredRun
from distwatch.store.schema import SegmentAttributes, SegmentSummary, TableAttributes
from distwatch.store.segments import ended_of

#: How a run without an end is called: one that is written now, and one that nobody closed.
RUNNING = "running"
NOT_CLOSED = "not closed"

#: Seconds between the first rows and the last ones from which on there is a pace.
_LEAST_SECONDS = 1.0


@dataclass(frozen=True)
class ListedRun:
    """What a list says of a run; None where it is not known."""

    address: Address
    name: str
    #: ISO 8601, in UTC.
    created: str
    #: "closed", an error, `RUNNING`, `NOT_CLOSED`, or why the run cannot be read.
    ended: str
    phase: str = TRAIN
    steps: int | None = None
    replicas: int | None = None
    #: Steps a second, between the first and the last rows of the latest start.
    pace: float | None = None
    #: Signal -> its mean at the last step, merged over replicas and workers.
    last: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain data: each of ``last`` is a value of its own."""
        return {
            "name": self.name,
            "created": self.created,
            "ended": self.ended,
            "phase": self.phase,
            "steps": self.steps,
            "replicas": self.replicas,
            "pace": self.pace,
            **self.last,
        }


def listed(found: FoundRun) -> ListedRun:
    """Look at the documents of a run; one that cannot be read is listed with the reason."""
    try:
        return _listed(found)
    except StoreError as error:
        why = str(error).removeprefix(f"{found.address}").lstrip(": ")
        return ListedRun(found.address, found.name, found.created, f"cannot be read: {why}")


def _listed(found: FoundRun) -> ListedRun:
    segments = list(_segments_of(found.location))
    phases = {segment.phase for segment, _ in segments}
    phase = next(iter(in_order(phases)), TRAIN)
    chosen = [(said, summary) for said, summary in segments if said.phase == phase]
    start = max((said.start for said, _ in chosen), default=0)
    latest = [(said, summary) for said, summary in chosen if said.start == start]
    summaries = [summary for _, summary in latest]
    return ListedRun(
        found.address,
        found.name,
        found.created,
        _ended(summaries) or _state(found.location),
        phase,
        _steps_of(found, chosen),
        sum(len(said.replicas) for said, _ in latest) or None,
        _pace(summaries),
        _last_values(summaries),
    )


def _steps_of(found: FoundRun, segments: list[tuple[SegmentAttributes, SegmentSummary]]) -> int:
    if len(segments) < 2:
        return sum(summary.steps for _, summary in segments)
    # Those of several starts or workers overlap: to count them, all tables are opened. So
    # the number is kept, where that may be.
    names = [schema.segment_name(said.info) for said, _ in segments]
    steps = steps_in(found.location, segments[0][0].phase, names)
    if steps is None:
        stored = StoredRun(found.address)
        steps = stored.steps
        if not stored.damaged:
            keep(stored.source, steps=steps)
    return steps


def _segments_of(location: Location) -> Iterator[tuple[SegmentAttributes, SegmentSummary]]:
    for name in location.children():
        if schema.start_of(name) is None:
            continue
        try:
            said, _ = read_group(location, name, SegmentAttributes)
            groups = said.table_groups.values()
            yield (
                said,
                said.summary
                or _summary_of(
                    read_group(location, f"{name}/{group}", TableAttributes)[0]
                    for group in groups
                ),
            )
        except StoreError as error:
            # There is no document before the first commit.
            if not isinstance(error.__cause__, LookupError):
                raise


def _summary_of(tables: Iterable[TableAttributes]) -> SegmentSummary:
    """The same of a segment that is not closed, or from before there were summaries."""
    tables = list(tables)
    return SegmentSummary.model_construct(
        ended=ended_of(table.ended for table in tables) or "",
        steps=max((table.committed for table in tables), default=0),
        last={name: value for table in tables for name, value in table.last.items()},
        reached=max((table.reached for table in tables), key=lambda r: r[-1:], default=[]),
    )


def _ended(segments: Iterable[SegmentSummary]) -> str | None:
    return ended_of(segment.ended or None for segment in segments)


def _state(location: Location) -> str:
    """Whether a run without an end is being written: its lock was renewed just now."""
    holder = holder_of(location.read(lock_name(0)))
    is_held = holder is not None and abs(time.time() - holder.renewed) < STALE
    return RUNNING if is_held else NOT_CLOSED


def _pace(segments: list[SegmentSummary]) -> float | None:
    """That of the worker that came furthest."""
    reached = max((each.reached for each in segments), key=lambda r: r[-1:], default=[])
    if len(reached) < 2:
        return None
    (first, began), *_, (last, ended) = reached
    return (last - first) / (ended - began) if ended - began >= _LEAST_SECONDS else None


def _last_values(segments: Iterable[SegmentSummary]) -> dict[str, float]:
    sums: dict[str, tuple[float, float]] = {}
    for segment in segments:
        for name, (n, mean) in segment.last.items():
            before, total = sums.get(name, (0.0, 0.0))
            sums[name] = before + n, total + n * mean
    return {name: total / n for name, (n, total) in sums.items()}
