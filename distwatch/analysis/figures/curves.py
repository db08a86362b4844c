"""One signal over the steps: a curve for each replica, one for all, and bands."""

from __future__ import annotations

from typing import Any

import numpy as np

from distwatch.analysis.figures.style import (
    BROKEN,
    INK,
    Figure,
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
    to the largest step, so that a single step that stands out is visible; a cross is a bin
    with NaN or Inf. Missing steps leave a gap.

    Raises:
        SetupError: plotly is not installed.
    """
    label = history.quantity.label(history.signal.reference)
    made = figure(
        traces_of(history),
        height=HEIGHT,
        title=shown(history.signal.name),
        xaxis_title="step",
        yaxis_title=label,
        hovermode="closest",
    )
    made.update_yaxes(exponentformat="power")
    return made


def traces_of(history: SignalHistory) -> list[Any]:
    """The traces: band and line of each series, all together last, then the crosses."""
    import plotly.graph_objects as go

    replicas = len(history.replicas)
    traces = []
    for place in range(replicas + 1):
        merged = place == replicas
        colour = INK if merged else colour_of(place)
        name = "all replicas" if merged else f"replica {history.replicas[place]}"
        x, y = band(history.bins, history.low[:, place], history.high[:, place])
        common = {"legendgroup": name, "name": name}
        traces.append(
            go.Scatter(
                x=x,
                y=y,
                fill="toself",
                fillcolor=faint(colour),
                line={"width": 0.6, "color": faint(colour, 0.55)},
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                meta={"part": "band", "series": place, "ink": merged},
                **common,
            )
        )
        x, y = line(history.bins, history.mean[:, place])
        traces.append(
            go.Scatter(
                x=x,
                y=y,
                mode="lines+markers" if len(history.bins) < 60 else "lines",
                marker={"size": 4},
                line={
                    "color": colour,
                    "width": 2.2 if merged else 1.3,
                    "dash": "solid" if merged else dash_of(place),
                },
                meta={"part": "line", "series": place, "ink": merged},
                hovertemplate="step %{x}: %{y:.4g}<extra>" + name + "</extra>",
                **common,
            )
        )
    return [*traces, _crosses(history)]


def _crosses(history: SignalHistory) -> Any:
    import plotly.graph_objects as go

    x, y = crosses(history.bins, history.broken, history.mean)
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"symbol": "x", "size": 9, "color": BROKEN},
        name="NaN or Inf",
        showlegend=bool(len(x)),
        meta={"part": "broken"},
        hovertemplate="NaN or Inf at step %{x}<extra></extra>",
    )


def line(bins: Bins, values: Floats) -> tuple[Floats, Floats]:
    """Points of a line, with NaN where steps are missing."""
    gaps = np.flatnonzero(bins.after_gap)
    return np.insert(bins.centre, gaps, np.nan), np.insert(values, gaps, np.nan)


def band(bins: Bins, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """The outline of a band: a polygon for each stretch of bins without a gap or a NaN."""
    if bins.are_steps:
        return np.zeros(0), np.zeros(0)
    known = ~np.isnan(low)
    begins = known & ~np.concatenate([[False], known[:-1] & ~bins.after_gap[1:]])
    xs, ys = [], []
    for part in np.split(np.arange(len(bins)), np.flatnonzero(begins)):
        within = part[known[part]]
        centre = bins.centre[within]
        if len(within):
            xs.append(np.concatenate([centre, centre[::-1], centre[:1], [np.nan]]))
            ys.append(
                np.concatenate([high[within], low[within][::-1], high[within][:1], [np.nan]])
            )
    return (np.concatenate(xs), np.concatenate(ys)) if xs else (np.zeros(0), np.zeros(0))


def crosses(bins: Bins, broken: Flags, values: Floats) -> tuple[Floats, Floats]:
    """Where the crosses are: on the curve if it has a value there, else at its lowest value.

    Shapes: broken, values (bin, series).
    """
    where = np.flatnonzero(broken.any(axis=1))
    finite = values[np.isfinite(values)]
    floor = float(finite.min()) if len(finite) else 0.0
    at = values[where, -1]
    return bins.centre[where], np.where(np.isfinite(at), at, floor)
