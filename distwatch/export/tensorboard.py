"""A run as TensorBoard's event files, as a Watch would have written them."""

from __future__ import annotations

import contextlib
import functools
import time
from datetime import datetime

from distwatch.event_files.options import EventOptions
from distwatch.export.rows import Progress, recorded_blocks
from distwatch.store import StoredRun


def write_events(
    stored: StoredRun, options: EventOptions, *, progress: Progress = lambda _: None
) -> int:
    """Write one phase of a run; returns how many bytes its files have.

    The "wall time" of all steps is that of the run's creation, since theirs is not known. If
    writing fails, no file is left.

    Args:
        stored: the run.
        options: which part of it, and where; see `event_files.folders.make_room`.
        progress: called with how many more steps are written.

    Raises:
        OSError: a file could not be written.
    """
    from distwatch.event_files.writer import EventWriter

    read = functools.partial(recorded_blocks, histograms=True)
    created = _seconds(stored.created)
    writer = EventWriter(options, stored.info, clock=lambda: created)
    try:
        with contextlib.closing(writer):
            for table in [*stored.tables]:
                for block in stored.streaming(table, read):
                    writer.append(block)
                    progress(len(block))
    except BaseException:
        for path in writer.paths:
            path.unlink(missing_ok=True)
        raise
    return writer.nbytes


def _seconds(created: str) -> float:
    try:
        return datetime.fromisoformat(created).timestamp()
    except ValueError:
        return time.time()
