"""Where runs lie: folders, memory and buckets, each of them a Zarr store.

Zarr reads and writes the arrays. What a location adds is what Zarr does not ask of a
store: claiming a place, listing the segments there, sizes, and clearing away.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from distwatch.addresses import Address, address_of, scheme_of
from distwatch.errors import (
    ConfigError,
    DistwatchError,
    NotARunError,
    UnreachableError,
)
from distwatch.store.syncing import SyncedStore

T = TypeVar("T")

ROOT_DOCUMENT = "zarr.json"


class Location(Protocol):
    """Where a run lies, or will; ``key`` is a path in it, of names between slashes."""

    address: Address

    def store(self, *, synced: bool = False, read_only: bool = False) -> Store:
        """What Zarr reads and writes there; ``synced`` waits for the disk itself."""

    def read(self, key: str) -> bytes | None:
        """What is at ``key``; None if nothing is."""

    def size(self, key: str) -> int | None:
        """How many bytes are at ``key``; None if nothing is."""

    def children(self, path: str = "") -> list[str]:
        """The names that are there below a path, in order; none where there is nothing."""

    def delete(self, path: str) -> None:
        """Remove everything below a path."""

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is there."""

    def is_free(self) -> bool:
        """Whether there is nothing, so that a run may be begun."""

    def prepare(self) -> None:
        """Make it ready to be written, where there is nothing yet."""

    def clear(self) -> None:
        """Remove everything that is there, but not the location."""

    def remove(self) -> None:
        """Remove the location with everything in it."""

    def sweep(self) -> None:
        """Remove what a crash left half written, under names that Zarr never reads."""

    def is_writable(self) -> bool:
        """Whether this process may write there."""

    def reached(self) -> contextlib.AbstractContextManager[None]:
        """Within it, an error of the way there is one of ours.

        Raises:
            UnreachableError: the location did not answer, or refused to.
        """

    def check_is_there(self) -> None:
        """Say that no run can be here, where that can be told at once.

        Raises:
            NotARunError: there is no such place.
        """


def location_of(address: str | Path) -> Location:
    """Find what a path or URL leads to; nothing there is touched.

    Raises:
        ConfigError: it is a URL that cannot be understood, or a library is missing.
    """
    address = address_of(address)
    scheme = scheme_of(address)
    if scheme is None:
        return Folder(Path(address))
    if scheme == "memory":
        return Bucket(str(address), _memory.setdefault(str(address), MemoryStore()))
    return Bucket(str(address), _object_store(str(address)))


#: Runs in memory, which live as long as the process.
_memory: dict[str, MemoryStore] = {}


