"""Reading the documents of groups: JSON that may come from anybody, read within bounds.

Zarr is never given one. It would look up the codecs and dtypes that a document names among
all that is installed; here a document is only JSON, and arrays are opened by
`checked_arrays`.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar

from distwatch.errors import DamagedStoreError, NotARunError, StoreError
from distwatch.store.locations import ROOT_DOCUMENT, Location
from distwatch.store.schema import (
    RootAttributes,
    SegmentAttributes,
    TableAttributes,
    check_format,
    damaged,
    is_whole,
    understanding,
)
from distwatch.text import shortened

A = TypeVar("A", RootAttributes, SegmentAttributes, TableAttributes)

#: Bytes of a document: that of 100,000 signals has less.
MOST_BYTES = 16 * 2**20


def read_group(location: Location, group: str, model: type[A]) -> tuple[A, dict[str, Any]]:
    """The attributes of a group, and what it says of its arrays, which is not checked.

    Raises:
        NotARunError: there is no run.
        FormatVersionError: a newer distwatch wrote it.
        DamagedStoreError: it cannot be understood, or was changed.
        UnreachableError: the location does not answer.
    """
    document = read_document(location, group)
    where = path_of(location, group)
    ours = check_format(document["attributes"], where)
    with understanding(where):
        attributes = model.model_validate(ours)
    consolidated = document.get("consolidated_metadata")
    arrays = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    return attributes, arrays if isinstance(arrays, dict) else {}


def read_document(location: Location, group: str) -> dict[str, Any]:
    """The document of a group, as it was written.

    Raises:
        NotARunError: there is none at the root, or none that can be read.
        DamagedStoreError: there is none in a group, or it was changed.
        UnreachableError: the location does not answer.
    """
    path = location.address
    if not location.exists():
        raise NotARunError(f"{path} is no distwatch run: there is no such folder.")
    try:
        return _read(location, group)
    except StoreError:
        raise
    except Exception as error:
        # JSON from elsewhere raises many kinds of errors.
        if group:
            raise damaged(path_of(location, group), error) from error
        why = shortened(str(error), quoted=False)
        raise NotARunError(
            f"{path} is no distwatch run ({type(error).__name__}: {why}). "
            "Give the path that was given to Watch."
        ) from error


def path_of(location: Location, group: str) -> str:
    """Where a group is, for messages."""
    return f"{location.address}/{group}" if group else f"{location.address}"


def _read(location: Location, group: str) -> dict[str, Any]:
    key = f"{group}/{ROOT_DOCUMENT}" if group else ROOT_DOCUMENT
    content = location.read(key, MOST_BYTES + 1)
    if content is None:
        raise LookupError(f"there is no {key}")
    if len(content) > MOST_BYTES:
        raise ValueError(f"{key} has more than {MOST_BYTES} bytes")
    document = json.loads(content, parse_constant=_refuse)
    kinds = [document[key] for key in ("zarr_format", "node_type")]
    if kinds != [3, "group"] or not isinstance(document["attributes"], dict):
        raise ValueError(f"{key} describes {shortened(kinds)}, expected a group of Zarr 3")
    if not is_whole(document):
        raise DamagedStoreError(
            f"{path_of(location, group)}: its description is damaged (it does not match its "
            "checksum)."
        )
    return dict(document)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
