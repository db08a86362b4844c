"""Text that may be anybody's, made fit to be printed."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line without control characters: names in a store may be anybody's."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
