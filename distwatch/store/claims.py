"""The claim on a path: from before the first step on, one process may write a run there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distwatch.errors import NotWritableError, RunExistsError, StoreError, UnreachableError
from distwatch.store import requests, schema
from distwatch.store.addresses import Address
from distwatch.store.changes import is_changes_name
from distwatch.store.documents import group_document
from distwatch.store.epochs import is_epochs_name
from distwatch.store.locations import ROOT_DOCUMENT, Location, location_of
from distwatch.store.locking import RunLock, holder_of, is_lock_name, lock_name
from distwatch.store.plans import is_plans_name
from distwatch.store.resuming import is_run, next_start, run_name, sweep
from distwatch.store.tallies import start_noted_in

#: Seconds for which a worker waits until the first one has put the new run in the place of
#: the old one, which it does after the first step.
_SETTLING = 60.0

#: How often it looks.
_LOOK = 0.05


class Claim:
    """A run that this process may write a worker's part of, until the claim is released.

    Args:
        location: the run's.
        lock: on the worker's part.
        run: the run's random name.
        start: which start of the run this is.
        document: the root's, which is written when this is settled; None where it is there.
        is_joined: whether another worker settles the claim.
        made: whether the folder was made for it.
    """

    def __init__(
        self,
        location: Location,
        lock: RunLock,
        run: str,
        *,
        start: int = 0,
        document: bytes | None = None,
        is_joined: bool = False,
        made: bool = False,
    ) -> None:
        self.run = run
        self.start = start
        #: Where the run is.
        self.address = location.address
        self._location = location
        self._lock = lock
        self._document = document
        self._is_joined = is_joined
        self._made = made
        #: Around everything that is written; raises RunTakenError, see `RunLock.writing`.
        self.writing = lock.writing

    @property
    def is_settled(self) -> bool:
        """Whether this is the run at the path."""
        return self._document is None and not self._is_joined

    def settle(self) -> None:
        """Make this the run at the path: an old one is deleted only now, and at once.

        Raises:
            RunTakenError: the path is not this claim's any more.
            NotWritableError: the worker that should do this has not.
        """
        if self._is_joined:
            self._await_settled()
            return
        with self._lock.writing():
            if self._document is not None:
                locks = filter(is_lock_name, self._location.children())
                self._location.renew((ROOT_DOCUMENT, self._document), locks)
                self._document = None

    def release(self, *, undo: bool = False) -> None:
        """Let others write the run.

        Args:
            undo: whether to leave the path as it was found, if no row was written.
        """
        undone = undo and self.start == 0 and self._document is None and not self._is_joined
        if undone:
            # What ended the fit matters more than a file that cannot be removed.
            with contextlib.suppress(StoreError, OSError), self._lock.writing():
                names = set(self._location.children())
                beside = set(filter(_is_beside_rows, names))
                if names - beside == {ROOT_DOCUMENT, self._lock.name}:
                    for name in (*beside, ROOT_DOCUMENT):
                        self._location.delete_file(name)
        self._lock.release()
        if undone and self._made:
            self._location.unmake()

    def _await_settled(self) -> None:
        until = time.monotonic() + _SETTLING
        while run_name(self._location.address) != self.run:
            if time.monotonic() >= until:
                raise NotWritableError(
                    f"{self._location.address} is still another run: worker 0, which claimed "
                    "it, has not begun the new one."
                )
            time.sleep(_LOOK)
        self._is_joined = False


def claim(
    path: str | Path,
    attributes: dict[str, Any],
    *,
    overwrite: bool = False,
    synced: bool = False,
) -> None:
    """Make ``path`` a run without rows. Arguments and errors are those of `claim_new`."""
    claimed = claim_new(path, attributes, overwrite=overwrite, synced=synced)
    with _writable(path):
        claimed.settle()
    claimed.release()


def claim_new(
    path: str | Path,
    attributes: dict[str, Any],
    *,
    overwrite: bool = False,
    synced: bool = False,
) -> Claim:
    """Claim ``path`` for a new run, or say before training why it cannot be one.

    Of several processes that do this at once, one gets it.

    Args:
        path: a folder or URL where nothing is, or (to overwrite) a run.
        attributes: the root group's, from `schema.root_attributes`.
        overwrite: delete the run that is there, when the claim is settled.
        synced: wait until the disk itself has it.

    Raises:
        RunExistsError: something is there already.
        RunInUseError: a run is there that another process writes.
        NotWritableError: the path cannot be written.
    """
    location = location_of(path, synced=synced)
    run, document = attributes.get(schema.ATTRIBUTE, {}).get("run", ""), None
    with _writable(path):
        _check_way(location, overwrite)
        made = location.make()
        lock = RunLock(location, 0, run, takes_over=overwrite)
        try:
            # Once more: what was free may not have been when the lock was there.
            if _check_way(location, overwrite):
                _check_other_locks(location)
                document = group_document(attributes)
            else:
                location.write([(ROOT_DOCUMENT, group_document(attributes))])
        except BaseException:
            lock.release()
            if made:
                location.unmake()
            raise
    return Claim(location, lock, run, document=document, made=made)


def claim_again(path: str | Path, *, synced: bool = False) -> Claim:
    """Claim the run at ``path`` to continue it, and remove what a crash left there.

    Raises:
        RunInUseError: another process writes it.
        NotARunError, FormatVersionError, DamagedStoreError: it cannot be continued.
        NotWritableError: the path cannot be written.
    """
    location, run = location_of(path, synced=synced), run_name(path) or ""
    with _writable(path):
        lock = RunLock(location, 0, run, takes_over=True)
        try:
            _check_other_locks(location)
            sweep(path)
            return Claim(location, lock, run, start=next_start(path))
        except BaseException:
            lock.release()
            raise


def delete_run(path: str | Path) -> None:
    """Delete the run at ``path``.

    Raises:
        RunInUseError: a process writes it.
        NotWritableError: the path cannot be written.
    """
    location = location_of(path)
    with _writable(path):
        lock = RunLock(location, 0, "", takes_over=True)
        try:
            _check_other_locks(location)
            location.remove()
        finally:
            lock.release()


def claim_with(
    path: str | Path,
    run: str,
    worker: int,
    *,
    start: int = 0,
    synced: bool = False,
    wait: float,
) -> Claim | None:
    """Claim a worker's part of a run that the first worker has claimed.

    Args:
        path: what the first worker claimed.
        run: the run's random name, as in its claim.
        worker: this worker's number.
        start: which start of the run this is.
        synced: wait until the disk itself has what is written.
        wait: seconds that a shared folder may take until it shows the claim.

    Returns:
        None if this worker does not see the claim, or may not write there.

    Raises:
        RunInUseError: another process writes this worker's part.
    """
    location, until = location_of(path, synced=synced), time.monotonic() + wait
    while not _is_claimed(location, run):
        if time.monotonic() >= until:
            return None
        time.sleep(_LOOK)
    if not location.is_writable():
        return None
    with _writable(path):
        lock = RunLock(location, worker, run, takes_over=True)
    return Claim(location, lock, run, start=start, is_joined=True)


def _is_beside_rows(name: str) -> bool:
    """Whether a file tells of rows, and is worth nothing without them."""
    named = (is_changes_name, is_epochs_name, is_plans_name)
    known = start_noted_in(name) is not None or any(is_name(name) for is_name in named)
    return known or name == requests.NAME


def _is_claimed(location: Location, run: str) -> bool:
    """Whether a run is at a location, or will take the place of the one that is there."""
    if run_name(location.address) == run:
        return True
    holder = holder_of(location.read(lock_name(0))) if location.exists() else None
    return holder is not None and holder.run == run


def _check_way(location: Location, overwrite: bool) -> bool:
    """Whether a run is there that is to be overwritten.

    Raises:
        RunExistsError: something is there that must stay.
    """
    path = location.address
    if location.is_free():
        return False
    if not is_run(path):
        raise RunExistsError(
            f"{path} exists and is no distwatch run, so it is left alone; choose another path"
            f"{_in_it(path)}, or remove it yourself."
        )
    if not overwrite:
        raise RunExistsError(
            f"{path} holds a run already; choose another path ({_folder_of(path)} for a new "
            "run each time), or pass overwrite=True to delete that run first, or resume=True "
            "to continue it."
        )
    return True


def _in_it(path: Address) -> str:
    """What to write for a new run in a folder that is no run."""
    is_folder = isinstance(path, Path) and path.is_dir()
    return f" ({f'{path}/'!r} for a new run in it)" if is_folder else ""


def _folder_of(path: Address) -> str:
    """The folder that a run lies in, as it is given to Watch."""
    folder = str(path.parent) if isinstance(path, Path) else path.rpartition("/")[0]
    return repr(f"{folder.rstrip('/')}/")


def _check_other_locks(location: Location) -> None:
    """Remove the locks of other workers that are gone.

    Raises:
        RunInUseError: another process writes a part of the run.
    """
    for name in location.children():
        if is_lock_name(name) and name != lock_name(0):
            worker = int(name.partition("-")[2].partition(".")[0])
            RunLock(location, worker, "", takes_over=True).release()


@contextlib.contextmanager
def _writable(path: str | Path) -> Iterator[None]:
    """Say of a path that cannot be written what to do."""
    try:
        yield
    except UnreachableError as error:
        raise NotWritableError(str(error)) from error
    except StoreError:
        raise
    except OSError as error:
        raise NotWritableError(
            f"{path} cannot be written ({error.strerror or error}); "
            "give Watch a path in a folder where you may write."
        ) from error
