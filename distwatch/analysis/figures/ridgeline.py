"""How the distribution of a signal changes over a run."""

from __future__ import annotations

import numpy as np

from distwatch.analysis.figures import svg
from distwatch.analysis.figures.labels import shortened
from distwatch.analysis.figures.style import (
    LONGEST,
    Figure,
    Trace,
    figure,
    require_plotly,
    shown,
)
from distwatch.analysis.overview import Distribution
from distwatch.analysis.overview.binning import Floats

#: How many rows high the highest ridge is.
_OVERLAP = 2.4

_ROW = 30


def ridgeline(distribution: Distribution) -> Figure:
    """Draw a distribution part by part, the beginning of the run at the top.

    All ridges have the same scale. A single slice far higher than all others, such as the
    zeros of a ReLU, is cut off at the top.

    Raises:
        SetupError: plotly is not installed.
    """
    require_plotly()
    from plotly.colors import sample_colorscale

    parts = len(distribution.density)
    colours = sample_colorscale("Viridis", np.linspace(0.12, 0.9, parts), colortype="rgb")
    middles = (distribution.edges[:-1] + distribution.edges[1:]) / 2.0
    labels = [_steps(distribution, part) for part in range(parts)]
    rows = zip(heights(distribution.density), range(parts), colours, labels, strict=True)
    made = figure(
        [trace for row in rows for trace in _traces(middles, *row)],
        height=100 + _ROW * parts,
        title=shown(distribution.name),
        xaxis_title="value" if distribution.reference == "none" else "change",
        showlegend=False,
    )
    made.update_yaxes(
        tickvals=list(range(parts)),
        ticktext=labels,
        range=[parts - 0.5, -_OVERLAP - 0.1],
        showgrid=False,
        ticksuffix=" ",
    )
    return made


def ridgeline_picture(distribution: Distribution) -> str:
    """The same as a small picture."""
    drawn = heights(distribution.density)
    edges = distribution.edges
    middles = (edges[:-1] + edges[1:]) / 2.0
    x = svg.within(middles, middles[0], middles[-1], svg.NAMES, svg.WIDTH - 10)
    top = svg.MARGIN + _OVERLAP * svg.ROW
    ridges = []
    for part, height in enumerate(drawn):
        base = top + svg.ROW * part
        colour = svg.viridis(0.12 + 0.78 * part / max(1, len(drawn) - 1))
        points = " ".join(
            f"{a:.1f},{b:.1f}" for a, b in zip(x, base - height * svg.ROW, strict=True)
        )
        ridges += [
            f'<polygon points="{x[0]:.1f},{base:.1f} {points} {x[-1]:.1f},{base:.1f}" '
            f'fill="{colour}" fill-opacity="0.55" stroke="{colour}"/>',
            svg.text(svg.NAMES - 6, base + 3, f"steps {_steps(distribution, part)}", "end"),
        ]
    below = top + svg.ROW * len(drawn)
    what = "value" if distribution.reference == "none" else "change"
    axis = svg.ends(f"{middles[0]:.3g}", f"{middles[-1]:.3g}", what, below + 4)
    name = svg.text(4, 12, shortened(distribution.name, LONGEST))
    return svg.drawing(distribution.name, below + 10, [name, *ridges, *axis])


def heights(density: Floats) -> Floats:
    """How high each ridge is, in rows: shape (part, slice)."""
    highest = np.sort(density, axis=1)
    # The third highest slice sets the scale, so that a single high one does not.
    top = float(highest[:, -3].max())
    scale = top if top > 0 else float(density.max())
    if not scale:
        return density
    return np.minimum(density / scale, 1.15) * _OVERLAP / 1.15


def _steps(distribution: Distribution, part: int) -> str:
    first, last = int(distribution.first[part]), int(distribution.last[part])
    return f"{first}" if first == last else f"{first}\N{EN DASH}{last}"


def _traces(x: Floats, height: Floats, part: int, colour: str, steps: str) -> list[Trace]:
    base = {
        "type": "scatter",
        "x": x[[0, -1]],
        "y": [part, part],
        "mode": "lines",
        "line": {"width": 0.5, "color": colour},
        "hoverinfo": "skip",
        "meta": {"part": "base"},
    }
    ridge = {
        "type": "scatter",
        "x": x,
        "y": part - height,
        "mode": "lines",
        "fill": "tonexty",
        "fillcolor": colour.replace("rgb(", "rgba(").replace(")", ", 0.55)"),
        "line": {"width": 1.4, "color": colour},
        "hovertemplate": "%{x:.4g}<extra>steps " + steps + "</extra>",
        "meta": {"part": "ridge", "row": part},
    }
    return [base, ridge]
