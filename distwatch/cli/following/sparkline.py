"""A history in one line of text."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Glyphs(NamedTuple):
    """The characters that a picture is drawn with, each one column wide."""

    #: From the lowest to the highest.
    levels: str
    #: A step with NaN or Inf.
    broken: str
    #: A step without a value, such as the first, which has none before it.
    unknown: str
    ellipsis: str
    between: str
    dash: str


UNICODE = Glyphs("▁▂▃▄▅▆▇█", "\N{MULTIPLICATION SIGN}", "·", "…", " · ", "\N{EN DASH}")
#: For terminals whose encoding has no block characters.
ASCII = Glyphs("_.-=+*%#", "x", " ", "~", " | ", "-")


def glyphs_for(encoding: str | None) -> Glyphs:
    """The glyphs that an encoding can represent."""
    try:
        "".join(UNICODE).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def sparkline(values: Any, broken: Any, width: int, glyphs: Glyphs = UNICODE) -> str:
    """Draw values from their lowest to their highest, oldest first, in at most ``width``.

    Where there are more values than columns each column shows the most striking one of
    its values, so that a spike of one step survives: the largest, or of values that can
    be negative the one furthest from the median.

    Args:
        values: shape (n,); what is not finite is drawn as unknown.
        broken: shape (n,): whether NaN or Inf was found there; marked whatever else is in
            the column.
        width: how many columns there are.
        glyphs: what to draw with.
    """
    values, broken = np.asarray(values, np.float64), np.asarray(broken, bool)
    columns = min(width, len(values))
    if columns < 1:
        return ""
    shown = _most_striking(values, columns)
    marked = [part.any() for part in np.array_split(broken, columns)]
    return "".join(
        glyphs.broken if mark else glyphs.unknown if level is None else glyphs.levels[level]
        for mark, level in zip(marked, _levels(shown, len(glyphs.levels)), strict=True)
    )


def _most_striking(values: npt.NDArray[np.float64], columns: int) -> npt.NDArray[np.float64]:
    """One value a column: shape (columns,), NaN where none is finite."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.full(columns, np.nan)
    # Halves, or the distance between two huge values would be infinite.
    half = values / 2
    signed = bool((half[finite] < 0).any())
    centre = np.median(half[finite]) if signed else 0.0
    strikes = np.where(finite, np.abs(half - centre), -1.0)
    places = np.array_split(np.arange(len(values)), columns)
    best = np.asarray([part[np.argmax(strikes[part])] for part in places])
    return np.where(finite[best], values[best], np.nan)


def _levels(shown: npt.NDArray[np.float64], levels: int) -> list[int | None]:
    known = shown[np.isfinite(shown)]
    if not len(known):
        return [None] * len(shown)
    low, high = known.min() / 2, known.max() / 2
    # Equal values are drawn low.
    height = (shown / 2 - low) / (high - low) if high > low else shown * 0
    return [None if np.isnan(each) else min(int(each * levels), levels - 1) for each in height]
