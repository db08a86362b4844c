"""The documents of groups: JSON that may be anybody's, read within bounds.

Zarr is never given one. It would look up the codecs and dtypes that a document names among
all that is installed; here a document is only JSON, and arrays are opened by `guarding`.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from distwatch.errors import DamagedStoreError, NotARunError, StoreError
from distwatch.store.descriptions import damaged
from distwatch.store.locations import ROOT_DOCUMENT, Location
from distwatch.store.schema import is_whole
from distwatch.text import shortened

#: A document of 100,000 signals has less than this.
MOST_BYTES = 16 * 2**20


def read_document(location: Location, group: str) -> dict[str, Any]:
    """The document of a group, as it was written.

    Raises:
        NotARunError: there is none at the root, or none that can be read.
        DamagedStoreError: there is none in a group, or it was changed.
        UnreachableError: the location does not answer.
    """
    location.check_is_there()
    path = location.address
    try:
        with location.reached():
            return _whole(location, group)
    except StoreError:
        raise
    except Exception as error:
        # JSON that is not its own raises many kinds of errors.
        if group:
            raise damaged(f"{path}/{group}", error) from error
        why = shortened(str(error), quoted=False)
        raise NotARunError(
            f"{path} is no distwatch run ({type(error).__name__}: {why}). "
            "Give the path that was given to Watch."
        ) from error


def _whole(location: Location, group: str) -> dict[str, Any]:
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
        where = f"{location.address}/{group}" if group else f"{location.address}"
        raise DamagedStoreError(
            f"{where}: its description is damaged (ValueError: its checksum is another one)."
        )
    return dict(document)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
