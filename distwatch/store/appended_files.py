"""Files that only grow, in folders and in buckets."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distwatch.store.locations import Bucket

#: What is around each write that another process must not see done to its own run.
Writing = Callable[[], AbstractContextManager[Any]]


class AppendedFile:
    """A new file in a folder.

    It stays open: where the run is moved or replaced meanwhile, what is appended goes along
    with the old one, and never into what took its place.

    Args:
        path: the file's.
        synced: whether to wait until the disk itself has what is appended.

    Raises:
        OSError: it is there already, or cannot be made.
    """

    def __init__(self, path: Path, *, synced: bool = False) -> None:
        self._synced = synced
        self._descriptor = os.open(path, _NEW, 0o666)

    def append(self, content: bytes) -> None:
        """Write more behind what is there. Raises OSError."""
        os.write(self._descriptor, content)
        if self._synced:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Release it."""
        os.close(self._descriptor)


class AppendedObject:
    """A file in a bucket or in memory, where nothing is appended: it is replaced by more.

    Args:
        bucket: where it lies.
        key: its key there.
        writing: is around each write.
    """

    def __init__(self, bucket: Bucket, key: str, writing: Writing) -> None:
        self._bucket, self._key, self._writing = bucket, key, writing
        self._content = b""

    def append(self, content: bytes) -> None:
        """Write more behind what is there.

        Raises:
            RunTakenError: the run is another's by now.
            UnreachableError: the bucket does not answer.
        """
        self._content += content
        with self._writing():
            self._bucket.write([(self._key, self._content)])

    def close(self) -> None:
        """Do nothing: nothing is open."""


_NEW = (
    os.O_WRONLY
    | os.O_APPEND
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
