"""The documents of groups: written with a checksum, and read within bounds.

They are JSON that may come from anybody. Zarr is never given one: it would look up the codecs
and dtypes that a document names among all that is installed. Here a document is only JSON,
and arrays are opened by `checked_arrays`.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from distwatch.errors import DamagedStoreError, FormatVersionError, NotARunError, StoreError
from distwatch.signals.validation import expected_of
from distwatch.store.locations import ROOT_DOCUMENT, Location
from distwatch.store.schema import (
    ATTRIBUTE,
    FORMAT,
    RootAttributes,
    SegmentAttributes,
    TableAttributes,
)
from distwatch.text import shortened

A = TypeVar("A", RootAttributes, SegmentAttributes, TableAttributes)

#: Bytes of a document: that of 100,000 signals has less.
MOST_BYTES = 16 * 2**20

#: The key of a document's checksum.
_CHECKSUM = "crc32"

#: What reading values of another type than expected raises.
_WRONG = (LookupError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


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
    ours = _check_format(document["attributes"], where)
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
    try:
        return _read(location, group)
    except StoreError:
        raise
    except Exception as error:
        if not location.exists():
            is_file = isinstance(path, Path) and path.exists()
            is_ = (
                "it is a file, and a run is a folder" if is_file else "there is no such folder"
            )
            raise NotARunError(f"{path} is no distwatch run: {is_}.") from error
        # JSON from elsewhere raises many kinds of errors.
        if group:
            raise _damaged(path_of(location, group), error) from error
        raise NotARunError(
            f"{path} is no distwatch run ({type(error).__name__}: "
            f"{shortened(str(error), quoted=False)}). Give the path that was given to Watch."
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
    if not _is_whole(document):
        raise DamagedStoreError(
            f"{path_of(location, group)}: its description is damaged (it does not match its "
            "checksum)."
        )
    return dict(document)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _check_format(attributes: Any, where: str) -> dict[str, Any]:
    """Return distwatch's attributes of a group.

    Raises:
        NotARunError: there are none.
        FormatVersionError: another version of distwatch wrote them.
    """
    ours = attributes.get(ATTRIBUTE) if isinstance(attributes, dict) else None
    if not isinstance(ours, dict) or type(ours.get("format")) is not int:
        raise NotARunError(
            f"{where} is no distwatch run: it has no {ATTRIBUTE!r} attribute with a "
            "format number. Give the path that was given to Watch."
        )
    found = ours["format"]
    if found != FORMAT:
        remedy = (
            "update it: pip install -U distwatch."
            if found > FORMAT
            else "there is no such format, so the store is damaged or not from distwatch."
        )
        raise FormatVersionError(
            f"{where} is of store format {shortened(found)}, this distwatch reads format "
            f"{FORMAT}; {remedy}"
        )
    return ours


@contextlib.contextmanager
def understanding(where: str) -> Iterator[None]:
    """Turn the errors of reading a group's description into one that names the group.

    Raises:
        DamagedStoreError: the description cannot be understood.
    """
    try:
        yield
    except StoreError:
        raise
    except _WRONG as error:
        raise _damaged(where, error) from error


def _damaged(where: str, error: Exception) -> DamagedStoreError:
    """The error of a group whose description cannot be understood."""
    why = (
        _first_mistake(error)
        if isinstance(error, ValidationError)
        else f"{type(error).__name__}: {shortened(str(error), quoted=False)}"
    )
    return DamagedStoreError(f"{where}: its description is damaged ({why}).")


def _first_mistake(error: ValidationError) -> str:
    mistake = error.errors(include_url=False)[0]
    place = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "missing":
        return f"{place} is missing"
    if mistake["type"] == "value_error":
        reason = str(mistake["ctx"]["error"])
    else:
        reason = f"expected {expected_of(mistake)}"
    return f"{place}={shortened(mistake['input'])}: {reason}" if place else reason


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """A group's document with a checksum of its content among distwatch's attributes."""
    ours = {**document["attributes"][ATTRIBUTE], _CHECKSUM: None}
    whole = {**document, "attributes": {**document["attributes"], ATTRIBUTE: ours}}
    ours[_CHECKSUM] = _checksum(whole)
    return whole


def _is_whole(document: Any) -> bool:
    """Whether a group's document has the content of its checksum, or no checksum."""
    try:
        ours = document["attributes"][ATTRIBUTE]
        seal, known = ours[_CHECKSUM], ours["format"] == FORMAT
    except (KeyError, TypeError):
        return True
    return seal is None or not known or seal == _checksum(document)


def _checksum(document: dict[str, Any]) -> int:
    """The checksum of distwatch's attributes and the arrays' metadata, and nothing else."""
    ours = {k: v for k, v in document["attributes"][ATTRIBUTE].items() if k != _CHECKSUM}
    arrays = (document.get("consolidated_metadata") or {}).get("metadata", {})
    return zlib.crc32(json.dumps([ours, arrays], sort_keys=True).encode())


def group_document(attributes: dict[str, Any], arrays: dict[str, Any] | None = None) -> bytes:
    """A group's ``zarr.json``.

    Args:
        attributes: its attributes, from one of the functions of `schema`.
        arrays: the metadata of all its arrays, by name.
    """
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    if arrays is not None:
        document["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": arrays,
        }
    return json.dumps(sealed(document)).encode()