class Folder:
    """A run on a disk of this machine, or one that is mounted."""

    def __init__(self, path: Path) -> None:
        self.address: Address = path
        self._path = path

    def store(self, *, synced: bool = False, read_only: bool = False) -> Store:
        if synced:
            return SyncedStore(self._path)
        return LocalStore(self._path, read_only=read_only)

    def read(self, key: str) -> bytes | None:
        try:
            return (self._path / key).read_bytes()
        except FileNotFoundError:
            return None

    def size(self, key: str) -> int | None:
        try:
            return (self._path / key).stat().st_size
        except FileNotFoundError:
            return None

    def children(self, path: str = "") -> list[str]:
        try:
            return sorted(child.name for child in (self._path / path).iterdir())
        except FileNotFoundError:
            return []

    def delete(self, path: str) -> None:
        shutil.rmtree(self._path / path)

    @property
    def nbytes(self) -> int:
        total = 0
        for file in self._path.rglob("*"):
            # A writer may take a temporary file away in between.
            with contextlib.suppress(FileNotFoundError):
                total += file.stat().st_size if file.is_file() else 0
        return total

    def is_free(self) -> bool:
        # Also a file may lie there, which has no children.
        return not self._path.exists() or (self._path.is_dir() and not self.children())

    def prepare(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        # Away in one rename, so that an interrupted deletion leaves no half of a run.
        doomed = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}.deleted")
        self._path.rename(doomed)
        shutil.rmtree(doomed)
        self._path.mkdir()

    def remove(self) -> None:
        shutil.rmtree(self._path)

    def sweep(self) -> None:
        for partial in self._path.rglob("*.partial"):
            partial.unlink(missing_ok=True)

    def is_writable(self) -> bool:
        return os.access(self._path, os.W_OK)

    def reached(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def check_is_there(self) -> None:
        if not self._path.is_dir():
            raise NotARunError(f"{self._path} is no distwatch run: there is no such folder.")


class Bucket:
    """A run that lies elsewhere, under names that only look like folders.

    Args:
        url: its URL.
        store: what Zarr reaches it by.
    """

    def __init__(self, url: str, store: Store) -> None:
        self.address: Address = url
        self._store = store

    def store(self, *, synced: bool = False, read_only: bool = False) -> Store:
        # What an object store has confirmed needs no syncing.
        return self._store.with_read_only(read_only)

    def read(self, key: str) -> bytes | None:
        found = self._do(self._store.get(key, default_buffer_prototype()))
        return None if found is None else found.to_bytes()

    def size(self, key: str) -> int | None:
        async def size() -> int | None:
            try:
                return await self._store.getsize(key)
            except FileNotFoundError:
                return None

        return self._do(size())

    def children(self, path: str = "") -> list[str]:
        async def names() -> list[str]:
            return [name async for name in self._store.list_dir(path)]

        return sorted(self._do(names()))

    def delete(self, path: str) -> None:
        self._do(self._store.delete_dir(path))

    @property
    def nbytes(self) -> int:
        return self._do(self._store.getsize_prefix(""))

    def is_free(self) -> bool:
        return not self.children()

    def prepare(self) -> None:
        pass  # Nothing has to be there for a name to begin with.

    def clear(self) -> None:
        async def delete() -> None:
            keys = [key async for key in self._store.list()]
            # The root's document last: until then it can be seen that this was a run.
            for key in sorted(keys, key=lambda key: key == ROOT_DOCUMENT):
                await self._store.delete(key)

        self._do(delete())

    def remove(self) -> None:
        self.clear()

    def sweep(self) -> None:
        pass  # What is put there is there whole or not at all.

    def is_writable(self) -> bool:
        trial = f".{uuid.uuid4().hex}.trial"
        content = default_buffer_prototype().buffer.from_bytes(b"distwatch")
        try:
            self._do(self._store.set(trial, content))
            self._do(self._store.delete(trial))
        except DistwatchError:
            return False
        return True

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        try:
            yield
        except _unreachable() as error:
            raise UnreachableError(
                f"{self.address} cannot be reached ({type(error).__name__}: "
                f"{_first_line(error)}); check the URL, the network and the credentials."
            ) from error

    def check_is_there(self) -> None:
        pass  # Only a document that is read tells.

    def _do(self, asked: Coroutine[Any, Any, T]) -> T:
        with self.reached():
            return sync(asked)


def _object_store(url: str) -> Store:
    try:
        from obstore.store import from_url
        from zarr.storage import ObjectStore
    except ImportError as error:
        raise ConfigError(
            f"{url}: this kind of place needs a library more: pip install 'distwatch[cloud]'."
        ) from error
    try:
        return ObjectStore(from_url(url))
    except Exception as error:
        raise ConfigError(
            f"{url}: it cannot be used ({_first_line(error)}); known are paths, memory://, "
            "s3://, gs://, az:// and the other URLs of obstore."
        ) from error


def _unreachable() -> tuple[type[Exception], ...]:
    """What a library raises that cannot reach a bucket; only where it is in use."""
    try:
        from obstore.exceptions import BaseError
    except ImportError:
        return ()
    # A bucket that is missing is told of like a file.
    return (BaseError, FileNotFoundError)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
