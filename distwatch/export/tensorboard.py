"""A run as TensorBoard's event files, as a Watch would have written them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

import numpy as np

from distwatch.event_files.options import EventOptions
from distwatch.export.rows import Progress, scalar_blocks
from distwatch.records import Block
from distwatch.store import StoredRun
from distwatch.store.joining import ReadableTable


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

    created = _seconds(stored.created)
    writer = EventWriter(options, stored.info, clock=lambda: created)
    try:
        for table in stored.tables.values():
            for block in _whole_blocks(table):
                writer.append(block)
                progress(len(block))
        writer.close()
    except BaseException:
        writer.close()
        for path in writer.paths:
            path.unlink(missing_ok=True)
        raise
    return writer.nbytes


def _whole_blocks(stored: ReadableTable) -> Iterator[Block]:
    """A table's blocks with all their fields, bucket counts among them."""
    start = 0
    for block in scalar_blocks(stored):
        steps = slice(start, start + len(block))
        start += len(block)
        if stored.table.statistic.histogram is None:
            yield block
        else:
            yield replace(
                block,
                rows=np.concatenate([block.rows, stored.read("histogram", steps)], axis=-1),
                merged=np.concatenate(
                    [block.merged, stored.read("histogram_merged", steps)], axis=-1
                ),
            )


def _seconds(created: str) -> float:
    try:
        return datetime.fromisoformat(created).timestamp()
    except ValueError:
        return time.time()
