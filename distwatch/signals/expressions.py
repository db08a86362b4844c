"""Matching regular expressions in a time that is bounded, whatever they are.

Python's matcher tries one way after another, and an expression such as ``(a+)+b`` has more ways
than anybody can wait for. Where there may be many, this follows all of them at once: from the
set of places that a part can begin at to the set of places that it can end at.

Rejected: a time limit, which Python's matcher cannot be given on every thread and system;
refusing expressions by their look, since most that look so are harmless.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from re import _compiler, _constants, _parser  # type: ignore[attr-defined]
from typing import Any

from distwatch.errors import ConfigError
from distwatch.text import shortened

#: Ways in which Python's own matcher may try; more are followed at once.
_MOST_WAYS = 1e6

#: More ways are not told apart.
_ENDLESS = 1e18

#: What is only known along one way: such expressions are left to Python's matcher.
_ALONG_ONE_WAY = {
    _constants.GROUPREF,
    _constants.GROUPREF_EXISTS,
    _constants.ATOMIC_GROUP,
    _constants.POSSESSIVE_REPEAT,
}
_REPEATS = {_constants.MAX_REPEAT, _constants.MIN_REPEAT}

Places = set[int]


def fullmatch(expression: re.Pattern[str], text: str) -> bool:
    """Whether an expression matches all of a text.

    Raises:
        ConfigError: it has a back-reference or the like, and too many ways.
    """
    if _ways_through(expression, len(text)) <= _MOST_WAYS:
        return expression.fullmatch(text) is not None
    tree = _tree(expression)
    if _is_along_one_way(tree):
        raise ConfigError(
            f"the regular expression {shortened(expression.pattern)} may try more ways than "
            "there is time for; leave out its back-reference, or the repetitions around it."
        )
    return len(text) in _Following(text).ends(tree, expression.flags, {0})


@functools.lru_cache(maxsize=256)
def _tree(expression: re.Pattern[str]) -> Any:
    return _parser.parse(expression.pattern, expression.flags)


@functools.lru_cache(maxsize=4096)
def _ways_through(expression: re.Pattern[str], length: int) -> float:
    return _ways(_tree(expression), length)


def _ways(tree: Any, length: int) -> float:
    """In how many ways, at most, the parts of a text of some length can be given to a tree."""
    ways = 1.0
    for operation, about in tree:
        if operation is _constants.BRANCH:
            ways *= sum(_ways(each, length) for each in about[1])
        elif operation in _REPEATS or operation is _constants.POSSESSIVE_REPEAT:
            least, most, inner = about
            ways *= _ways_of_repeat(int(least), min(int(most), length + 1), inner, length)
        else:
            for inner in _inner(operation, about):
                ways *= _ways(inner, length)
        ways = min(ways, _ENDLESS)
    return ways


def _ways_of_repeat(least: int, most: int, inner: Any, length: int) -> float:
    each = _ways(inner, length)
    choices = max(1, most - least + 1)
    if each <= 1:
        return choices
    rounds = min(max(least, most), 64)  # two ways each are endless by then
    return min(each**rounds * choices, _ENDLESS) if each < _ENDLESS else _ENDLESS


def _inner(operation: Any, about: Any) -> Iterable[Any]:
    """The trees within a part that is no branch and no repeat."""
    if operation in (_constants.SUBPATTERN, _constants.ASSERT, _constants.ASSERT_NOT):
        return [about[-1]]
    if operation is _constants.ATOMIC_GROUP:
        return [about]
    if operation is _constants.GROUPREF_EXISTS:
        return [each for each in about[1:] if each is not None]
    return []


def _is_along_one_way(tree: Any) -> bool:
    for operation, about in tree:
        if operation in _ALONG_ONE_WAY:
            return True
        trees = _inner(operation, about)
        if operation is _constants.BRANCH:
            trees = about[1]
        elif operation in _REPEATS:
            trees = [about[2]]
        if any(map(_is_along_one_way, trees)):
            return True
    return False


class _Following:
    """Follows all ways through a text.

    Args:
        text: what is matched.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def ends(self, tree: Any, flags: int, places: Places) -> Places:
        """Where a tree can end that begins at one of these places."""
        for node in tree:
            if not places:
                break
            places = self._after(node, tree, flags, places)
        return places

    def _after(self, node: Any, tree: Any, flags: int, places: Places) -> Places:
        operation, about = node
        if operation is _constants.BRANCH:
            return set().union(*(self.ends(each, flags, places) for each in about[1]))
        if operation in _REPEATS:
            least, most, inner = about
            return self._repeated((int(least), int(most)), inner, flags, places)
        if operation is _constants.SUBPATTERN:
            _, added, removed, inner = about
            return self.ends(inner, (flags | added) & ~removed, places)
        if operation in (_constants.ASSERT, _constants.ASSERT_NOT):
            (direction, inner), wanted = about, operation is _constants.ASSERT
            return {
                place
                for place in places
                if self._is_seen(direction, inner, flags, place) is wanted
            }
        # One character, or a place such as the end.
        match = _single(tree.state, operation, _frozen(about), flags)
        found = (match(self._text, place) for place in places)
        return {each.end() for each in found if each is not None}

    def _repeated(
        self, times: tuple[int, int], inner: Any, flags: int, places: Places
    ) -> Places:
        least, most = times
        # After so many rounds nothing changes any more: no place is left, or each can stay.
        for _ in range(min(least, len(self._text) + 2)):
            places = self.ends(inner, flags, places)
        found = new = places
        for _ in range(min(most - least, len(self._text) + 1)):
            new = self.ends(inner, flags, new) - found
            if not new:
                break
            found = found | new
        return found

    def _is_seen(self, direction: int, inner: Any, flags: int, place: int) -> bool:
        """Whether a tree matches ahead of a place, or behind it."""
        if direction > 0:
            return bool(self.ends(inner, flags, {place}))
        begin = place - inner.getwidth()[0]
        return begin >= 0 and place in self.ends(inner, flags, {begin})


def _frozen(about: Any) -> Any:
    return tuple(about) if isinstance(about, list) else about


@functools.lru_cache(maxsize=4096)
def _single(state: Any, operation: Any, about: Any, flags: int) -> Callable[..., Any]:
    about = list(about) if operation is _constants.IN else about
    part = _parser.SubPattern(state, [(operation, about)])
    matcher: re.Pattern[str] = _compiler.compile(part, flags)
    return matcher.match
