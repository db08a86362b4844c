"""One signal over the steps: a curve for each replica, one for all, and bands."""

from __future__ import annotations

import numpy as np

from distwatch.analysis.figures.style import (
    BROKEN,
    INK,
    Figure,
    Trace,
    colour_of,
    dash_of,
    faint,
    figure,
    shown,
)
from distwatch.analysis.overview import SignalHistory
from distwatch.analysis.overview.binning import Bins, Flags, Floats

HEIGHT = 420


def curves(history: SignalHistory) -> Figure:
    """Draw a signal's history.

    A line is the mean over the steps of a bin; the band around it reaches from the smallest
    to the largest step, so that a single step that stands out is visible; a cross is where NaN
    or Inf begins, a shade where it lasts. Missing steps leave a gap.

    Raises:
        SetupError: plotly is not installed.
    """
    made = figure(
        traces_of(history),
        height=HEIGHT,
        title=shown(history.signal.name),
        xaxis_title="step",
        yaxis_title=history.quantity.label(history.signal.reference),
        hovermode="closest",
    )
    made.update_yaxes(exponentformat="power")
    centre = history.bins.centre
    for first, last in stretches(history.broken):
        if first < last:
            made.add_vrect(
                centre[first], centre[last], fillcolor=BROKEN, opacity=0.14, line_width=0
            )
    return made


def traces_of(history: SignalHistory) -> list[Trace]:
    """The traces: band and line of each series, all together last, then the crosses."""
    replicas = len(history.replicas)
    traces: list[Trace] = []
    for place in range(replicas + 1):
        merged = place == replicas
        colour = INK if merged else colour_of(place)
        name = "all replicas" if merged else f"replica {history.replicas[place]}"
        common = {"type": "scatter", "legendgroup": name, "name": name}
        traces += [
            {
                **common,
                **band(history.bins, history.low[:, place], history.high[:, place]),
                "fill": "toself",
                "fillcolor": faint(colour),
                "line": {"width": 0.6, "color": faint(colour, 0.55)},
                "mode": "lines",
                "hoverinfo": "skip",
                "showlegend": False,
                "meta": {"part": "band", "series": place, "ink": merged},
            },
            {
                **common,
                **line(history.bins, history.mean[:, place]),
                "mode": "lines+markers" if len(history.bins) < 60 else "lines",
                "marker": {"size": 4},
                "line": {
                    "color": colour,
                    "width": 2.2 if merged else 1.3,
                    "dash": "solid" if merged else dash_of(place),
                },
                "meta": {"part": "line", "series": place, "ink": merged},
                "hovertemplate": "step %{x}: %{y:.4g}<extra>" + name + "</extra>",
            },
        ]
    points = crosses(history.bins, history.broken, history.mean)
    broken = {
        "type": "scatter",
        **points,
        "mode": "markers",
        "marker": {"symbol": "x", "size": 9, "color": BROKEN},
        "name": "NaN or Inf",
        "showlegend": len(points["x"]) > 0,
        "meta": {"part": "broken"},
        "hovertemplate": "NaN or Inf at step %{x}<extra></extra>",
    }
    return [*traces, broken]


def line(bins: Bins, values: Floats) -> dict[str, Floats]:
    """The points ``x`` and ``y`` of a line, with NaN where steps are missing."""
    gaps = np.flatnonzero(bins.after_gap)
    return {"x": np.insert(bins.centre, gaps, np.nan), "y": np.insert(values, gaps, np.nan)}


def band(bins: Bins, low: Floats, high: Floats) -> dict[str, Floats]:
    """The outline: a polygon for each stretch of bins without a gap or a NaN."""
    known = np.zeros(len(bins), bool) if bins.are_steps else ~np.isnan(low)
    begins = known & ~np.concatenate([[False], known[:-1] & ~bins.after_gap[1:]])
    parts = np.split(np.arange(len(bins)), np.flatnonzero(begins))
    stretches = [part[known[part]] for part in parts if known[part].any()]

    def outline(upper: Floats, lower: Floats) -> Floats:
        closed = [[*upper[s], *lower[s][::-1], upper[s[0]], np.nan] for s in stretches]
        return np.array([value for polygon in closed for value in polygon])

    return {"x": outline(bins.centre, bins.centre), "y": outline(high, low)}


def crosses(bins: Bins, broken: Flags, values: Floats) -> dict[str, Floats]:
    """Where crosses are: on the curve if it has a value there, else at its lowest value.

    A stretch of broken bins has one cross, at its beginning.

    Shapes: broken, values (bin, series).
    """
    where = np.array([first for first, _ in stretches(broken)], np.int64)
    finite = values[np.isfinite(values)]
    floor = float(finite.min()) if len(finite) else 0.0
    at = values[where, -1]
    return {"x": bins.centre[where], "y": np.where(np.isfinite(at), at, floor)}


def stretches(broken: Flags) -> list[tuple[int, int]]:
    """The first and the last of each stretch of bins that are broken in any series."""
    edges = np.flatnonzero(np.diff(broken.any(axis=1).astype(np.int8), prepend=0, append=0))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
