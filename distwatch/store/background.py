"""Writing on a background thread, from a queue bounded in bytes."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from distwatch.records import Block

#: Bytes that may wait to be written, and seconds for which a full queue blocks the training.
MAX_BYTES = 64 * 2**20
MAX_WAIT = 1.0


class Writer(Protocol):
    """What writes blocks, such as a `StoreWriter`."""

    @property
    def committed(self) -> int:
        """Steps that a reader sees, or saw before they were thinned out."""

    @property
    def thinned(self) -> int:
        """Steps that were taken out again to save space."""

    def append(self, block: Block) -> None:
        """Write a block, or keep it until more of them make a chunk."""

    def commit_tail(self, *, at_once: bool = True) -> None:
        """Commit what was kept; unless ``at_once``, only if that is due."""

    def count_lost(self, steps: dict[str, int]) -> None:
        """Count steps of tables that will never come as lost."""

    def give_up(self, reason: str, lost: dict[str, int]) -> None:
        """Store why the writing ends, and how many further steps of each table are lost.

        If it fails, or more is lost later, it is called again with what is lost besides.
        """

    def close(self, ended: str = ...) -> None:
        """Commit everything, and the reason why it ends here if there is one."""


@dataclass(frozen=True)
class _TailCommit:
    """Asks, in its turn, for a commit of the steps that fill no chunk yet."""

    at_once: bool


class BackgroundWriter:
    """Writes blocks in order while training goes on.

    A full queue drops the new block whole, after ``max_wait`` seconds, and counts
    its steps as lost; or, without a ``max_wait``, blocks the training until there is room, as
    long as anything at all is written within ``patience`` seconds. After that each block waits
    for `MAX_WAIT` seconds, until something is written again.
    The first error is kept in ``error`` and ends the writing; the caller reports it.

    Args:
        make_writer: makes the writer, on the thread.
        max_bytes: bound of the queue.
        max_wait: seconds for which a full queue may block `submit`; None for no limit while
            something is written.
        patience: seconds for which a writer that writes nothing is waited for.
    """

    def __init__(
        self,
        make_writer: Callable[[], Writer],
        *,
        max_bytes: int = MAX_BYTES,
        max_wait: float | None = MAX_WAIT,
        patience: float | None = None,
    ) -> None:
        self.error: Exception | None = None
        #: Whether `close` stopped waiting for a disk that does not answer.
        self.stuck = False
        #: Steps dropped because the queue was full, or that an error left unwritten.
        self._dropped = 0
        #: Those of each table, and others that are lost, that the writer does not know yet.
        self._uncounted: Counter[str] = Counter()
        #: Steps of each table in the queue.
        self._waiting: Counter[str] = Counter()
        self._max_bytes = max_bytes
        self._max_wait = max_wait
        self._patience = patience
        #: Whether a full queue was waited for in vain; blocks are dropped while nothing is
        #: written.
        self.hangs = False
        self._queue: deque[Block | _TailCommit] = deque()
        self._bytes = 0
        self._accepted = 0
        #: Steps that a reader sees, or saw before they were thinned out.
        self.committed = 0
        #: Steps that were taken out again to save space.
        self.thinned = 0
        self._changed = threading.Condition()
        self._closing = False
        #: Why the run ends, if that is an error outside.
        self._ended: str | None = None
        #: Counts what was written, to tell slow from stuck.
        self._progress = 0
        self._finished = False
        self._work_all = functools.partial(self._work, make_writer)
        self._thread: threading.Thread | None = threading.Thread(
            target=self._work_all, name="distwatch-writer", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:
            # Python 3.12.0 to 3.12.2 start no thread any more when a process exits. What comes
            # now is written by `close`.
            self._thread = None

    @property
    def lost(self) -> int:
        """Steps that were not written and, as far as is known, will not be."""
        return self._dropped + (self._accepted - self.committed if self.stuck else 0)

    def submit(self, block: Block) -> bool:
        """Put a block into the queue; False if it was dropped, and counted as lost."""
        with self._changed:
            if not self._await_room(block.nbytes) or self.error:
                self._dropped += len(block)
                self._uncounted[block.table] += len(block) + block.lost
                if block.kept and self.error is None:
                    # The batches that came with it come only once.
                    self._queue.append(replace(block[:0], kept=block.kept))
                    self._changed.notify_all()
                return False
            self._queue.append(block)
            self._bytes += block.nbytes
            self._accepted += len(block)
            self._waiting[block.table] += len(block) + block.lost
            self._changed.notify_all()
            return True

    def _await_room(self, nbytes: int) -> bool:
        """Wait until so many bytes fit into the queue, or an error ends it; False if not."""

        def fits() -> bool:
            room = self._bytes + nbytes <= self._max_bytes
            return self.error is not None or not self._queue or room

        if self.hangs or self._max_wait is not None:
            return self._changed.wait_for(fits, MAX_WAIT if self.hangs else self._max_wait)
        while not fits() and not self.hangs:
            before = self._progress

            def goes_on(before: int = before) -> bool:
                return fits() or self._progress != before

            self.hangs = not self._changed.wait_for(goes_on, self._patience)
        return fits()

    def commit_tail(self, *, at_once: bool = False) -> None:
        """Have the steps committed that fill no chunk yet; unless ``at_once``, if due."""
        with self._changed:
            self._queue.append(_TailCommit(at_once))
            self._changed.notify_all()

    def count_lost(self, table: str, steps: int) -> None:
        """Have the store count steps that were lost before they came here."""
        with self._changed:
            self._uncounted[table] += steps

    def close(self, patience: float | None = None, *, ended: str | None = None) -> None:
        """Write everything in the queue, commit, and end the thread.

        Args:
            patience: seconds to wait for a writer that writes nothing meanwhile, and is
                left alone then; None for no limit.
            ended: why the run ends here, where that is an error.
        """
        with self._changed:
            if not self._closing:
                self._ended, self._closing = ended, True
            self._changed.notify_all()
        if self._thread is None and not self._finished:
            self._work_all()
        with self._changed:
            self.stuck = False
            while not self._finished and not self.stuck:
                self.stuck = not self._goes_on(patience)
        if self._finished and self._thread is not None:
            self._thread.join()

    def _goes_on(self, patience: float | None) -> bool:
        """Wait until something more was written, or the thread is done."""
        before = self._progress
        return self._changed.wait_for(
            lambda: self._finished or self._progress != before, patience
        )

    def _work(self, make_writer: Callable[[], Writer]) -> None:
        writer: Writer | None = None
        try:
            writer = make_writer()
            while self._next(writer):
                pass
            self._count_dropped(writer)
            if self._ended is None:
                writer.close()
            else:
                writer.close(self._ended)
            self.committed = writer.committed
        except Exception as error:
            self._fail(error, writer)
            self._tell_the_rest(error, writer)
        finally:
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    def _next(self, writer: Writer) -> bool:
        """Write the first in the queue; False when all is written and nothing more comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if not self._queue:
                return False
            first = self._queue[0]
        self._count_dropped(writer)
        if isinstance(first, _TailCommit):
            writer.commit_tail(at_once=first.at_once)
        else:
            writer.append(first)
        with self._changed:
            # Only now: a block counts against the bound until it is written.
            self._queue.popleft()
            self.committed, self.thinned = writer.committed, writer.thinned
            if isinstance(first, Block):
                self._bytes -= first.nbytes
                self._waiting[first.table] -= len(first) + first.lost
            self._progress += 1
            self.hangs = False
            self._changed.notify_all()
        return True

    def _count_dropped(self, writer: Writer) -> None:
        """Have the next commit store how many steps were dropped."""
        with self._changed:
            dropped, self._uncounted = self._uncounted, Counter()
        writer.count_lost(dropped)

    def _fail(self, error: Exception, writer: Writer | None) -> None:
        with self._changed:
            self.error = error
            self.committed = writer.committed if writer else 0
            self._dropped += self._accepted - self.committed
            self._accepted = self.committed
            self._queue.clear()
            self._bytes = 0
            self._uncounted += self._waiting
            self._changed.notify_all()
        self._give_up(error, writer)

    def _tell_the_rest(self, error: Exception, writer: Writer | None) -> None:
        """Have the store count what was lost after an error, too.

        Where the disk was full, it may have room for these words now.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closing)
        self._give_up(error, writer)

    def _give_up(self, error: Exception, writer: Writer | None) -> None:
        with self._changed:
            lost, self._uncounted = self._uncounted, Counter()
        if writer is not None:
            # Writing may well fail again; the error itself was kept.
            with contextlib.suppress(Exception):
                writer.give_up(f"{type(error).__name__}: {error}", lost)
