"""Findings as plain values, by which they are kept beside the rows that they are of."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import distwatch
from distwatch.findings.findings import Finding
from distwatch.records import Epoch


def version(epochs: Iterable[Epoch] = ()) -> str:
    """What findings depend on besides rows: the code that makes them, and what epochs came to.

    Kept findings of another version are not used, since it may find something else.
    """
    known = [(e.number, e.step, sorted(e.metrics.items()), e.learning_rate) for e in epochs]
    return f"{distwatch.__version__}-{_code():08x}-{zlib.crc32(repr(known).encode()):08x}"


@functools.cache
def _code() -> int:
    """The checksum of all rules."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return functools.reduce(lambda seed, file: zlib.crc32(file.read_bytes(), seed), sources, 0)


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
