"""Small pictures of figures as SVG, which any page can hold: on white paper, as figures are."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

import numpy as np

from distwatch.analysis.figures.labels import labels
from distwatch.analysis.figures.style import INK, PAPER
from distwatch.analysis.overview.binning import Floats
from distwatch.text import printable

#: In pixels: a picture, the room for names at its left, a row, and room above and below.
WIDTH, NAMES, ROW, MARGIN = 560, 150, 16, 18

#: Rows of a picture; the figure itself has more.
MOST_ROWS = 40

#: The scale Viridis (N. Smith & S. van der Walt, 2015) at equal distances.
_VIRIDIS = np.array(
    [
        [68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141],
        [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37],
    ]
)  # fmt: skip


def drawing(title: str, height: float, parts: Iterable[str], width: float = WIDTH) -> str:
    """A picture of some parts, which a screen reader calls by its title."""
    size = f"{width:.0f} {height:.0f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {size}" style="background:{PAPER}">'
        f"<title>{html.escape(printable(title))}</title>{''.join(parts)}</svg>"
    )


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """A text; names in it are no markup."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="10" '
        f'font-family="sans-serif" fill="{INK}">{html.escape(printable(words))}</text>'
    )


def names_of_rows(names: Sequence[str], longest: int = 26) -> list[str]:
    """The names at the left of rows, the first at the top."""
    return [
        text(NAMES - 6, MARGIN + ROW * (row + 0.72), name, "end")
        for row, name in enumerate(labels(list(names), longest))
    ]


def ends(low: str, high: str, what: str, y: float) -> list[str]:
    """What stands below an axis: both ends, and what it is of."""
    middle = (NAMES + WIDTH) / 2
    return [
        text(NAMES, y, low), text(middle, y, what, "middle"), text(WIDTH - 4, y, high, "end"),
    ]  # fmt: skip


def line(x: Floats, y: Floats, colour: str, more: str = "") -> str:
    """A line through the points that are known, with a gap where one is not."""
    known = np.isfinite(x) & np.isfinite(y)
    cuts = np.flatnonzero(known[1:] != known[:-1]) + 1
    runs = [part for part in np.split(np.arange(len(x)), cuts) if len(part) and known[part[0]]]
    path = "".join(
        "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x[part], y[part], strict=True))
        for part in runs
    )
    return f'<path d="{path}" fill="none" stroke="{colour}" {more}/>' if path else ""


def within(values: Floats, low: float, high: float, start: float, stop: float) -> Floats:
    """Values from ``low`` to ``high`` as pixels from ``start`` to ``stop``."""
    # Halves, since the difference of large numbers may overflow.
    width = high / 2 - low / 2
    share = (values / 2 - low / 2) / width if width > 0 else np.full(np.shape(values), 0.5)
    return np.asarray(start + (stop - start) * share)


def viridis(share: float) -> str:
    """The colour of a share from 0 to 1."""
    place = min(max(share, 0.0), 1.0) * (len(_VIRIDIS) - 1)
    below = min(math.floor(place), len(_VIRIDIS) - 2)
    mixed = _VIRIDIS[below] + (place - below) * (_VIRIDIS[below + 1] - _VIRIDIS[below])
    return "#" + "".join(f"{round(part):02x}" for part in mixed)
