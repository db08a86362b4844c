"""One process at a time writes a worker's part of a run: by a lock, checked at every commit.

The lock is a file in the run, one for each worker. Where the operating system locks files, it
knows whether the process that locked this one is still there, however it ended. That is only
known within one kernel and one mounted file system: a lock that was made elsewhere, as by
another host on a network share or in a bucket, counts as given up when its holder has not
renewed it for `STALE` seconds.

Rejected: the number of a process, which means nothing in another container; lists of the file
systems that are local; a lock file beside the run, which does not move along with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

from distwatch.errors import RunInUseError, RunInUseWarning, RunTakenError, StoreError
from distwatch.store.lock_files import LockedError, LockFile, LockObject
from distwatch.text import printable

if TYPE_CHECKING:
    from distwatch.store.locations import Location

#: A lock that nobody renews for so many seconds was left by a process that is gone.
STALE = 60.0

#: How often a holder renews its lock, in seconds.
RENEWAL = 15.0

#: No two clocks differ by so many seconds: what was renewed longer ago is not waited for.
_CLOCKS = 600.0

#: How often a lock is looked at to see whether it is renewed, and how long two who took a
#: lock at once wait to see who was last.
_LOOK = 0.5

#: How long a release waits for what is being written, in seconds.
_RELEASE = 1.0

_NAME = re.compile(r"worker-[0-9]{4,16}\.lock")


@dataclass(frozen=True)
class Holder:
    """What a lock says of who holds it."""

    #: Random, and different for each lock.
    token: str
    #: The random name of the run that is or will be written.
    run: str
    host: str
    process: int
    #: When it was taken and last renewed, by the holder's clock: seconds since 1970.
    since: float
    renewed: float
    #: Where a lock of the operating system would be seen; empty if there is none.
    domain: str = ""

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"process {self.process} on host {printable(self.host)}, since {since}"

    def written(self) -> bytes:
        """As the lock's content."""
        return json.dumps(asdict(self)).encode()


def lock_name(worker: int) -> str:
    """The key of a worker's lock within its run."""
    return f"worker-{worker:04d}.lock"


def is_lock_name(name: str) -> bool:
    """Whether a name in a run is that of a lock."""
    return _NAME.fullmatch(name) is not None


def holder_of(content: bytes | None) -> Holder | None:
    """What a lock says; None if it is not there, or says nothing that can be understood."""
    try:
        said = json.loads(content or b"")
        found = Holder(**{field.name: said[field.name] for field in fields(Holder)})
        time.gmtime(found.since)
    except (ValueError, LookupError, TypeError, OverflowError, OSError, RecursionError):
        return None
    texts = (found.token, found.run, found.host, found.domain)
    numbers = (found.process, found.since, found.renewed)
    known = all(isinstance(x, str) for x in texts)
    return found if known and all(isinstance(x, (int, float)) for x in numbers) else None


def is_renewed(content: bytes | None) -> bool:
    """Whether a lock's content says that it was renewed just now, so that a run is written."""
    holder = holder_of(content)
    return holder is not None and abs(time.time() - holder.renewed) < STALE


