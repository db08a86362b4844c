"""Choosing paths by glob or regular expression."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Any

from distwatch.errors import ConfigError, UnknownSignalError, nearest

#: A pattern: a glob, or a regular expression (compiled, or written ``re:...``).
Pattern = str | re.Pattern[str]


def matching(
    patterns: Iterable[Pattern],
    paths: Sequence[str],
    *,
    kinds: Sequence[str] = ("activation",),
    of: str = "layer",
) -> list[str]:
    """Return those paths that a pattern matches, in the order of ``paths``.

    A pattern matches a path (``encoder/dense_1``), its last part (``dense_1``), or the
    signal's name (``activation/encoder/dense_1``).

    Raises:
        UnknownSignalError: a pattern matches nothing; the nearest paths are named.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = [path for path in paths if matches(pattern, path, kinds)]
        if not found:
            written = pattern if isinstance(pattern, str) else pattern.pattern
            raise UnknownSignalError(
                f"signal pattern {written!r} matches no {of} of this model; "
                f"nearest: {nearest(written, list(paths))}."
            )
        chosen.update(found)
    return [path for path in paths if path in chosen]


def matches(pattern: Pattern, path: str, kinds: Sequence[str]) -> bool:
    """Whether a pattern matches a path, its last part, or a signal's name of these kinds."""
    forms = (path, path.rpartition("/")[2], *(f"{kind}/{path}" for kind in kinds))
    if isinstance(pattern, str) and not pattern.startswith("re:"):
        return any(fnmatch.fnmatchcase(form, pattern) for form in forms)
    return any(re.fullmatch(expression(pattern), form) for form in forms)


def names_matching(patterns: Iterable[Pattern], names: Sequence[str], where: str) -> list[str]:
    """Return those names of signals that a pattern matches, in their order.

    A pattern matches a name with its kind (``activation/dense``), without it, or its last
    part. Without patterns all are returned.

    Raises:
        UnknownSignalError: a pattern matches none of ``where``; the nearest are named.
    """
    chosen: set[str] = set()
    given = list(patterns)
    for pattern in given:
        found = {name for name in names if matches_name(pattern, name)}
        if not found:
            written = pattern if isinstance(pattern, str) else pattern.pattern
            raise UnknownSignalError(
                f"signal pattern {written!r} matches no signal of {where}; "
                f"nearest: {nearest(written, list(names))}."
            )
        chosen |= found
    return [name for name in names if not given or name in chosen]


def matches_name(pattern: Pattern, name: str) -> bool:
    """Whether a pattern matches a signal's name, with or without its kind."""
    kind, _, path = name.partition("/")
    return matches(pattern, path or name, (kind,) if path else ())


def expression(pattern: Pattern) -> re.Pattern[str]:
    """A regular expression, read if it is written ``re:...``.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(pattern, str):
        return pattern
    try:
        return re.compile(pattern.removeprefix("re:"))
    except re.error as error:
        raise ConfigError(f"{pattern!r} is no regular expression: {error}.") from error


def is_pattern(x: Any) -> bool:
    """Whether ``x`` can be a pattern."""
    return isinstance(x, (str, re.Pattern))
