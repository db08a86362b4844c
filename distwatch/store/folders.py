"""Runs in folders: files that are written whole, and read only within the run."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import stat
import uuid
from collections.abc import Iterable
from pathlib import Path

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from distwatch.errors import DamagedStoreError, UnreachableError
from distwatch.store.addresses import Address
from distwatch.store.appended_files import AppendedFile, Writing
from distwatch.store.lock_files import LockFile
from distwatch.store.locking import is_lock_name

#: How the names of folders begin and end whose content is being deleted.
_DOOMED = ".", ".deleted"

#: How often a folder is made once more whose parent another process removes.
_TRIES = 10


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
        self._path = path
        self._text = os.fspath(path)
        self._synced = synced
        #: Folders that `make` made, those that others lie in first.
        self._made: list[Path] = []
        #: Folders that were found to lie in the run.
        self._within: set[str] = set()
        #: Where an absolute path leads to; a relative one depends on the current folder.
        self._root: str | None = None

    @functools.cached_property
    def store(self) -> Store:
        """What Zarr reads through."""
        return LocalStore(self._path, read_only=True)

    def write(self, items: Iterable[tuple[str, bytes]]) -> None:
        """Write files, given as key and content, each whole or not at all.

        Raises:
            OSError: the first that cannot be written; or the folder is not there, which
                `make` makes.
        """
        changed: set[Path] = set()
        for key, content in items:
            changed |= self._write_file(self._path / key, content)
        self._sync(changed)

    def make(self) -> bool:
        """Make the folder, and those that it lies in; False if it is there.

        Raises:
            OSError: it cannot be made.
        """
        # Through a link to where no folder is yet, the folder is made.
        path, before = Path(os.path.realpath(self._path)), len(self._made)
        try:
            self._make_with_parents(path)
        except OSError:
            self.unmake()
            raise
        self._sync({each.parent for each in self._made[before:]})
        return path in self._made[before:]

    def _make_with_parents(self, path: Path) -> None:
        # One by one, so that of several processes each knows what it made itself.
        for left in reversed(range(_TRIES)):
            try:
                path.mkdir()
            except OSError as error:
                if path.is_dir():
                    return
                # Another process may have removed it, or its parent, just now.
                if not left or path == path.parent or os.path.lexists(path):
                    raise
                if isinstance(error, FileNotFoundError):
                    self._make_with_parents(path.parent)
                elif not isinstance(error, FileExistsError):
                    raise
            else:
                self._made.append(path)
                return

    def unmake(self) -> None:
        """Remove the folders that `make` made, but for those that something is in."""
        while self._made:
            # The system removes empty folders only, whoever puts something there meanwhile.
            with contextlib.suppress(OSError):
                self._made.pop().rmdir()

    def renew(self, document: tuple[str, bytes], keep: Iterable[str]) -> None:
        """Put a document in the place of another one, and delete all else.

        It is moved away first, so that an interrupted deletion leaves no half of a run. The
        folder itself stays: a link may lead to it, or a disk be mounted there.

        Args:
            document: its key and content.
            keep: names that stay, too.
        """
        stays = {document[0], *keep}
        doomed = self._path / uuid.uuid4().hex.join(_DOOMED)
        gone = [name for name in self.children() if name not in stays]
        doomed.mkdir()
        for name in gone:
            (self._path / name).rename(doomed / name)
        self.write([document])
        shutil.rmtree(doomed)

    def lock_file(self, name: str, content: bytes) -> LockFile:
        """Open, or make, a lock file. Raises as `LockFile` does."""
        return LockFile(self._path / name, content)

    def appended_file(self, name: str, writing: Writing) -> AppendedFile:
        """Make a file in this folder that grows; ``writing`` is around each write elsewhere."""
        file = AppendedFile(self._path / name, synced=self._synced)
        self._sync({self._path})
        return file

    def _write_file(self, path: Path, content: bytes) -> set[Path]:
        """Write a file under a temporary name first; returns the folders that changed."""
        changed = self._make_folder(path.parent)
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
        return {path.parent, *changed}

    def _make_folder(self, folder: Path) -> set[Path]:
        """Make a folder within this one, never this one: it may have been moved away."""
        if folder == self._path or folder.is_dir():
            return set()
        changed = self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        return {folder.parent, *changed}

    def _sync(self, folders: Iterable[Path]) -> None:
        if self._synced:
            for folder in folders:
                _sync_folder(folder)

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
        self._check_within(f"{self._text}/{path}" if path else self._text)
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
        self._check_within(f"{self._text}/{path}".rpartition("/")[0])
        if doomed.is_dir() and not doomed.is_symlink():
            shutil.rmtree(doomed)
        else:
            doomed.unlink()

    def delete_file(self, key: str) -> None:
        """Remove one file, if it is there."""
        (self._path / key).unlink(missing_ok=True)

    def size_below(self, path: str = "") -> int:
        """Bytes of all files below a path; of the whole location by default."""
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
        """Whether nothing but locks is here, so that a run may be created."""
        # Also a file may be here, which has no children.
        return not self._path.exists() or (
            self._path.is_dir() and all(map(is_lock_name, self.children()))
        )

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        # Renamed first, so that an interrupted deletion leaves no half of a run.
        path = Path(os.path.realpath(self._path))
        doomed = path.with_name(f".{path.name}.{uuid.uuid4().hex}.deleted")
        path.rename(doomed)
        shutil.rmtree(doomed)

    def sweep(self) -> None:
        """Remove the temporary files, and what was being deleted, that a crash left."""
        for doomed in self._path.glob("*".join(_DOOMED)):
            self.delete(doomed.name)
        for partial in self._path.rglob("*.partial"):
            if not partial.is_dir() or partial.is_symlink():
                partial.unlink(missing_ok=True)

    def is_writable(self) -> bool:
        """Whether this process may write here."""
        return os.access(self._path, os.W_OK)

    def is_ours(self, key: str) -> bool:
        """Whether a file is there that this process's user owns, and may write beside."""
        found = self._file(key)
        owner = os.geteuid() if hasattr(os, "geteuid") else 0
        return found is not None and found.st_uid == owner and self.is_writable()

    def _file(self, key: str) -> os.stat_result | None:
        # As text: a list of a thousand runs asks for many files.
        path = f"{self._text}/{key}"
        try:
            found = os.lstat(path)
            self._check_within(path.rpartition("/")[0])
            if stat.S_ISLNK(found.st_mode):
                self._check_within(path)
                found = Path(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(Path(path), error) from error
        return found if stat.S_ISREG(found.st_mode) else None

    def _check_within(self, path: str) -> None:
        if path in self._within:
            return
        if path != self._text and not _may_be_link(path):
            # It lies where the folder that it is in lies.
            self._check_within(path.rpartition("/")[0])
        else:
            self._check_link(path)
        self._within.add(path)

    def _check_link(self, path: str) -> None:
        root = self._root or os.path.realpath(self._text)
        if self._path.is_absolute():
            self._root = root
        leads_to = root if path == self._text else os.path.realpath(path)
        if leads_to != root and not Path(leads_to).is_relative_to(root):
            raise DamagedStoreError(
                f"{path} is a link out of the run, to {leads_to}, which is not followed; "
                "copy the run with what its links lead to, as 'cp -rL' does."
            )


def _may_be_link(path: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return True


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows opens no folders, and needs none synced.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unreadable(path: Path, error: OSError) -> UnreachableError:
    return UnreachableError(f"{path} cannot be read ({error.strerror or error}).")
