"""Before a training: what is at a path, and where an earlier run is resumed there."""

from __future__ import annotations

import bisect
import datetime
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distwatch.errors import ConfigError, StoreError
from distwatch.records import TRAIN, TRAIN_ON_BATCH, Origin, RunInfo, Table
from distwatch.store import schema
from distwatch.store.documents import read_document, read_group
from distwatch.store.kept_batches import is_kept_name
from distwatch.store.locations import ROOT_DOCUMENT, location_of
from distwatch.store.readable_tables import ReadableTable
from distwatch.store.segments import Segment, continued, groups_of, read_segments
from distwatch.store.tallies import Note, noted_steps, start_noted_in

#: Phases that move the optimizer's count.
_TRAINING = (TRAIN, TRAIN_ON_BATCH)


def run_name(path: str | Path) -> str | None:
    """The random name of the run at ``path``; None where there is no complete run."""
    try:
        return str(read_document(location_of(path), "")["attributes"][schema.ATTRIBUTE]["run"])
    except (StoreError, KeyError, TypeError):
        return None


def is_run(path: str | Path) -> bool:
    """Whether there is a distwatch run, of whatever format, at ``path``."""
    try:
        return schema.ATTRIBUTE in read_document(location_of(path), "")["attributes"]
    except StoreError:
        return False


def now() -> str:
    """The current time as it is stored: ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


# Resuming


def next_start(path: str | Path) -> int:
    """The number that the next start of a run gets.

    Raises:
        NotARunError, FormatVersionError, DamagedStoreError: it cannot be continued.
    """
    location = location_of(path)
    read_group(location, "", schema.RootAttributes)
    # Also of a start that was killed before its first commit, and so has no rows to read.
    names = location.children()
    starts = [each for name in names for each in (schema.start_of(name), start_noted_in(name))]
    return max((start for start in starts if start is not None), default=-1) + 1


def sweep(path: str | Path) -> None:
    """Remove temporary files and tables that a crash left, which no document names.

    Raises:
        FormatVersionError, DamagedStoreError: a segment cannot be understood.
    """
    location = location_of(path)
    location.sweep()
    for segment, groups in groups_of(location).items():
        # An unfinished copy of a table that was being thinned out, or the table it replaced.
        for child in set(location.children(segment)) - {ROOT_DOCUMENT, *groups}:
            if not is_kept_name(child):
                location.delete(f"{segment}/{child}")


def origin_of(path: str | Path, info: RunInfo) -> Origin:
    """Where a start continues the run, by the optimizer's count that it found.

    Of a training this is the step after the last one that left the optimizer's count where it
    is now; what earlier starts wrote from there on is replaced. Where no row has this count (it
    was lost in the crash, or its step was not recorded), steps are counted on from the nearest
    row, or note of a start, before it. Other phases are told by those notes alone, see
    `tallies`; where a start has none, by rows, too.

    Args:
        path: the run's.
        info: the start's, with its number and the optimizer's count in ``origin``.

    Raises:
        ConfigError: it watches other signals or replicas than the run, or the
            optimizer's count lies before the run's first step.
    """
    found = _segments(path, info)
    starts = {segment.info.origin.start for segment in found}
    noted = noted_steps(location_of(path), info, starts)
    if not found:
        return _origin_noted(info, noted)
    (worker,) = continued(found, str(path))
    _check_same(path, worker.info, list(worker.tables.values()), info)
    first, now = found[0].info.origin, info.origin
    if not 0 <= first.iteration <= now.iteration and now.iteration >= 0:
        raise ConfigError(
            f"{path} started when the optimizer's count was {first.iteration}, and now it is "
            f"{now.iteration}: restore the model before fit, or choose another path."
        )
    if noted is not None and info.phase not in _TRAINING:
        return _origin_noted(info, noted)
    fullest = max(worker.tables.values(), key=lambda table: table.steps)
    return Origin(now.start, _step_after(fullest, first, now.iteration, info), now.iteration)


def _origin_noted(info: RunInfo, noted: Note | None) -> Origin:
    if noted is None or noted.steps is None:
        return info.origin
    unseen = info.origin.iteration - noted.iteration if info.phase in _TRAINING else 0
    return replace(info.origin, step=noted.steps + unseen, counted=True)


def steps_of(path: str | Path, info: RunInfo) -> int:
    """How many steps of a phase earlier starts left, on one worker."""
    return sum(worker.steps for worker in continued(_segments(path, info), str(path)))


def _segments(path: str | Path, info: RunInfo) -> list[Segment]:
    return [
        segment
        for segment in read_segments(location_of(path))
        if (segment.info.phase, segment.info.worker) == (info.phase, info.worker)
    ]


def _step_after(table: ReadableTable, first: Origin, iteration: int, info: RunInfo) -> int:
    if iteration < 0:
        # Without an optimizer nothing is restored either: this goes on at the end.
        place = table.steps
    else:
        place = bisect.bisect_right(
            range(table.steps), iteration, key=lambda i: table.value_at("iteration", i)
        )
    if place:
        step, reached = (table.value_at(each, place - 1) for each in ("step", "iteration"))
    else:
        step, reached = first.step - 1, first.iteration
    unseen = iteration - reached if info.phase in _TRAINING else 0
    return step + 1 + unseen


def _check_same(
    path: str | Path, was: RunInfo, tables: Sequence[ReadableTable], info: RunInfo
) -> None:
    if was.replicas != info.replicas or was.workers != info.workers:
        raise ConfigError(
            f"{path} was started on {was.strategy} and cannot be resumed on {info.strategy}: "
            "rows of other replicas do not continue these; choose another path."
        )
    # Of copies there may be others, or none: see `_same_tables` of the reader.
    before = [each.table for each in tables if not each.table.of_copies]
    now = [table for table in info.tables if not table.of_copies]
    if list(map(_fixed_part, before)) != list(map(_fixed_part, now)):
        differ = {name for table in before for name in table.names} ^ set(info.names)
        which = ", ".join(sorted(differ)) or "the same ones, otherwise"
        raise ConfigError(
            f"{path} watches other signals than this Watch ({which}), so it cannot be "
            "resumed by it; watch the same ones, or choose another path."
        )


def _fixed_part(table: Table) -> object:
    """What must stay the same for rows to be continued; window and schedule may change.

    So may statistics that an older distwatch did not have yet.
    """
    further = [each.spec() for each in table.statistic.further if not each.added_later]
    return table.name, table.signals, further, table.tensor
