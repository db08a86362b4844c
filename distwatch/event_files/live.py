"""Event files that are written while a training runs."""

from __future__ import annotations

import functools

from distwatch.event_files.options import EventOptions
from distwatch.records import RunInfo
from distwatch.store.background import BackgroundWriter, Writer

#: Bytes that may wait to be written.
MAX_BYTES = 32 * 2**20


def start_live_writer(options: EventOptions, info: RunInfo) -> BackgroundWriter:
    """Start a thread that writes blocks to event files as they are drained.

    Neither the training nor the store waits for it: where it is too slow, whole blocks are
    left out of the event files, and counted.

    Args:
        options: what is written, and where.
        info: the run, or one worker's part of it.
    """
    make = functools.partial(_make_writer, options, info)
    return BackgroundWriter(make, max_bytes=MAX_BYTES, max_wait=0.0)


def _make_writer(options: EventOptions, info: RunInfo) -> Writer:
    from distwatch.event_files.writer import EventWriter

    # Of several workers each has the rows of its own replicas only.
    return EventWriter(options, info, merges=info.workers == 1)
