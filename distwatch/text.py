"""Text for people: untrusted text made printable, numbers with their units."""

from __future__ import annotations

from collections.abc import Iterable


def printable(text: str) -> str:
    """One line without control characters: names in a store may come from anybody."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def capitalized(text: str) -> str:
    """The beginning of a sentence: its first letter in upper case, the others as they are."""
    return f"{text[:1].upper()}{text[1:]}"


def counted(number: int, word: str) -> str:
    """A number of things: "1 step", "2,000 steps"."""
    return f"{number:,} {word}{'s' * (number != 1)}"


def listed(things: Iterable[object]) -> str:
    """Several things in words: "0, 1 and 2"."""
    *first, last = map(str, things)
    return f"{', '.join(first)} and {last}" if first else last


def shortened(value: object, most: int = 200, *, quoted: bool = True) -> str:
    """An untrusted value for a message: quoted, and at most about ``most`` characters."""
    if isinstance(value, (list, tuple, dict)) and len(value) > most:
        return f"{type(value).__name__} of {len(value)}"
    beginning = value[: most + 1] if isinstance(value, str) else value
    shown = repr(beginning) if quoted else str(beginning)
    return shown if len(shown) <= most else f"{shown[:most]}..."


def format_bytes(nbytes: float) -> str:
    """A number of bytes for people, in decimal units: ``1.5 MB``."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:,.1f} {unit}"
    return f"{nbytes:,.0f} bytes"
