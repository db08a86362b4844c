"""Opening a run repeatedly, and summarizing it each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from distwatch.cli.following.pace import Pace, Scales, free_space
from distwatch.cli.following.signals import SignalLook, check_statistic, look_at
from distwatch.errors import (
    ConfigError,
    DamagedStoreError,
    FormatVersionError,
    NotARunError,
    SetupError,
)
from distwatch.records import PHASES
from distwatch.signals import names_matching
from distwatch.store import StoredRun
from distwatch.store.locations import location_of
from distwatch.store.reader import Worker
from distwatch.store.schema import CLOSED

#: Seconds to wait before a failed read is repeated, since a file may be being replaced.
_AGAIN = (0.1, 0.3, 0.6, 1.0, 2.0)

#: Seconds without anything new after which a worker that wrote no row is no longer waited
#: for, once all others have ended.
_GIVE_UP = 10.0


@dataclass(frozen=True)
class Wanted:
    """What of a run is followed: see ``distwatch tail --help``."""

    phase: str | None = None
    signals: tuple[str, ...] = ()
    statistic: str = "l2"
    last: int = 512


@dataclass(frozen=True)
class WorkerLook:
    """The progress of one worker."""

    number: int
    replicas: tuple[int, ...]
    steps: int
    behind: int
    #: As `StoredRun.ended`.
    ended: str | None


@dataclass(frozen=True)
class Look:
    """The state of a run at one moment. What is not known is None."""

    path: str
    strategy: str
    phase: str
    replicas: tuple[int, ...]
    steps: int
    last_step: int | None
    lost: int
    steps_per_second: float | None
    rows_per_second: float | None
    #: Seconds since something new was committed.
    quiet: float
    nbytes: int | None
    free: int | None
    #: What ended the writing, as `StoredRun.ended`; None while a worker may still write.
    ended: str | None
    workers: tuple[WorkerLook, ...]
    #: How many workers have written no row.
    absent: int
    statistic: str
    signals: tuple[SignalLook, ...]


class Display(Protocol):
    """Where looks go."""

    def waiting(self, path: str) -> None:
        """There is no run yet."""

    def show(self, look: Look) -> None:
        """The run as it is now."""

    def ended(self, look: Look) -> None:
        """The final state of the run."""


def follow(
    follower: Follower,
    opened: AbstractContextManager[Display],
    *,
    interval: float = 2.0,
    once: bool = False,
    wait: bool = False,
) -> None:
    """Show a run until it is ended.

    Args:
        follower: what looks at it.
        opened: where it is shown.
        interval: seconds between two looks.
        once: look once, whether it is ended or not.
        wait: for a run that is not there yet.

    Raises:
        DistwatchError: there is no such run, signal or statistic; the run was deleted or
            overwritten; it is damaged.
    """
    # Refusals come before the screen changes.
    look = None if wait else follower.look()
    with opened as display:
        while look is None:
            if follower.is_there():
                look = follower.look()
            else:
                display.waiting(follower.path)
                time.sleep(interval)
        while not once and look.ended is None:
            display.show(look)
            time.sleep(interval)
            look = follower.look()
        if look.ended is None:
            display.show(look)
        else:
            display.ended(look)


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
        self._clock = clock
        self._pace = Pace()
        self._scales = Scales(clock)
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
            if not _is_taken(self.path):
                return False
        # A run may be being created there.
        return bool(self._retried(self._has_started, patient=True))

    def look(self) -> Look:
        """The run as it is now.

        Raises:
            NotARunError: there is none, or it was deleted or overwritten since.
            DistwatchError: it is damaged, or has no such signal, phase or statistic.
        """
        known = self._identity is not None
        try:
            look: Look = self._retried(self._look, patient=known)
        except NotARunError as error:
            if not known or isinstance(error, _ReplacedError):
                raise
            raise NotARunError(
                f"{self.path} was deleted, or moved away, while it was followed."
            ) from error
        return look

    def _has_started(self) -> bool:
        """Whether the wanted phase has rows, or none is wanted before others."""
        try:
            StoredRun(self.path, self._phase)
        except ConfigError:
            if self._phase not in PHASES or StoredRun(self.path).ended is not None:
                raise
            return False
        return True

    def _retried(self, read: Callable[[], Any], *, patient: bool) -> Any:
        """Read, and retry if that fails: a writer may be between two files.

        A deletion takes time, and looks like damage until it is complete.
        """
        for pause in _AGAIN if patient else _AGAIN[:2]:
            try:
                return read()
            except (SetupError, FormatVersionError, _ReplacedError):
                raise
            except NotARunError:
                if not patient:
                    raise
            except Exception:
                # The last attempt, below, raises what is still wrong.
                pass
            time.sleep(pause)
        return read()

    def _look(self) -> Look:
        stored = self._open()
        workers = _workers(stored)
        ended = self._ended(stored, workers)
        signals, last_step = self._signals(stored, over=ended is not None)
        now = self._clock()
        rows = sum(table.steps * len(table.replicas) for table in stored.tables.values())
        self._pace.observe(now, stored.steps, rows)
        pace = self._pace.per_second(now) or (None, None)
        return Look(
            path=str(stored.path),
            strategy=stored.info.strategy,
            phase=stored.info.phase,
            replicas=tuple(stored.info.replicas),
            steps=stored.steps,
            last_step=last_step,
            lost=stored.lost,
            steps_per_second=pace[0],
            rows_per_second=pace[1],
            quiet=self._pace.quiet(now),
            nbytes=self._scales.weigh(lambda: stored.nbytes, at_once=ended is not None),
            free=free_space(self.path),
            ended=ended,
            workers=workers,
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

    def _ended(self, stored: StoredRun, workers: tuple[WorkerLook, ...]) -> str | None:
        """What ended the run; None while one of its workers may still write."""
        if not workers or any(worker.ended is None for worker in workers):
            return None
        quiet = self._pace.quiet(self._clock())
        return None if _absent(stored) and quiet < _GIVE_UP else stored.ended

    def _signals(
        self, stored: StoredRun, *, over: bool
    ) -> tuple[tuple[SignalLook, ...], int | None]:
        """The signals and the last step, read again only if there is something new."""
        there = (over, *_fingerprint(stored))
        if self._read[0] != there:
            tables = list(stored.tables.values())
            wanted, names = self._wanted, stored.info.names
            chosen = set(names_matching(wanted.signals, names, self.path)) if tables else set()
            if tables:
                check_statistic(wanted.statistic, [each.table for each in tables])
            looks = [
                look
                for table in tables
                for look in look_at(
                    table, chosen, statistic=wanted.statistic, last=wanted.last, over=over
                )
            ]
            self._read = there, tuple(looks), _last_step(stored)
        return self._read[1:]


class _ReplacedError(NotARunError):
    """The followed run was replaced by another one."""


def _is_taken(path: str) -> bool:
    """Whether something is there that Watch would refuse to replace."""
    return not location_of(path).is_free()


def _fingerprint(stored: StoredRun) -> tuple[object, ...]:
    return tuple(
        (segment.name, name, table.steps, table.lost)
        for segment in stored.segments
        for name, table in segment.tables.items()
    )


def _last_step(stored: StoredRun) -> int | None:
    last = [
        int(table.read("step", slice(table.steps - 1, table.steps))[0])
        for table in stored.tables.values()
        if table.steps
    ]
    return max(last, default=None)


def _absent(stored: StoredRun) -> int:
    return max(0, stored.info.workers - len(stored.workers)) if stored.workers else 0


def _workers(stored: StoredRun) -> tuple[WorkerLook, ...]:
    return tuple(
        WorkerLook(
            number=worker.info.worker,
            replicas=tuple(worker.info.replicas),
            steps=worker.steps,
            behind=stored.steps - worker.steps,
            ended=_end_of(worker),
        )
        for worker in stored.workers
    )


def _end_of(worker: Worker) -> str | None:
    """What ended a worker's writing: the worst that its tables say; None while it goes on."""
    said = [table.ended for table in worker.latest.tables.values()]
    ends = sorted((each for each in said if each), key=lambda end: (end == CLOSED, end))
    return ends[0] if ends and len(ends) == len(said) else None
