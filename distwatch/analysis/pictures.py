"""A small picture of one signal, as SVG that any page can hold."""

from __future__ import annotations

import html

import numpy as np

from distwatch.analysis.figures.style import BROKEN, INK
from distwatch.analysis.overview import SignalHistory
from distwatch.analysis.overview.binning import Floats
from distwatch.text import printable

#: In pixels: the picture, and the room for its text above and below.
WIDTH, HEIGHT, _MARGIN = 360, 90, 14


def picture(history: SignalHistory) -> str:
    """Draw the curve of all replicas together, with its band and its crosses.

    As `distwatch.analysis.figures.curves` does: a line is the mean of a bin, the band reaches
    from its lowest step to its highest, a mark below is a bin with NaN or Inf, and missing
    steps leave a gap.
    """
    bins, low, high = history.bins, history.low[:, -1], history.high[:, -1]
    known = np.isfinite(low) & np.isfinite(high)
    x = _scaled(bins.centre, bins.centre, 2, WIDTH - 2)
    both = np.concatenate([low[known], high[known]])
    top, middle, bottom = (
        _scaled(values, both, HEIGHT - _MARGIN, _MARGIN)
        for values in (high, history.mean[:, -1], low)
    )
    # A stretch ends before a gap, and where nothing is known.
    cuts = np.flatnonzero(bins.after_gap | ~known | ~np.append(True, known[:-1]))
    drawn = [
        _stretch(x[part], top[part], middle[part], bottom[part])
        for part in np.split(np.arange(len(bins)), cuts)
        if len(part) and known[part].all()
    ]
    marks = [
        f'<path d="M{at:.1f} {HEIGHT - 8}v7" stroke="{BROKEN}" stroke-width="2"/>'
        for at in x[history.broken[:, -1]]
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" style="background:#fff">'
        f"<title>{html.escape(printable(history.signal.name))}</title>"
        f"{''.join(drawn)}{''.join(marks)}{_labels(history, both)}</svg>"
    )


def _stretch(x: Floats, top: Floats, middle: Floats, bottom: Floats) -> str:
    if len(x) == 1:
        return f'<circle cx="{x[0]:.1f}" cy="{middle[0]:.1f}" r="1.5" fill="{INK}"/>'
    band = _points(np.append(x, x[::-1]), np.append(top, bottom[::-1]))
    return (
        f'<polygon points="{band}" fill="{INK}" fill-opacity="0.2"/>'
        f'<polyline points="{_points(x, middle)}" fill="none" stroke="{INK}"/>'
    )


def _points(x: Floats, y: Floats) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _scaled(values: Floats, among: Floats, start: float, stop: float) -> Floats:
    """Values between the least and the largest of some, from ``start`` to ``stop`` pixels."""
    low, high = (among.min(), among.max()) if len(among) else (0.0, 0.0)
    # Halves, since the difference of large numbers may overflow.
    width = high / 2 - low / 2
    share = (values / 2 - low / 2) / width if width > 0 else np.full(len(values), 0.5)
    return start + (stop - start) * share


def _labels(history: SignalHistory, values: Floats) -> str:
    bins = history.bins
    lines = [(WIDTH // 2, HEIGHT // 2, "middle", "no step has a finite value")]
    if len(values):
        ends = (10, f"{values.max():.4g}"), (HEIGHT - 2, f"{values.min():.4g}")
        lines = [(2, y, "start", text) for y, text in ends]
    if len(bins):
        steps = f"{history.quantity.label(history.signal.reference)}, steps {bins.first[0]} to"
        lines.append((WIDTH - 2, 10, "end", f"{steps} {bins.last[-1]}"))
    return "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="10" font-family="sans-serif" '
        f'fill="{INK}">{html.escape(text)}</text>'
        for x, y, anchor, text in lines
    )
