"""Text that may be anybody's, made fit to be printed."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line without control characters: names in a store may be anybody's."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def counted(number: int, word: str) -> str:
    """A number of things: "1 step", "2,000 steps"."""
    return f"{number} {word}{'s' * (number != 1)}"


def shortened(value: object, most: int = 200, *, quoted: bool = True) -> str:
    """A value that may be anybody's, for a message: quoted, and not longer than a few lines."""
    if isinstance(value, (list, tuple, dict)) and len(value) > most:
        return f"{type(value).__name__} of {len(value)}"
    if quoted:
        shown = repr(value[: most + 1] if isinstance(value, str) else value)
    else:
        shown = str(value)
    return shown if len(shown) <= most else f"{shown[:most]}..."
