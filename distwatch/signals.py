"""What is watched: signals, their names, and the patterns that choose them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distwatch.errors import ConfigError, UnknownSignalError, nearest

#: What a delta can be measured against.
REFERENCES = ("previous", "none")


@dataclass(frozen=True)
class Signal:
    """One watched thing: its name in the store and what its delta is measured against."""

    name: str
    reference: str = "previous"


def check_reference(reference: str) -> str:
    """Return ``reference`` if it is a known one.

    Raises:
        ConfigError: it is not; the message names those that are.
    """
    if reference not in REFERENCES:
        known = " or ".join(repr(name) for name in REFERENCES)
        raise ConfigError(f"unknown reference {reference!r}: choose {known}.")
    return reference


def check_patterns(patterns: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return signal patterns as a tuple of globs; None stays None.

    Raises:
        ConfigError: a pattern is no string, or there are none.
    """
    if patterns is None:
        return None
    chosen = (patterns,) if isinstance(patterns, str) else patterns
    listed = isinstance(chosen, Sequence) and len(chosen) > 0
    if not listed or not all(isinstance(pattern, str) for pattern in chosen):
        raise ConfigError(
            f"signals={patterns!r}: give None for the usual layers, or glob strings "
            'such as ["dense_*"].'
        )
    return tuple(chosen)


def matching(patterns: Iterable[str], paths: Sequence[str]) -> list[str]:
    """Return those layer paths that a pattern matches, in the order of ``paths``.

    A pattern matches a path (``encoder/dense_1``), its last part (``dense_1``),
    or the signal's name (``activation/encoder/dense_1``).

    Raises:
        UnknownSignalError: a pattern matches nothing; the nearest paths are named.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = [path for path in paths if _matches(pattern, path)]
        if not found:
            raise UnknownSignalError(
                f"signal pattern {pattern!r} matches no layer of this model; "
                f"nearest: {nearest(pattern, list(paths))}."
            )
        chosen.update(found)
    return [path for path in paths if path in chosen]


def _matches(pattern: str, path: str) -> bool:
    forms = (path, path.rpartition("/")[2], f"activation/{path}")
    return any(fnmatch.fnmatchcase(form, pattern) for form in forms)
