"""What is asked for and cannot be watched: refused if it was named, passed over if not.

A selector without patterns asks for a kind, and a pattern with wildcards for whatever there
is: if nothing is, that is listed, and the rest is watched. A pattern without wildcards is a
name, and whoever wrote it relies on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from distwatch.errors import UnwatchableError
from distwatch.signals import Selector, is_name, matches, written
from distwatch.signals.patterns import Pattern


class Unwatched(dict[str, str]):
    """What is not watched: name -> why; see `distwatch.records.RunInfo.unwatched`.

    Args:
        lenient: pass over names, too: in a phase that begins when the training is under way.
    """

    def __init__(self, *, lenient: bool = False) -> None:
        super().__init__()
        self.lenient = lenient
        #: Those that were asked for, which is more than that they could be watched.
        self.passed_over: list[str] = []

    def pass_over(self, name: str, why: str) -> None:
        """List what was asked for; the first reason counts, later ones follow from it."""
        if name not in self:
            self[name] = why
            self.passed_over.append(name)

    def said(self) -> str:
        """What was asked for and is passed over, as the end of a sentence."""
        return "; ".join(f"{name} ({self[name]})" for name in self.passed_over)


class Request:
    """What one selector asks for, and whether it is found.

    Args:
        selector: what was asked for.
        prefixes: what signals' names may begin with in its patterns.
        unwatched: where to list what is not found.
        paths: gives all that patterns choose from.
        inside: whether the name of a layer means all that is inside of it.
    """

    def __init__(
        self,
        selector: Selector,
        prefixes: Sequence[str],
        unwatched: Unwatched,
        paths: Callable[[], Sequence[str]],
        *,
        inside: bool = False,
    ) -> None:
        self._selector = selector
        self._prefixes = prefixes
        self._unwatched = unwatched
        self._paths = paths
        self._inside = inside
        #: Whether somebody asked for it; the reason why it is not there is listed anyway.
        self.asked = True

    def names(self, signal: str) -> bool:
        """Whether a pattern without wildcards means this signal."""
        path = _path_of(signal, set(self._paths()))
        return not self._unwatched.lenient and any(
            is_name(pattern) and matches(pattern, path, self._prefixes)
            for pattern in self._selector.chosen or ()
        )

    def pass_over(self, pattern: Pattern, what: str) -> None:
        """List a pattern with wildcards that matches nothing."""
        self._unwatched.pass_over(self._key(pattern), f"it matches no {what}")

    def give_up(self, why: str) -> None:
        """Nothing of the kind can be watched.

        Raises:
            UnwatchableError: something was named.
        """
        for pattern in self._selector.chosen or (None,):
            self._miss(pattern, why)

    def settle(self, found: Iterable[str], absent: str) -> None:
        """Find out, at the end of a step, what was asked for in vain.

        Args:
            found: names of the signals that were found.
            absent: why there may be nothing of a path, if it is not known better.

        Raises:
            UnwatchableError: nothing is found of something that was named.
        """
        paths = self._paths()
        known = set(paths)
        there = {_path_of(name, known) for name in found}
        for pattern in self._selector.chosen or (None,):
            if pattern is None:
                if not there:
                    self._miss(None, absent)
                continue
            meant = [
                path
                for path in paths
                if matches(pattern, path, self._prefixes, inside=self._inside)
            ]
            if not there.intersection(meant):
                why = next((self._unwatched[p] for p in meant if p in self._unwatched), absent)
                self._miss(pattern, why)

    def _miss(self, pattern: Pattern | None, why: str) -> None:
        if not self.asked:
            self._unwatched.setdefault(self._key(pattern), why)
            return
        if pattern is None or not is_name(pattern) or self._unwatched.lenient:
            self._unwatched.pass_over(self._key(pattern), why)
            return
        raise UnwatchableError(
            f"{self._selector.kind}: {written(pattern)!r} was asked for but cannot be watched: "
            f"{why}. Choose others; a pattern with wildcards is passed over where it finds "
            "nothing."
        )

    def _key(self, pattern: Pattern | None) -> str:
        kind = self._selector.kind
        return kind if pattern is None else f"{kind}: {written(pattern)}"


def _path_of(name: str, known: set[str]) -> str:
    """The path that a signal's name is of: without its kind, its call and its part."""
    path = name.partition("/")[2] or name
    while path not in known and (end := max(path.rfind("#"), path.rfind(":"))) > 0:
        path = path[:end]
    return path