class RunLock:
    """The lock on one worker's part of a run, held by this process until it is released.

    Args:
        location: the run's.
        worker: whose part.
        run: the random name of the run that will be written.
        takes_over: whether to take it from another Watch of this process, and to wait to see
            whether a holder is gone. Otherwise both are refused.

    Raises:
        RunInUseError: another process holds it.
        OSError: it cannot be made.
    """

    def __init__(self, location: Location, worker: int, run: str, *, takes_over: bool) -> None:
        now = time.time()
        self._where = location.address
        self._location = location
        #: The key of its file.
        self.name = lock_name(worker)
        self._said = Holder(
            secrets.token_hex(16), run, socket.gethostname(), os.getpid(), now, now
        )
        #: Held while something is written, so that a lock is not taken away meanwhile.
        self._writing = threading.RLock()
        #: Why it is not held any more.
        self._lost: str | None = None
        self._ended = threading.Event()
        self._file = self._taken(takes_over)
        _held[self._said.token] = self
        threading.Thread(target=self._renew, name="distwatch-lock", daemon=True).start()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Around what is written: the lock is held, and is not given to another meanwhile.

        Raises:
            RunTakenError: the run is not at its path any more, or another one writes it.
        """
        with self._writing:
            self._check()
            try:
                yield
            except OSError:
                # It may have been moved meanwhile.
                self._check()
                raise

    def _check(self) -> None:
        if self._lost is None:
            self._lost = self._why_lost()
        if self._lost is not None:
            raise RunTakenError(f"{self._where} {self._lost}; nothing more is written there.")

    def release(self) -> None:
        """Give the lock up, and take its file away."""
        if _held.pop(self._said.token, None) is None:
            return
        self._ended.set()
        # A disk that hangs may hold it for ever; then the lock stays until the process ends.
        if not self._writing.acquire(timeout=_RELEASE):
            return
        with contextlib.suppress(StoreError, OSError):
            lost = self._lost is not None or self._why_lost() is not None
            self._lost = self._lost or "was released"
            self._file.close(remove=not lost)
        self._writing.release()

    def hand_over(self) -> LockFile | LockObject:
        """Give the lock to another Watch of this process: what is written here, ends."""
        _held.pop(self._said.token, None)
        self._ended.set()
        with self._writing:
            self._lost = self._lost or "is written by another Watch of this process now"
        return self._file

    def forget(self) -> None:
        """Drop the lock in a forked child: its parent holds it, and alone writes."""
        # The child's copy would hold the lock after the parent is gone.
        self._lost = "is written by the process that this one was forked from"
        self._writing = threading.RLock()
        with contextlib.suppress(OSError):
            self._file.close(remove=False)

    def _taken(self, takes_over: bool) -> LockFile | LockObject:
        try:
            file = self._location.lock_file(self.name, self._said.written())
        except LockedError as error:
            file = self._from_this_process(error, takes_over)
        try:
            if not file.is_new and _content(file):
                self._await_end(file, takes_over)
            self._said = replace(self._said, domain=file.domain if file.is_locked else "")
            file.write(self._said.written())
            self._check_is_alone(file)
        except BaseException:
            file.close(remove=False)
            raise
        return file

    def _from_this_process(self, error: LockedError, takes_over: bool) -> LockFile | LockObject:
        """The file of a lock that the system does not give: one that this process has."""
        before = holder_of(self._location.read(self.name))
        mine = _held.get(before.token) if before else None
        if mine is None or not takes_over:
            raise self._in_use(before) from error
        return mine.hand_over()

    def _await_end(self, file: LockFile | LockObject, takes_over: bool) -> None:
        """Wait until a lock was not renewed for so long that its holder must be gone."""
        before = holder_of(file.read())
        mine = _held.get(before.token) if before else None
        if mine is not None and takes_over:
            mine.hand_over()
            return
        if mine is None and before and (_is_seen_gone(file, before) or _is_long_ago(before)):
            return
        if not takes_over:
            raise self._in_use(before)
        warnings.warn(
            f"{self._where} may still be written by {before or 'another process'}: waiting "
            f"up to {STALE:.0f} seconds to see whether it is.",
            RunInUseWarning,
            stacklevel=2,
        )
        content, until = file.read(), time.monotonic() + STALE
        while time.monotonic() < until:
            time.sleep(_LOOK)
            if file.read() != content:
                raise self._in_use(holder_of(file.read()) or before)

    def _check_is_alone(self, file: LockFile | LockObject) -> None:
        """Of several who found a lock given up, the last one who wrote it has it."""
        if not (file.is_new or file.is_locked):
            time.sleep(_LOOK)
            now = holder_of(file.read())
            if now is None or now.token != self._said.token:
                raise self._in_use(now)

    def _in_use(self, holder: Holder | None) -> RunInUseError:
        by = holder or "another process, which does not say which"
        return RunInUseError(
            f"{self._where} is being written by {by}. Wait until it has ended, or choose "
            "another path."
        )

    def _why_lost(self) -> str | None:
        if not self._file.is_in_place():
            return "is no longer the folder that was claimed: it was moved, deleted or replaced"
        now = holder_of(self._file.read())
        if now is None or now.token != self._said.token:
            return f"was taken by {now or 'another process'}"
        return None

    def _renew(self) -> None:
        while not self._ended.wait(RENEWAL):
            with self._writing, contextlib.suppress(Exception):
                if self._lost is None and self._why_lost() is None:
                    self._said = replace(self._said, renewed=time.time())
                    self._file.write(self._said.written())


def _content(file: LockFile | LockObject) -> bytes | None:
    """What a lock says; nothing if it is left by one who made it and could not lock it."""
    found = file.read()
    if found == b"":
        time.sleep(_LOOK)
        found = file.read()
    return found


def _is_seen_gone(file: LockFile | LockObject, before: Holder) -> bool:
    """Whether the system would show its lock here if it were held, and does not."""
    return file.is_locked and before.domain == file.domain


def _is_long_ago(before: Holder) -> bool:
    return abs(time.time() - before.renewed) > _CLOCKS


#: The locks of this process, by their tokens.
_held: dict[str, RunLock] = {}


def _forget() -> None:
    while _held:
        _held.popitem()[1].forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
