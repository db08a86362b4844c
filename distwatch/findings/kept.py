"""Findings as plain values, by which they are kept beside the rows that they are of."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import distwatch
from distwatch.findings.findings import Finding


@functools.cache
def version() -> str:
    """What findings depend on besides rows: the code that makes them.

    Kept findings of another version are not used, since it may find something else.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    crc32 = functools.reduce(lambda seed, file: zlib.crc32(file.read_bytes(), seed), sources, 0)
    return f"{distwatch.__version__}-{crc32:08x}"


def as_plain(finding: Finding) -> dict[str, Any]:
    """A finding as texts, numbers, lists and dicts of them."""
    return {field.name: _plain(getattr(finding, field.name)) for field in fields(Finding)}


def from_plain(said: Mapping[str, Any]) -> Finding:
    """The finding that `as_plain` made this of.

    Raises:
        TypeError: it was not.
    """
    return Finding(
        **{
            **said,
            "others": tuple(said["others"]),
            "faults": tuple(said["faults"]),
            "follows": tuple(map(from_plain, said["follows"])),
        }
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Finding):
        return as_plain(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    # Of NumPy's numbers, Python's.
    return value.item() if hasattr(value, "item") else value
