"""Where runs lie: folders, memory and buckets.

A location reads, writes, lists and removes files; Zarr reads the chunks of arrays through
its ``get``. A ``key`` is the path of a file within the location: names between slashes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from distwatch.errors import ConfigError, DamagedStoreError, DistwatchError, UnreachableError
from distwatch.store.addresses import Address, address_of, scheme_of

T = TypeVar("T")

ROOT_DOCUMENT = "zarr.json"

#: Bytes that may wait in memory to be written to a bucket.
_BATCH_BYTES = 16 * 2**20


class Folder:
    """A folder on a disk of this machine, or on one that is mounted.

    A run in it may come from anybody: links that lead out of it are not followed, neither to
    read nor to delete, and what is no plain file (a pipe, which would never end) is treated
    as not there. Files are written here and not by Zarr's own store, which never syncs them
    and depends on threads that are gone when the interpreter exits.

    Args:
        path: the folder.
        synced: whether `write` waits until the disk itself has the files.
    """

    def __init__(self, path: Path, *, synced: bool = False) -> None:
        self.address: Address = path
        #: What Zarr reads through.
        self.store: Store = LocalStore(path, read_only=True)
        self._path = path
        self._synced = synced
        #: Folders that were found to lie in the run.
        self._within: set[Path] = set()

    def write(self, items: Iterable[tuple[str, bytes]]) -> None:
        """Write files, given as key and content, each whole or not at all.

        Raises:
            OSError: the first that cannot be written.
        """
        changed: set[Path] = set()
        for key, content in items:
            changed |= self._write_file(self._path / key, content)
        if self._synced:
            for folder in changed:
                _sync_folder(folder)

    def _write_file(self, path: Path, content: bytes) -> set[Path]:
        """Write a file under a temporary name first; returns the folders that changed."""
        made: list[Path] = []
        if not path.parent.is_dir():
            made = [folder.parent for folder in path.parents if not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
        try:
            with partial.open("wb") as file:
                file.write(content)
                if self._synced:
                    file.flush()
                    os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return {path.parent, *made}

    def read(self, key: str, most: int | None = None) -> bytes | None:
        """The content of a file, at most ``most`` bytes of it; None if there is none.

        Raises:
            DamagedStoreError: it lies outside of the run.
            UnreachableError: it cannot be read.
        """
        if self._file(key) is None:
            return None
        try:
            with (self._path / key).open("rb") as file:
                return file.read(most)
        except FileNotFoundError:
            return None

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None
    ) -> Buffer | None:
        """What Zarr reads of a file; None if there is none. Raises as `read` does."""
        if self._file(key) is None:
            return None
        return await self.store.get(key, prototype, byte_range)

    def size(self, key: str) -> int | None:
        """Bytes of a file; None if there is none. Raises as `read` does."""
        found = self._file(key)
        return None if found is None else found.st_size

    def children(self, path: str = "") -> list[str]:
        """The names in a folder, sorted; none where there is no folder.

        Raises:
            DamagedStoreError: it lies outside of the run.
            UnreachableError: it cannot be read.
        """
        self._check_within(self._path / path)
        try:
            return sorted(child.name for child in (self._path / path).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(self._path / path, error) from error

    def delete(self, path: str) -> None:
        """Remove a file, a link, or a folder with everything in it.

        Raises:
            DamagedStoreError: it lies outside of the run.
        """
        doomed = self._path / path
        self._check_within(doomed.parent)
        if doomed.is_dir() and not doomed.is_symlink():
            shutil.rmtree(doomed)
        else:
            doomed.unlink()

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return self.size_below("")

    def size_below(self, path: str) -> int:
        """Bytes of all files below a path."""
        total, folders = 0, [os.fspath(self._path / path)]
        while folders:
            # A writer may remove a temporary file meanwhile, or a replaced table.
            with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):
                            total += entry.stat(follow_symlinks=False).st_size
        return total

    def exists(self) -> bool:
        """Whether a run may be here; False only where that is known without reading."""
        return self._path.is_dir()

    def is_free(self) -> bool:
        """Whether nothing is here, so that a run may be created."""
        # Also a file may be here, which has no children.
        return not self._path.exists() or (self._path.is_dir() and not self.children())

    def remove(self) -> None:
        """Remove the location with everything in it."""
        # Renamed first, so that an interrupted deletion leaves no half of a run.
        doomed = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}.deleted")
        self._path.rename(doomed)
        shutil.rmtree(doomed)

    def sweep(self) -> None:
        """Remove the temporary files that a crash left."""
        for partial in self._path.rglob("*.partial"):
            if not partial.is_dir() or partial.is_symlink():
                partial.unlink(missing_ok=True)

    def is_writable(self) -> bool:
        """Whether this process may write here."""
        return os.access(self._path, os.W_OK)

    def _file(self, key: str) -> os.stat_result | None:
        path = self._path / key
        try:
            found = path.lstat()
            self._check_within(path.parent)
            if stat.S_ISLNK(found.st_mode):
                self._check_within(path)
                found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(path, error) from error
        return found if stat.S_ISREG(found.st_mode) else None

    def _check_within(self, path: Path) -> None:
        if path in self._within:
            return
        leads_to, root = (os.path.realpath(each) for each in (path, self._path))
        if leads_to != root and not Path(leads_to).is_relative_to(root):
            raise DamagedStoreError(
                f"{path} is a link out of the run, to {leads_to}, which is not followed; "
                "copy the run with what its links lead to, as 'cp -rL' does."
            )
        self._within.add(path)


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
        for batch in _batches(items):
            self._do(self._write_all(batch))

    async def _write_all(self, items: list[tuple[str, bytes]]) -> None:
        room = asyncio.Semaphore(zarr.config.get("async.concurrency"))

        async def write(key: str, content: bytes) -> None:
            async with room:
                await self.store.set(key, _buffer(content))

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

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return self.size_below("")

    def size_below(self, path: str) -> int:
        """Bytes of all files below a path."""
        return self._do(self.store.getsize_prefix(path))

    def exists(self) -> bool:
        """Whether a run may be here; only reading shows it."""
        return True

    def is_free(self) -> bool:
        """Whether nothing is here, so that a run may be created."""
        return not self.children()

    def remove(self) -> None:
        """Remove the location with everything in it."""

        async def delete() -> None:
            keys = [key async for key in self.store.list()]
            # The root's document last: until then this can be seen to be a run.
            for key in sorted(keys, key=lambda key: key == ROOT_DOCUMENT):
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


def _batches(items: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Items in lists of about `_BATCH_BYTES`: they are made one by one."""
    batch: list[tuple[str, bytes]] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item[1])
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _buffer(content: bytes) -> Buffer:
    return default_buffer_prototype().buffer.from_bytes(content)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows opens no folders, and needs none synced.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unreachable() -> tuple[type[Exception], ...]:
    """What a library raises that cannot reach a bucket; only where it is in use."""
    try:
        from obstore.exceptions import BaseError
    except ImportError:
        return ()
    # A bucket that is missing is reported like a file.
    return (BaseError, FileNotFoundError)


def _unreadable(path: Path, error: OSError) -> UnreachableError:
    return UnreachableError(f"{path} cannot be read ({error.strerror or error}).")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
