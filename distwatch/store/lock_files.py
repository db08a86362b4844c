"""The files by which processes keep each other off a run: in folders, and in buckets.

A lock file says who holds it. In a folder it is also locked by the operating system, where
that can be done: this lock ends with the process, however it ends.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import stat
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distwatch.store.locations import Bucket

#: Bytes of the longest lock file.
_MOST = 4096


class LockedError(Exception):
    """The operating system says that the file is locked."""


class LockFile:
    """A lock file in a folder, opened or made, and locked where that can be done.

    Args:
        path: the file's.
        content: what it says where it is made.

    Raises:
        LockedError: another one has locked it.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self._descriptor = -1
        #: Whether the operating system holds the lock.
        self.is_locked = False
        #: Whether it was not there before.
        self.is_new = False
        while not self._open():
            pass
        if self.is_new:
            self.write(content)

    def _open(self) -> bool:
        """Open and lock it; False if it was removed meanwhile by who held it."""
        try:
            self._descriptor = os.open(self._path, _READ_WRITE | os.O_CREAT | os.O_EXCL, 0o666)
            self.is_new = True
        except FileExistsError:
            self.is_new = False
            try:
                self._descriptor = os.open(self._path, _READ_WRITE)
            except FileNotFoundError:
                return False
        try:
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise OSError(errno.EINVAL, "no plain file", str(self._path))
            self.is_locked = _lock(self._descriptor)
        except OSError as error:
            self.close(remove=False)
            raise (LockedError if isinstance(error, BlockingIOError) else error) from error
        if self.is_in_place():
            return True
        self.close(remove=False)
        return False

    @property
    def domain(self) -> str:
        """Within which system a lock of the operating system is seen: kernel and file system.

        Containers share both, or do not see each other's locks. Two mounts of one network
        share may be two file systems.
        """
        return f"{_kernel()}:{os.fstat(self._descriptor).st_dev:x}"

    def is_in_place(self) -> bool:
        """Whether this very file is where it was opened: not moved, deleted or replaced."""
        try:
            there, here = self._path.lstat(), os.fstat(self._descriptor)
        except OSError:
            return False
        return os.path.samestat(there, here)

    def read(self) -> bytes | None:
        """What it says; None if it is not there."""
        # Opened anew: on a network share an open file may be read from a cache.
        return read_lock_file(self._path)

    def write(self, content: bytes) -> None:
        """Replace what it says, in place: the lock is on this file, not on its name."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, content.ljust(_MOST))

    def close(self, *, remove: bool) -> None:
        """Give up the lock; with ``remove``, take the file away first if it is in place."""
        if remove and self.is_in_place():
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1


class LockObject:
    """A lock file in a bucket or in memory, where no system locks anything.

    Args:
        bucket: where it lies.
        key: its key there.
        content: what it says where it is made: unlike anything else.
    """

    is_locked = False
    #: No lock of a system is seen anywhere.
    domain = ""

    def __init__(self, bucket: Bucket, key: str, content: bytes) -> None:
        self._bucket, self._key = bucket, key
        bucket.make_file(key, content)
        #: Whether it was not there before.
        self.is_new = self.read() == content

    def is_in_place(self) -> bool:
        """Whether it is still there."""
        return self.read() is not None

    def read(self) -> bytes | None:
        """What it says; None if it is not there."""
        return self._bucket.read(self._key, _MOST)

    def write(self, content: bytes) -> None:
        """Replace what it says."""
        self._bucket.write([(self._key, content)])

    def close(self, *, remove: bool) -> None:
        """With ``remove``, take it away."""
        if remove:
            self._bucket.delete_file(self._key)


def read_lock_file(path: Path) -> bytes | None:
    """What a lock file in a folder says; None if it is not there, or no plain file."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        with path.open("rb") as file:
            return file.read(_MOST)
    except OSError:
        return None


def _lock(descriptor: int) -> bool:
    """Lock an open file; False where the system cannot.

    Raises:
        BlockingIOError: it is locked.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # Some network shares
        return False
    return True


@functools.cache
def _kernel() -> str:
    """A name of this start of this machine, the same in all its containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{socket.gethostname()}-{uuid.getnode():x}"


#: Never through a link, which a stranger may have put there.
_READ_WRITE = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
