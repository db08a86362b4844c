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
    columns = min(width, len(values))
    if columns < 1:
        return ""
    shown = _most_striking(np.asarray(values, np.float64), columns)
    marks = [bool(np.any(part)) for part in np.array_split(broken, columns)]
    heights = _heights(shown, len(glyphs.levels))
    levels = np.where(
        np.isfinite(shown), np.asarray(list(glyphs.levels))[heights], glyphs.unknown
    )
    return "".join(np.where(marks, glyphs.broken, levels))


def _most_striking(values: npt.NDArray[np.float64], columns: int) -> npt.NDArray[np.float64]:
    """One value a column: shape (columns,), NaN where none is finite."""
    # Halves, or the distance between two huge values would be infinite.
    half = np.where(np.isfinite(values), values, np.nan) / 2
    centre = np.median(half[~np.isnan(half)]) if (half < 0).any() else 0.0
    strikes = np.nan_to_num(np.abs(half - centre), nan=-1.0)
    places = np.array_split(np.arange(len(values)), columns)
    return 2 * half[[part[np.argmax(strikes[part])] for part in places]]


def _heights(shown: npt.NDArray[np.float64], levels: int) -> Any:
    """The level of each value, from 0; also 0 if all are equal, and for unknown ones."""
    half = shown / 2
    low, high = np.fmin.reduce(half), np.fmax.reduce(half)
    height = np.nan_to_num((half - low) / (high - low if high > low else 1.0))
    return np.minimum(height * levels, levels - 1).astype(np.int64)
