"""Claiming a path for a run, before any row is written."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

from distwatch.errors import NotWritableError, RunExistsError, StoreError, UnreachableError
from distwatch.store import schema
from distwatch.store.documents import group_document, read_document
from distwatch.store.locations import ROOT_DOCUMENT, Location, location_of


def claim(
    path: str | Path,
    attributes: dict[str, Any],
    *,
    overwrite: bool = False,
    synced: bool = False,
) -> None:
    """Make ``path`` a run without rows, or say before training why it cannot be one.

    Args:
        path: a folder or URL where nothing is, or (to overwrite) a run.
        attributes: the root group's, from `schema.root_attributes`.
        overwrite: delete the run that is there.
        synced: wait until the disk itself has it.

    Raises:
        RunExistsError: something is there already.
        NotWritableError: the path cannot be written.
    """
    location = location_of(path, synced=synced)
    try:
        _clear_way(location, overwrite)
        location.write([(ROOT_DOCUMENT, group_document(attributes))])
    except UnreachableError as error:
        raise NotWritableError(str(error)) from error
    except OSError as error:
        if isinstance(error, RunExistsError):
            raise
        raise NotWritableError(
            f"{path} cannot be written ({error.strerror or error}); "
            "give Watch a path in a folder where you may write."
        ) from error


def is_claimed(path: str | Path, run: str, *, wait: float) -> bool:
    """Whether another process has claimed ``path`` for a run, and this one may write it.

    Args:
        path: what that process claimed.
        run: the run's random name, as in its root attributes.
        wait: seconds that a shared folder may take until it shows the claim.
    """
    until = time.monotonic() + wait
    while True:
        if run_name(path) == run:
            return location_of(path).is_writable()
        if time.monotonic() >= until:
            return False
        time.sleep(0.05)


def run_name(path: str | Path) -> str | None:
    """The random name of the run at ``path``; None where there is no complete run."""
    try:
        document = read_document(location_of(path), "")
        return str(document["attributes"][schema.ATTRIBUTE]["run"])
    except (StoreError, KeyError, TypeError):
        return None


def disclaim(path: str | Path) -> None:
    """Undo a claim under which nothing was written, so that the path can be claimed again."""
    location = location_of(path)
    if location.children() == [ROOT_DOCUMENT]:
        location.remove()


def _clear_way(location: Location, overwrite: bool) -> None:
    path = location.address
    if location.is_free():
        return
    if not is_run(path):
        raise RunExistsError(
            f"{path} exists and is no distwatch run, so it is left alone; "
            "choose another path, or remove it yourself."
        )
    if not overwrite:
        raise RunExistsError(
            f"{path} holds a run already; choose another path, or pass overwrite=True "
            "to delete that run first, or resume=True to continue it."
        )
    location.remove()


def is_run(path: str | Path) -> bool:
    """Whether there is a distwatch run, of whatever format, at ``path``."""
    try:
        return schema.ATTRIBUTE in read_document(location_of(path), "")["attributes"]
    except StoreError:
        return False


def now() -> str:
    """The current time as it is stored: ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
