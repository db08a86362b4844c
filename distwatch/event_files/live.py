"""Event files that are written while a training runs."""

from __future__ import annotations

import functools
import warnings

from distwatch.errors import EventFilesWarning
from distwatch.event_files.options import EventOptions
from distwatch.records import Block, RunInfo
from distwatch.store.background import BackgroundWriter, Writer

#: Bytes that may wait to be written.
MAX_BYTES = 32 * 2**20


class LiveEvents:
    """Takes blocks as they are drained, and writes them on a thread of its own.

    Neither the training nor the store waits for it: where it is too slow, whole blocks are
    left out of the event files, and counted. An error is reported once, and ends only the
    writing of event files.

    Args:
        options: what is written, and where.
        info: the run, or one worker's part of it.
    """

    def __init__(self, options: EventOptions, info: RunInfo) -> None:
        make = functools.partial(_make_writer, options, info)
        self._folder = options.folder
        self._writer = BackgroundWriter(make, max_bytes=MAX_BYTES, max_wait=0.0)
        self._warned = False

    def submit(self, block: Block) -> None:
        """Hand a block over."""
        self._writer.submit(block)

    def tell(self) -> None:
        """Warn, once, if something is missing from the event files."""
        writer = self._writer
        if self._warned or not (writer.error or writer.lost):
            return
        self._warned = True
        error = writer.error
        why = f"{type(error).__name__}: {error}" if error else "they are slower than training"
        warnings.warn(
            f"{self._folder}: TensorBoard's event files are not complete ({why}). Training "
            "and the run's own record go on; 'distwatch export RUN --tensorboard DIR' makes "
            "whole ones of it.",
            EventFilesWarning,
            stacklevel=2,
        )

    def close(self) -> None:
        """Write everything that waits."""
        self._writer.close()


def _make_writer(options: EventOptions, info: RunInfo) -> Writer:
    from distwatch.event_files.writer import EventWriter

    # Of several workers each has the rows of its own replicas only.
    return EventWriter(options, info, merges=info.workers == 1)
