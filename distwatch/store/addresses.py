"""Where a run lies, as people write it: the path of a folder, or a URL."""

from __future__ import annotations

import os
import re
from pathlib import Path

from distwatch.errors import ConfigError
from distwatch.text import shortened

#: A `Path` is a folder on this machine; text is a URL.
Address = Path | str

#: Two letters or more: one is a drive of Windows.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_BROKEN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[/\\][^/\\]")


def address_of(given: str | os.PathLike[str]) -> Address:
    """Read what was given as the path or URL of a run.

    Raises:
        ConfigError: it is neither, a URL that went through `pathlib`, or one without a
            name.
    """
    if not isinstance(given, (str, os.PathLike)):
        raise ConfigError(f"store={given!r}: give a path or a URL, as text.")
    text = os.fspath(given)
    if not _is_name(text):
        raise ConfigError(f"{shortened(text)}: no file has this name.")
    url = _URL.fullmatch(text)
    if url is None:
        if _BROKEN_URL.match(text):
            raise ConfigError(
                f"{text!r} looks like a URL that was made a Path, which takes a slash away; "
                "give it as text."
            )
        return Path(text)
    scheme, rest = url[1].lower(), url[2]
    if scheme == "file":
        return Path(rest)
    # Object stores know no empty names between slashes.
    parts = [part for part in rest.split("/") if part]
    if not parts:
        raise ConfigError(f"{text!r} names no place; write it as {scheme}://bucket/run.zarr.")
    return f"{scheme}://{'/'.join(parts)}"


def _is_name(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def absolute(address: Address) -> Address:
    """The same address, whatever the current folder becomes.

    Raises:
        ConfigError: there is no current folder any more.
    """
    if not isinstance(address, Path):
        return address
    try:
        return address.absolute()
    except OSError as error:
        raise ConfigError(
            f"{address} is relative, and the current folder is gone; give a path from / on."
        ) from error


def inside(address: Address, key: str) -> Address:
    """The address of what lies at ``key`` in a place."""
    return address / key if isinstance(address, Path) else f"{address}/{key}"


def scheme_of(address: Address) -> str | None:
    """The kind of a URL, such as "s3" or "memory"; None of a folder."""
    return None if isinstance(address, Path) else address.partition("://")[0]


def shown(address: Address) -> str:
    """An address for people: relative, where it lies in the current folder."""
    if not isinstance(address, Path):
        return address
    try:
        return str(address.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(address)
