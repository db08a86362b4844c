"""Choosing paths by glob or regular expression."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema
from typing_extensions import TypeAliasType

from distwatch.errors import ConfigError, UnknownSignalError, nearest
from distwatch.signals.expressions import fullmatch
from distwatch.text import shortened

#: A pattern: a glob, or a regular expression (compiled, or written ``re:...``).
Pattern = str | re.Pattern[str]

#: Called with a pattern that matches nothing, and with what it does not match.
PassOver = Callable[[Pattern, str], None]

#: How many signals a message names.
_NAMED = 5

_IN_GLOBS, _IN_EXPRESSIONS = frozenset("*?["), frozenset(".^$*+?{}[]\\|()")


class LayerName(str):
    """A layer that was given as an object, by its name until its path in a model is known."""

    __slots__ = ("layer",)
    layer: Any


class ExactPath(str):
    """The path of one layer: it matches no other one whose last part is the same.

    That of a model itself is empty where variables are chosen, which are all inside of it.
    """

    __slots__ = ()


def as_pattern(given: Any) -> Any:
    """A layer of Keras becomes its `LayerName`; everything else stays."""
    kinds = type(given).__mro__
    if not any(k.__name__ == "Layer" and k.__module__.startswith("keras.") for k in kinds):
        return given
    name = LayerName(given.name)
    name.layer = given
    return name


def matching(
    patterns: Iterable[Pattern],
    paths: Sequence[str],
    *,
    prefixes: Sequence[str] = ("activation",),
    of: str = "layer",
    inside: bool = False,
    pass_over: PassOver | None = None,
    hint: Callable[[Pattern], str] = lambda pattern: "",
) -> list[str]:
    """Return those paths that a pattern matches, in the order of ``paths``.

    A pattern matches a path (``encoder/dense_1``), its last part (``dense_1``), or the
    name of a signal (``activation/encoder/dense_1``).

    Args:
        patterns: globs or regular expressions.
        paths: the paths to choose from.
        prefixes: what the names of signals begin with.
        of: what the paths are of, for the error message.
        inside: see `matches`.
        pass_over: called with each pattern that has wildcards and matches nothing; None to
            raise for those, too.
        hint: what is added to what is said of a pattern that matches nothing.

    Raises:
        UnknownSignalError: a pattern matches nothing; the nearest paths are named.
    """
    return _chosen(
        patterns,
        paths,
        lambda pattern, path: matches(pattern, path, prefixes, inside=inside),
        lambda pattern: f"{of} of this model{hint(pattern)}",
        pass_over,
    )


def is_name(pattern: Pattern) -> bool:
    """Whether a pattern has no wildcards, and so can only mean one thing."""
    if isinstance(pattern, ExactPath):
        return True
    special = _IN_GLOBS
    if not isinstance(pattern, str) or pattern.startswith("re:"):
        special = _IN_EXPRESSIONS
    return not special & set(written(pattern).removeprefix("re:"))


def written(pattern: Pattern) -> str:
    """A pattern as people wrote it."""
    return pattern if isinstance(pattern, str) else pattern.pattern


def matches(
    pattern: Pattern, path: str, prefixes: Sequence[str], *, inside: bool = False
) -> bool:
    """Whether a pattern matches a path, its last part, or a prefix and the path.

    Args:
        pattern: the pattern.
        path: the path.
        prefixes: what the names of signals begin with.
        inside: a name, without wildcards, also matches all that is inside what it names: that
            of a layer the variables of the layer.
    """
    paths = [path]
    if inside and is_name(pattern):
        paths += _paths_above(path)
    if isinstance(pattern, ExactPath):
        return pattern in paths
    forms = [
        form
        for each in paths
        for form in (
            each,
            each.rpartition("/")[2],
            *(f"{prefix}/{each}" for prefix in prefixes),
        )
    ]
    if isinstance(pattern, str) and not pattern.startswith("re:"):
        return any(fnmatch.fnmatchcase(form, pattern) for form in forms)
    return any(fullmatch(expression(pattern), form) for form in forms)


def _paths_above(path: str) -> list[str]:
    """Of ``encoder/dense/kernel``: ``encoder/dense``, ``encoder``, and that of the model."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:end]) for end in range(len(parts), -1, -1)]


