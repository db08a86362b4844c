"""Opening a run repeatedly, and summarizing it each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from distwatch.cli.following.pace import Pace, SizeGauge, free_space
from distwatch.cli.following.signals import SignalLook, check_statistic, look_at
from distwatch.errors import (
    ConfigError,
    DamagedStoreError,
    FormatVersionError,
    NotARunError,
    SetupError,
)
from distwatch.phases import is_phase
from distwatch.signals import names_matching
from distwatch.store import StoredRun
from distwatch.store.locations import location_of
from distwatch.store.segments import Worker

_T = TypeVar("_T")

#: Seconds to wait before a failed read is repeated, since a file may be being replaced.
_AGAIN = (0.1, 0.3, 0.6, 1.0, 2.0)

#: Seconds without anything new after which a worker that wrote no row is no longer waited
#: for, once all others have ended.
_GIVE_UP = 10.0


class Wanted(NamedTuple):
    """What of a run is followed: see ``distwatch tail --help``."""

    phase: str | None = None
    signals: tuple[str, ...] = ()
    statistic: str = "l2"
    last: int = 512


@dataclass(frozen=True)
class Look:
    """The state of a run at one moment. What is not known is None."""

    #: What was committed when this look was taken.
    stored: StoredRun
    last_step: int | None
    #: Steps and rows.
    per_second: tuple[float, float] | None
    #: Seconds since something new was committed.
    quiet: float
    nbytes: int | None
    free: int | None
    #: What ended the writing, as `StoredRun.ended`; None while a worker may still write.
    ended: str | None
    #: How many workers have written no row.
    absent: int
    statistic: str
    signals: tuple[SignalLook, ...]

    def behind(self, worker: Worker) -> int:
        """How many steps a worker lacks of those that are committed."""
        return self.stored.steps - worker.steps


def follow(
    follower: Follower, *, interval: float = 2.0, once: bool = False, wait: bool = False
) -> Iterator[Look | None]:
    """Look at a run until it has ended; the last look is the one that shows its end.

    Args:
        follower: what looks at it.
        interval: seconds between two looks.
        once: look once, whether the run has ended or not.
        wait: yield None while there is no such run or phase yet, instead of refusing.

    Raises:
        DistwatchError: there is no such run, signal or statistic; the run was deleted or
            overwritten; it is damaged.
    """
    while wait and not follower.is_there():
        yield None
        time.sleep(interval)
    look = follower.look()
    while not once and look.ended is None:
        yield look
        time.sleep(interval)
        look = follower.look()
    yield look


class Follower:
    """Looks at a run that may be growing.

    Args:
        path: what was given to Watch.
        wanted: what of it is looked at.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, path: str, wanted: Wanted, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._wanted = wanted
        self._phase = wanted.phase
        #: Whether the run was found to be damaged, and not just being deleted.
        self._damaged = False
        self._clock = clock
        self._pace = Pace()
        self._size = SizeGauge(clock)
        self._identity: tuple[str, str] | None = None
        #: What was there when the signals were read, and these.
        self._read: tuple[object, tuple[SignalLook, ...], int | None] = (None, (), None)

    def is_there(self) -> bool:
        """Whether the run has the wanted phase; False while that may still appear.

        Raises:
            DistwatchError: something else is there, or it will never appear.
        """
        try:
            return self._has_started()
        except NotARunError:
            # Anything else there is something that Watch would refuse to replace.
            if location_of(self.path).is_free():
                return False
        # A run may be being created there.
        return self._retried(self._has_started, patient=True)

    def look(self) -> Look:
        """The run as it is now.

        Raises:
            NotARunError: there is none, or it was deleted or overwritten since.
            DistwatchError: it is damaged, or has no such signal, phase or statistic.
        """
        known = self._identity is not None
        try:
            if not self._damaged:
                try:
                    return self._retried(self._look, patient=known)
                except DamagedStoreError as error:
                    self._damaged = error.in_chunks
                    if not self._damaged:
                        raise
            return self._look()
        except _ReplacedError:
            raise
        except NotARunError as error:
            if not known:
                raise
            raise NotARunError(
                f"{self.path} was deleted, or moved away, while it was followed."
            ) from error

    def _has_started(self) -> bool:
        """Whether the wanted phase has rows, or none is wanted before others."""
        try:
            StoredRun(self.path, self._phase)
        except ConfigError:
            if not is_phase(self._phase) or StoredRun(self.path).ended is not None:
                raise
            return False
        return True

    def _retried(self, read: Callable[[], _T], *, patient: bool) -> _T:
        """Read, and retry if that fails: a writer may be between two files.

        A deletion takes time, and looks like damage until it is complete.
        """
        final = (SetupError, FormatVersionError, _ReplacedError if patient else NotARunError)
        for pause in _AGAIN if patient else _AGAIN[:2]:
            try:
                return read()
            except final:
                raise
            except Exception:
                # The last attempt, below, raises what is still wrong.
                time.sleep(pause)
        return read()

    def _look(self) -> Look:
        stored = self._open()
        ended = self._ended(stored)
        signals, last_step = self._signals(stored, over=ended is not None)
        now = self._clock()
        rows = sum(table.steps * len(table.replicas) for table in stored.tables.values())
        self._pace.observe(now, stored.steps, rows)
        return Look(
            stored=stored,
            last_step=last_step,
            per_second=self._pace.per_second(now),
            quiet=self._pace.quiet(now),
            nbytes=self._size.measure(lambda: stored.nbytes, at_once=ended is not None),
            free=free_space(self.path),
            ended=ended,
            absent=_absent(stored),
            statistic=self._wanted.statistic,
            signals=signals,
        )

    def _open(self) -> StoredRun:
        try:
            stored = StoredRun(self.path, self._phase)
        except ConfigError:
            if self._identity is None:
                raise
            # A run that replaced this one may not have the phase yet.
            self._check_same(StoredRun(self.path))
            raise DamagedStoreError(f"{self.path}: rows that were there are gone.") from None
        self._check_same(stored)
        if stored.segments:
            # Once one was shown, no other phase is, even if it is the default one.
            self._phase = stored.info.phase
        return stored

    def _check_same(self, stored: StoredRun) -> None:
        if self._identity not in (None, stored.identity):
            raise _ReplacedError(
                f"{self.path} was overwritten by another run while it was followed."
            )
        self._identity = stored.identity

    def _ended(self, stored: StoredRun) -> str | None:
        """What ended the run; None while one of its workers may still write."""
        if not stored.workers or any(worker.ended is None for worker in stored.workers):
            return None
        quiet = self._pace.quiet(self._clock())
        return None if _absent(stored) and quiet < _GIVE_UP else stored.ended

    def _signals(
        self, stored: StoredRun, *, over: bool
    ) -> tuple[tuple[SignalLook, ...], int | None]:
        """The signals and the last step, read again only if there is something new."""
        there = (over, *_fingerprint(stored))
        if self._read[0] != there:

            def read() -> tuple[tuple[SignalLook, ...], int | None]:
                return tuple(self._read_signals(stored, over)), stored.last_step

            self._read = there, *(stored.reading(read) if self._damaged else read())
        return self._read[1:]

    def _read_signals(self, stored: StoredRun, over: bool) -> Iterator[SignalLook]:
        tables = list(stored.tables.values())
        if tables:
            _, signals, statistic, last = self._wanted
            check_statistic(statistic, [each.table for each in tables])
            chosen = set(names_matching(signals, stored.info.names, self.path))
        for table in tables:
            yield from look_at(table, chosen, statistic=statistic, last=last, over=over)


class _ReplacedError(NotARunError):
    """The followed run was replaced by another one."""


def _fingerprint(stored: StoredRun) -> tuple[object, ...]:
    return tuple(
        (segment.name, name, table.steps, table.lost)
        for segment in stored.segments
        for name, table in segment.tables.items()
    )


def _absent(stored: StoredRun) -> int:
    return max(0, stored.info.workers - len(stored.workers)) if stored.workers else 0
