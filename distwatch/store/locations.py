"""Where runs lie: folders, memory and buckets.

A location reads, writes, lists and removes files; Zarr reads the chunks of arrays through
its ``get``. A ``key`` is the path of a file within the location: names between slashes.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from distwatch.errors import ConfigError, DistwatchError, UnreachableError
from distwatch.store.addresses import Address, address_of, scheme_of
from distwatch.store.appended_files import AppendedObject, Writing
from distwatch.store.folders import Folder
from distwatch.store.lock_files import LockObject
from distwatch.store.locking import is_lock_name

T = TypeVar("T")

ROOT_DOCUMENT = "zarr.json"

#: Bytes that may wait in memory to be written to a bucket.
_BATCH_BYTES = 16 * 2**20


class Bucket:
    """Names in a bucket or in memory that only look like folders.

    Its methods are those of `Folder`; each of them raises UnreachableError where the bucket
    does not answer, or refuses to.

    Args:
        url: its URL.
        store: what Zarr reaches it by. What an object store has confirmed needs no syncing.
    """

    def __init__(self, url: str, store: Store) -> None:
        self.address: Address = url
        self.store = store

    def write(self, items: Iterable[tuple[str, bytes]]) -> None:
        """Write files, given as key and content; returns, or raises, when none is under way."""
        remaining = iter(items)
        while batch := list(_batch(remaining)):
            self._do(self._write_all(batch))

    async def _write_all(self, items: list[tuple[str, bytes]]) -> None:
        room = asyncio.Semaphore(zarr.config.get("async.concurrency"))

        async def write(key: str, content: bytes) -> None:
            async with room:
                buffer = default_buffer_prototype().buffer
                await self.store.set(key, buffer.from_bytes(content))

        # All of them are waited for: a commit must not race with a chunk of a failed block.
        ends = await asyncio.gather(*(write(*item) for item in items), return_exceptions=True)
        for error in filter(None, ends):
            raise error

    def read(self, key: str, most: int | None = None) -> bytes | None:
        """The content of a file, at most ``most`` bytes of it; None if there is none."""
        asked = None if most is None else RangeByteRequest(0, most)
        found = self._do(self.store.get(key, default_buffer_prototype(), asked))
        return None if found is None else found.to_bytes()

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None
    ) -> Buffer | None:
        """What Zarr reads of a file; None if there is none."""
        with self._reaching():
            return await self.store.get(key, prototype, byte_range)

    def size(self, key: str) -> int | None:
        """Bytes of a file; None if there is none."""

        async def size() -> int | None:
            try:
                return await self.store.getsize(key)
            except FileNotFoundError:
                return None

        return self._do(size())

    def children(self, path: str = "") -> list[str]:
        """The names below a path, sorted; none where there is nothing."""

        async def names() -> list[str]:
            return [name async for name in self.store.list_dir(path)]

        return sorted(self._do(names()))

    def delete(self, path: str) -> None:
        """Remove everything below a path."""
        self._do(self.store.delete_dir(path))

    def size_below(self, path: str = "") -> int:
        """Bytes of all files below a path; of the whole location by default."""
        return self._do(self.store.getsize_prefix(path))

    def exists(self) -> bool:
        """Whether a run may be here; only reading shows it."""
        return True

    def is_free(self) -> bool:
        """Whether nothing but locks is here, so that a run may be created."""
        return all(map(is_lock_name, self.children()))

    def make(self) -> bool:
        """Do nothing: there are no folders."""
        return False

    def unmake(self) -> None:
        """Do nothing."""

    def make_file(self, key: str, content: bytes) -> None:
        """Write a file unless it is there; of several writers one does."""
        buffer = default_buffer_prototype().buffer
        self._do(self.store.set_if_not_exists(key, buffer.from_bytes(content)))

    def delete_file(self, key: str) -> None:
        """Remove one file, if it is there."""
        self._do(self.store.delete(key))

    def lock_file(self, name: str, content: bytes) -> LockObject:
        """Find, or make, a lock file."""
        return LockObject(self, name, content)

    def appended_file(self, name: str, writing: Writing) -> AppendedObject:
        """A file that grows; ``writing`` is around each write."""
        return AppendedObject(self, name, writing)

    def renew(self, document: tuple[str, bytes], keep: Iterable[str]) -> None:
        """Put a document in the place of another one, and delete all else but ``keep``."""
        self._remove_but({document[0], *keep})
        self.write([document])

    def remove(self) -> None:
        """Remove the location with everything in it."""
        self._remove_but(set())

    def _remove_but(self, keep: set[str]) -> None:
        async def delete() -> None:
            keys = [key async for key in self.store.list()]
            # The root's document last: until then this can be seen to be a run.
            for key in sorted(set(keys) - keep, key=lambda key: key == ROOT_DOCUMENT):
                await self.store.delete(key)

        self._do(delete())

    def sweep(self) -> None:
        """Do nothing: a file is there whole or not at all."""

    def is_writable(self) -> bool:
        """Whether this process may write here."""
        trial = f".{uuid.uuid4().hex}.trial"
        try:
            self.write([(trial, b"distwatch")])
            self._do(self.store.delete(trial))
        except DistwatchError:
            return False
        return True

    def is_ours(self, key: str) -> bool:
        """Whether this process's user owns a file; of a bucket that is not known."""
        return False

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except _unreachable() as error:
            raise UnreachableError(
                f"{self.address} cannot be reached ({type(error).__name__}: "
                f"{_first_line(error)}); check the URL, the network and the credentials."
            ) from error

    def _do(self, asked: Coroutine[Any, Any, T]) -> T:
        with self._reaching():
            return sync(asked)


Location = Folder | Bucket

#: Runs in memory, which live as long as the process.
_memory: dict[str, MemoryStore] = {}


def location_of(address: str | Path, *, synced: bool = False) -> Location:
    """Find what a path or URL leads to; nothing there is touched.

    Args:
        address: a path or URL.
        synced: whether what is written waits until the disk itself has it.

    Raises:
        ConfigError: it is a URL that cannot be understood, or a library is missing.
    """
    address = address_of(address)
    scheme = scheme_of(address)
    if scheme is None:
        return Folder(Path(address), synced=synced)
    if scheme == "memory":
        return Bucket(str(address), _memory.setdefault(str(address), MemoryStore()))
    return Bucket(str(address), _object_store(str(address)))


def _object_store(url: str) -> Store:
    try:
        from obstore.store import from_url
        from zarr.storage import ObjectStore
    except ImportError as error:
        raise ConfigError(
            f"{url}: this kind of place needs another library: pip install 'distwatch[cloud]'."
        ) from error
    try:
        return ObjectStore(from_url(url))
    except Exception as error:
        raise ConfigError(
            f"{url}: it cannot be used ({_first_line(error)}); known are paths, memory://, "
            "s3://, gs://, az:// and the other URLs of obstore."
        ) from error


def _batch(items: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The next items, of about `_BATCH_BYTES` together: they are made one by one."""
    size = 0
    for key, content in items:
        yield key, content
        size += len(content)
        if size >= _BATCH_BYTES:
            return


def _unreachable() -> tuple[type[Exception], ...]:
    """What a library raises that cannot reach a bucket; only where it is in use."""
    try:
        from obstore.exceptions import BaseError
    except ImportError:
        return ()
    # A bucket that is missing is reported like a file.
    return (BaseError, FileNotFoundError)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
