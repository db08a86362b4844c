"""Writing event files.

Rejected: TensorBoard's own file writer, which imports TensorFlow where it is installed and
computes checksums in Python.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from tensorboard.compat.proto import event_pb2

from distwatch.event_files.folders import EVENTS, MERGED, OURS, REPLICA, phase_folder
from distwatch.event_files.options import EventOptions, chosen_signals
from distwatch.event_files.summaries import Summaries
from distwatch.event_files.thinning import Thinning
from distwatch.records import Block, Ints, RunInfo

_number = itertools.count()


class EventWriter:
    """Writes the blocks of one phase into event files.

    It is a writer as `distwatch.store.BackgroundWriter` wants it: every block is in the
    files when ``append`` returns.

    Args:
        options: what is written, and where.
        info: the run. A start that continues an earlier one replaces everything from its
            first step on.
        clock: seconds since 1970, asked once a block: TensorBoard's "wall time".
        merges: whether the blocks' merged rows are over all replicas; those of one of
            several workers are not, and are left out.
    """

    def __init__(
        self,
        options: EventOptions,
        info: RunInfo,
        *,
        clock: Callable[[], float] = time.time,
        merges: bool = True,
    ) -> None:
        chosen = chosen_signals(options, info.names)
        self._options = options
        self._info = info
        self._clock = clock
        self._merges = merges and options.merged
        self._summaries = {
            table.name: Summaries(table, chosen, options)
            for table in info.tables
            if chosen & set(table.names)
        }
        self._files: dict[str, BinaryIO] = {}
        self._thinned = {name: Thinning(options.every) for name in self._summaries}
        #: Steps that were looked at.
        self.committed = 0
        self.thinned = 0

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [Path(file.name) for file in self._files.values()]

    @property
    def nbytes(self) -> int:
        """Their bytes."""
        return sum(path.stat().st_size for path in self.paths)

    def append(self, block: Block) -> None:
        """Write a block, to its end.

        Raises:
            OSError: a file could not be written.
        """
        if block.table in self._summaries:
            due = block[self._thinned[block.table].kept(block)]
            if len(due):
                self._write_due(due)
        self.committed += len(block)

    def commit_tail(self, *, at_once: bool = True) -> None:
        """Do nothing: blocks are in the files when `append` returns."""

    def count_lost(self, steps: dict[str, int]) -> None:
        """Do nothing: event files cannot say what is missing."""

    def give_up(self, reason: str, lost: dict[str, int]) -> None:
        """Close the files after an error."""
        self.close()

    def close(self, ended: str | None = None) -> None:
        """Close the files; they have no place for why the run ended."""
        for file in self._files.values():
            file.close()

    # What float32 or a sum cannot hold is infinite; a training that diverged says so itself.
    @np.errstate(over="ignore", invalid="ignore")
    def _write_due(self, block: Block) -> None:
        summaries = self._summaries[block.table]
        now = self._clock()
        if self._merges:
            self._write(MERGED, block.step, summaries.merged(block), now)
        for position, number in enumerate(
            self._info.replicas if self._options.replicas else ()
        ):
            of_replica = summaries.of_replica(block, position)
            self._write(f"{REPLICA}{number}", block.step, of_replica, now)

    def _write(self, run: str, steps: Ints, summaries: Iterator[Any], now: float) -> None:
        file = self._files.get(run) or self._open(run)
        events = (
            event_pb2.Event(wall_time=now, step=int(step), summary=summary)
            for step, summary in zip(steps, summaries, strict=True)
            if summary.value
        )
        _append(file, events)

    def _open(self, run: str) -> BinaryIO:
        folder = phase_folder(self._options.folder, self._info.phase) / run
        file = self._files[run] = _new_file(folder)
        now, origin = self._clock(), self._info.origin
        _append(file, [event_pb2.Event(wall_time=now, file_version="brain.Event:2")])
        if origin.start:
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            event = event_pb2.Event(wall_time=now, step=origin.step, session_log=started)
            _append(file, [event])
        return file


def _new_file(folder: Path) -> BinaryIO:
    """A new file in a folder, under a name that sorts behind those of before."""
    folder.mkdir(parents=True, exist_ok=True)
    seconds, rest = divmod(time.time_ns(), 10**9)
    where = f"{seconds:010d}.{rest:09d}.{socket.gethostname()}.{os.getpid()}"
    return (folder / f"{EVENTS}{where}.{next(_number)}{OURS}").open("xb")


def _append(file: BinaryIO, events: Iterable[Any]) -> None:
    """Append events; they are in the file when this returns."""
    file.write(b"".join(_framed(event.SerializeToString()) for event in events))
    file.flush()


def _framed(record: bytes) -> bytes:
    """A record as TFRecord frames it: length, its checksum, the record, its checksum."""
    length = struct.pack("<Q", len(record))
    return b"".join([length, _masked_checksum(length), record, _masked_checksum(record)])


def _masked_checksum(content: bytes) -> bytes:
    checksum = google_crc32c.value(content)
    rotated = (checksum >> 15 | checksum << 17) + 0xA282EAD8
    return struct.pack("<I", rotated & 0xFFFFFFFF)
