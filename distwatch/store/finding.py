"""Finding runs: in a folder, or by a pattern, the newest first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from distwatch.errors import StoreError
from distwatch.store import schema
from distwatch.store.addresses import Address, address_of, inside
from distwatch.store.documents import read_document
from distwatch.store.locations import Location, location_of
from distwatch.store.new_runs import name_of, order_of

#: How many folders within each other are looked into: a folder of runs holds those of
#: ``distwatch run``, one for each start of a script.
_DEPTH = 3

_PATTERN = re.compile(r"[*?\[]")


class FoundRun(NamedTuple):
    """A run, and what its root says of it."""

    address: Address
    #: Its place in the folder that was looked into, or its last name.
    name: str
    #: ISO 8601, in UTC; "" where it is not known.
    created: str
    location: Location

    @property
    def age(self) -> tuple[str, list[tuple[str, int]], str]:
        """What runs are sorted by: of the same second, by the numbers in their names."""
        return self.created, [order_of(part) for part in self.name.split("/")], self.name


def runs_at(given: str | Path) -> list[FoundRun]:
    """The runs at a place, the newest first.

    Args:
        given: a run, a folder (or URL) with runs in it, or a pattern such as
            ``runs/*digits*``, whose ``*`` may stand for several folders.

    Raises:
        ConfigError, UnreachableError: there is no looking there.
    """
    address = address_of(given)
    if (itself := _run_at(address, name_of(address))) is not None:
        return [itself]
    text = str(address)
    found = _PATTERN.search(text)
    if found is None or (isinstance(address, Path) and address.exists()):
        return _newest_first(_runs_below(address, "", _DEPTH))
    folder, _, _ = text[: found.start()].rpartition("/")
    if not folder:
        folder = "/" if text.startswith("/") else "."
    pattern = text.removeprefix(folder).lstrip("/")
    runs = _runs_below(address_of(folder), "", _DEPTH)
    return _newest_first(run for run in runs if _matches(run.name, pattern))


def is_missing(address: Address) -> bool:
    """Whether a place is a folder that is not there; of patterns and URLs that is not known."""
    return (
        isinstance(address, Path) and not address.is_dir() and not _PATTERN.search(str(address))
    )


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern matches a run's place, or a folder that the run is in."""
    parts = name.split("/")
    places = ("/".join(parts[:length]) for length in range(1, len(parts) + 1))
    return any(fnmatchcase(place, pattern) for place in places)


def _newest_first(runs: Iterator[FoundRun]) -> list[FoundRun]:
    return sorted(runs, key=lambda run: run.age, reverse=True)


def _runs_below(folder: Address, before: str, depth: int) -> Iterator[FoundRun]:
    try:
        names = location_of(folder).children()
    except StoreError:
        if not before:
            raise
        return  # a folder of somebody else's, as lost+found is
    for name in names:
        if name.startswith("."):
            continue
        address, place = inside(folder, name), f"{before}{name}"
        if isinstance(address, Path) and not address.is_dir():
            continue
        if (run := _run_at(address, place)) is not None:
            yield run
        elif depth > 1 and not _is_other_store(address):
            yield from _runs_below(address, f"{place}/", depth - 1)


def _run_at(address: Address, name: str) -> FoundRun | None:
    try:
        location = location_of(address)
        ours = read_document(location, "")["attributes"][schema.ATTRIBUTE]
        if "tables" in ours:
            return None  # a segment, whose run has lost its root
        return FoundRun(address, name, str(ours.get("created", "")), location)
    except (StoreError, LookupError, TypeError, AttributeError):
        return None


def _is_other_store(address: Address) -> bool:
    """Whether this is a Zarr store of something else, which may have a million folders."""
    return isinstance(address, Path) and any(
        (address / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")
    )