def names_matching(
    patterns: Iterable[Pattern],
    names: Sequence[str],
    where: str,
    *,
    pass_over: PassOver | None = None,
) -> list[str]:
    """Return those names of signals that a pattern matches, in their order.

    A pattern matches a name with its kind (``activation/dense``), without it, or its last
    part. Without patterns all are returned. ``pass_over`` is as in `matching`.

    Raises:
        UnknownSignalError: a pattern matches none of ``where``; the nearest are named.
    """
    given = list(patterns)
    if not given:
        return list(names)
    return _chosen(given, names, matches_name, lambda _: f"signal of {where}", pass_over)


def _chosen(
    patterns: Iterable[Pattern],
    names: Sequence[str],
    match: Callable[[Pattern, str], bool],
    what: Callable[[Pattern], str],
    pass_over: PassOver | None,
) -> list[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if match(pattern, name)}
        if not found and pass_over is not None and not is_name(pattern):
            pass_over(pattern, what(pattern))
        elif not found:
            raise UnknownSignalError(
                f"signal pattern {written(pattern)!r} matches no {what(pattern)}; "
                f"nearest: {nearest(written(pattern), list(names))}."
            )
        chosen |= found
    return [name for name in names if name in chosen]


def matches_name(pattern: Pattern, name: str) -> bool:
    """Whether a pattern matches a signal's name, with or without its kind."""
    kind, _, path = name.partition("/")
    return matches(pattern, path or name, (kind,) if path else ())


def name_of(short: str, names: Sequence[str], where: object) -> str:
    """The name of the signal that a short name means.

    A short name is the last parts of a name: ``hidden`` of ``activation/encoder/hidden``,
    or ``encoder/hidden``. A whole name means itself.

    Raises:
        UnknownSignalError: there is none, or several end like that; they are named.
    """
    if short in names:
        return short
    found = [name for name in names if isinstance(short, str) and name.endswith(f"/{short}")]
    if len(found) > 1:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise UnknownSignalError(
            f"{where} has several signals that end in {short!r}: {', '.join(found[:_NAMED])}"
            f"{more}; write one of these."
        )
    if not found:
        raise no_such_signal(str(short), names, where)
    return found[0]


def no_such_signal(name: str, names: Sequence[str], where: object) -> UnknownSignalError:
    """The error for a signal that a run does not have; the nearest names are named."""
    return UnknownSignalError(
        f"{where} has no signal {name!r}; nearest: {nearest(name, list(names))}."
    )


def expression(pattern: Pattern) -> re.Pattern[str]:
    """A regular expression, read if it is written ``re:...``.

    Raises:
        ConfigError: it is not a valid one.
    """
    if not isinstance(pattern, str):
        return pattern
    try:
        return re.compile(pattern.removeprefix("re:"))
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(
            f"{shortened(pattern)} is not a regular expression: {error}."
        ) from error


def is_pattern(x: Any) -> bool:
    """Whether ``x`` can be a pattern."""
    return isinstance(x, (str, re.Pattern))


def _check_patterns(patterns: Any) -> tuple[Pattern, ...] | None:
    if patterns is None:
        return None
    listed = isinstance(patterns, Sequence) and not is_pattern(patterns)
    chosen = tuple(map(as_pattern, patterns if listed else (patterns,)))
    if not chosen or not all(is_pattern(pattern) for pattern in chosen):
        raise ConfigError(f'{patterns!r}: give glob strings such as ["dense_*"], or layers.')
    for pattern in chosen:
        if (
            isinstance(pattern, str)
            and not isinstance(pattern, LayerName)
            and pattern.startswith("re:")
        ):
            expression(pattern)
    return chosen


GLOB_FORM = {"type": "string"}
_GLOBS_FORM = {"type": "array", "items": GLOB_FORM, "minItems": 1}

#: One pattern, several, or None for all that is usual.
Patterns = TypeAliasType(
    "Patterns",
    Annotated[
        Pattern | Sequence[Pattern] | None,
        PlainValidator(_check_patterns),
        WithJsonSchema({"anyOf": [{"enum": [None, True]}, GLOB_FORM, _GLOBS_FORM]}),
    ],
)
