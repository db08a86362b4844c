"""Where runs lie: folders, memory and buckets, each of them a Zarr store.

Zarr reads and writes the arrays. What a location adds is what Zarr does not ask of a
store: claiming a place, listing the segments there, sizes, and clearing away.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from zarr.abc.store import RangeByteRequest, Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from distwatch.errors import (
    ConfigError,
    DamagedStoreError,
    DistwatchError,
    NotARunError,
    UnreachableError,
)
from distwatch.store.addresses import Address, address_of, scheme_of
from distwatch.store.syncing import SyncedStore

T = TypeVar("T")

ROOT_DOCUMENT = "zarr.json"


class Location(Protocol):
    """Where a run lies, or will; ``key`` is a path in it, of names between slashes."""

    address: Address

    def store(self, *, synced: bool = False, read_only: bool = False) -> Store:
        """What Zarr reads and writes there; ``synced`` waits for the disk itself."""

    def read(self, key: str, most: int | None = None) -> bytes | None:
        """What is at ``key``, at most so many bytes of it; None if nothing is."""

    def size(self, key: str) -> int | None:
        """How many bytes are at ``key``; None if nothing is."""

    def may_be_read(self, key: str) -> bool:
        """Whether what is at ``key``, if there is anything, is a file of the run.

        Raises:
            DamagedStoreError: it is a link to elsewhere.
        """

    def children(self, path: str = "") -> list[str]:
        """The names that are there below a path, in order; none where there is nothing."""

    def delete(self, path: str) -> None:
        """Remove everything below a path."""

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is there."""

    def size_below(self, path: str) -> int:
        """Bytes of everything below a path."""

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
    """A run on a disk of this machine, or one that is mounted.

    It may be anybody's: links that lead out of it are not followed, neither to read nor to
    delete, and what is no plain file (a pipe, which would never end) is not there.
    """

    def __init__(self, path: Path) -> None:
        self.address: Address = path
        self._path = path
        #: Folders that were found to lie in the run.
        self._within: set[Path] = set()

    def store(self, *, synced: bool = False, read_only: bool = False) -> Store:
        if synced:
            return SyncedStore(self._path)
        return LocalStore(self._path, read_only=read_only)

    def read(self, key: str, most: int | None = None) -> bytes | None:
        if self._file(key) is None:
            return None
        try:
            with (self._path / key).open("rb") as file:
                return file.read(most)
        except FileNotFoundError:
            return None

    def size(self, key: str) -> int | None:
        found = self._file(key)
        return None if found is None else found.st_size

    def may_be_read(self, key: str) -> bool:
        return self._file(key) is not None

    def children(self, path: str = "") -> list[str]:
        self._check_within(self._path / path)
        try:
            return sorted(child.name for child in (self._path / path).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(self._path / path, error) from error

    def delete(self, path: str) -> None:
        doomed = self._path / path
        self._check_within(doomed.parent)
        if doomed.is_dir() and not doomed.is_symlink():
            shutil.rmtree(doomed)
        else:
            doomed.unlink()

    @property
    def nbytes(self) -> int:
        return self.size_below("")

    def size_below(self, path: str) -> int:
        total, folders = 0, [os.fspath(self._path / path)]
        while folders:
            # A writer may take a temporary file away in between, or a replaced table.
            with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):
                            total += entry.stat(follow_symlinks=False).st_size
        return total

    def _file(self, key: str) -> os.stat_result | None:
        """The plain file at ``key``; None if there is none.

        Raises:
            DamagedStoreError: it lies outside of the run.
            UnreachableError: it cannot be told.
        """
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
            if not partial.is_dir() or partial.is_symlink():
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

    def read(self, key: str, most: int | None = None) -> bytes | None:
        asked = None if most is None else RangeByteRequest(0, most)
        found = self._do(self._store.get(key, default_buffer_prototype(), asked))
        return None if found is None else found.to_bytes()

    def may_be_read(self, key: str) -> bool:
        return True  # Here is nothing but files.

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
        return self.size_below("")

    def size_below(self, path: str) -> int:
        return self._do(self._store.getsize_prefix(path))

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


def _unreadable(path: Path, error: OSError) -> UnreachableError:
    return UnreachableError(f"{path} cannot be read ({error.strerror or error}).")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
