"""Where a new run goes that was given no path of its own: its name is made for it.

In a folder of runs a name is dated and, within a minute, numbered over all runs of the folder:
``2026-11-25-1412-digits.zarr``, ``2026-11-25-1412-digits-2.zarr``. Beside a run it is numbered:
``run-2.zarr``. A name is only proposed here; who claims it has it, so that of several processes
each gets another one.

Rejected: names from seconds or random letters, which nobody types; a file that counts, which
several processes would have to lock.
"""

from __future__ import annotations

import datetime
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distwatch.store.addresses import Address, absolute, address_of, inside
from distwatch.store.locations import Location, location_of

#: Where runs go if nobody says.
USUAL = "runs/"

#: How the names of runs end.
SUFFIX = ".zarr"

#: Characters of a script's or a model's name that are taken into a run's.
_LONGEST = 60

_DATED = re.compile(r"(\d{4}-\d\d-\d\d-\d{4})-.*?(?:-(\d{1,9}))?(?:\.zarr)?", re.DOTALL)


@dataclass(frozen=True)
class FolderOfRuns:
    """A folder in which each training writes a new run.

    Args:
        folder: its address.
        key: where in it the next run goes; None for a dated name.
    """

    folder: Address
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.folder}/"


def place_of(given: str | os.PathLike[str] | FolderOfRuns) -> Address | FolderOfRuns:
    """Read where to write: the path of a run, or, ending in a slash, a folder of runs.

    ``run.zarr/`` is a run. What is relative is so to the current folder.

    Raises:
        ConfigError: it is neither a path nor a URL.
    """
    if isinstance(given, FolderOfRuns):
        return given
    address = absolute(address_of(given))
    text = given if isinstance(given, str) else ""
    ends_in_slash = text.endswith(("/", os.sep))
    return FolderOfRuns(address) if ends_in_slash and not is_named_run(address) else address


def is_named_run(address: Address) -> bool:
    """Whether a name is one of a run."""
    return str(address).endswith(SUFFIX)


def dated_names(folder: Address, title: str, suffix: str = SUFFIX) -> Iterator[str]:
    """Names for a new run in a folder, the best first; each later one has a higher number.

    Args:
        folder: it may not be there yet.
        title: a script's or a model's name.
        suffix: how the names end.
    """
    minute = datetime.datetime.now().strftime("%Y-%m-%d-%H%M")
    taken = [order_of(name) for name in location_of(folder).children()]
    first = 1 + max((number for at, number in taken if at == minute), default=0)
    for number in itertools.count(first):
        numbered = f"-{number}" if number > 1 else ""
        yield f"{minute}-{_fit_for_a_name(title)}{numbered}{suffix}"


def new_folder(folder: Address, title: str) -> Location:
    """Make a folder with a dated name in a folder of runs; its `unmake` takes that back.

    Raises:
        OSError: it cannot be made.
    """
    places = (location_of(inside(folder, name)) for name in dated_names(folder, title, ""))
    # In a bucket there are no folders, and any name will do.
    return next(place for place in places if place.make() or not isinstance(folder, Path))


def order_of(name: str) -> tuple[str, int]:
    """The minute in a dated name, and its number there; ("", 0) for other names."""
    dated = _DATED.fullmatch(name)
    return (dated[1], int(dated[2] or 1)) if dated else ("", 0)


def names_beside(address: Address) -> Iterator[str]:
    """Names for further runs beside one: ``run-2.zarr``, ``run-3.zarr``, ..."""
    name = name_of(address)
    stem = name.removesuffix(SUFFIX)
    return (f"{stem}-{number}{name[len(stem) :]}" for number in itertools.count(2))


def name_of(address: Address) -> str:
    """The last part of an address."""
    return address.name if isinstance(address, Path) else address.rpartition("/")[2]


def beside(address: Address, name: str) -> Address:
    """The address of what lies under this name in the same folder."""
    if isinstance(address, Path):
        return address.with_name(name)
    return inside(address.rpartition("/")[0], name)


def title_of(script: Path) -> str:
    """What a script is called; ``python -m package`` runs ``package/__main__.py``."""
    return script.parent.name if script.stem == "__main__" else script.stem


def _fit_for_a_name(title: str) -> str:
    # What other systems, shells and URLs take as it is. No dot: a suffix is what follows one.
    return re.sub(r"[^A-Za-z0-9_]+", "_", title).strip("_")[:_LONGEST] or "run"
