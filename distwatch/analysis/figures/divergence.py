"""In which signals the replicas differ, and which replica."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distwatch.analysis.figures import svg
from distwatch.analysis.figures.style import (
    Figure,
    RunFigure,
    Trace,
    colour_of,
    figure,
    name_rows,
)
from distwatch.analysis.overview import Overview
from distwatch.analysis.overview.binning import Floats

#: How many signals are shown unless asked for otherwise.
MOST = 20

_ROW = 24

#: Replicas that a picture names.
_NAMED = 6

#: Those of the replicas, in turn.
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")


def divergence(overview: Overview, most: int = MOST) -> Figure:
    """Rank the signals by how far the replicas' means lie apart within a step.

    The bar is that distance, the dots are how far each replica's mean lies from that of
    all, with its sign; both in standard deviations within a replica, as means over the steps.
    A loss is one number on each replica: its means over all steps are compared, by its noise.

    Args:
        overview: the run.
        most: how many signals are shown, the most divergent first.

    Raises:
        SetupError: plotly is not installed.
    """
    names, apart, offset = ranked(overview, most)
    made = figure(
        _traces(overview.info.replicas, apart, offset),
        height=110 + _ROW * max(1, len(names)),
        xaxis_title="standard deviations",
    )
    name_rows(made, names)
    if not names:
        made.add_annotation(
            text="There is no difference.", x=0.5, y=0.5, xref="paper", yref="paper",
            showarrow=False,
        )  # fmt: skip
    made.update_xaxes(zeroline=True, zerolinecolor="rgba(128,140,152,0.6)")
    return made


def divergence_picture(overview: Overview) -> str:
    """The same as a small picture."""
    names, apart, offset = ranked(overview, MOST)
    replicas = overview.info.replicas
    every = np.concatenate([[0.0], apart, offset.ravel()])
    low, high = (f(every[np.isfinite(every)]) for f in (np.min, np.max))

    def x(value: Any) -> Any:
        return svg.within(value, low, high, svg.NAMES, svg.WIDTH - 10)

    y = svg.MARGIN + svg.ROW * (np.arange(len(names)) + 0.5)
    bars = [
        f'<rect x="{x(0.0):.1f}" y="{at - 5:.1f}" width="{x(far) - x(0.0):.1f}" height="10" '
        'fill="#d5dade"/>'
        for far, at in zip(apart, y, strict=True)
    ]
    dots = [
        f'<circle cx="{x(value):.1f}" cy="{y[row]:.1f}" r="4" fill="{colour_of(place)}"/>'
        for (place, row), value in np.ndenumerate(offset)
        if np.isfinite(value)
    ]
    below = svg.MARGIN + svg.ROW * max(1, len(names)) + 12
    said = "standard deviations" if names else "there is no difference"
    axis = svg.ends(f"{low:.3g}", f"{high:.3g}", said, below)
    parts = [*svg.names_of_rows(names), *bars, *dots, *_key(replicas), *axis]
    return svg.drawing("Where replicas differ", below + 6, parts)


def _key(replicas: Sequence[int]) -> Iterator[str]:
    """Which replica has which colour, as far as there is room."""
    for place, number in enumerate(replicas[:_NAMED]):
        at = svg.NAMES + 66 * place
        yield f'<circle cx="{at + 4}" cy="9" r="4" fill="{colour_of(place)}"/>'
        yield svg.text(at + 11, 12.5, f"replica {number}")


def ranked(overview: Overview, most: int) -> tuple[list[str], Floats, Floats]:
    """Names, distances (signal,) and offsets (replica, signal), most divergent first.

    What is the same on all replicas, as weights are, is not among them.
    """
    signals = [signal.name for signal in overview.signals]
    replicas = len(overview.info.replicas)
    apart = np.concatenate([np.zeros(0), *(h.apart for h in overview.histories)])
    offset = np.hstack([np.zeros((replicas, 0)), *(h.offset for h in overview.histories)])
    order = np.argsort(-np.nan_to_num(apart), kind="stable")
    order = order[np.nan_to_num(apart[order]) > 0][:most]
    return [signals[i] for i in order], apart[order], offset[:, order]


def _traces(replicas: tuple[int, ...], apart: Floats, offset: Floats) -> list[Trace]:
    rows = np.arange(len(apart))
    bars = {
        "type": "bar",
        "x": apart,
        "y": rows,
        "orientation": "h",
        "width": 0.5,
        "marker": {"color": "rgba(128,140,152,0.35)"},
        "name": "distance",
        "hovertemplate": "%{y}<br>%{x:.3g} standard deviations apart<extra></extra>",
        "meta": {"part": "apart"},
    }
    dots = [
        {
            "type": "scatter",
            "x": offset[place],
            "y": rows,
            "mode": "markers",
            "marker": {
                "size": 9,
                "color": colour_of(place),
                "symbol": _SYMBOLS[place % len(_SYMBOLS)],
            },
            "name": f"replica {number}",
            "hovertemplate": "%{y}<br>%{x:+.3g}<extra>replica " + str(number) + "</extra>",
            "meta": {"part": "offset"},
        }
        for place, number in enumerate(replicas)
    ]
    return [bars, *dots]


DIVERGENCE = RunFigure(
    name="divergence",
    title="Where replicas differ",
    caption=(
        "The bar is how far the replicas' means lie apart within a step, the dots how far each "
        "lies from the mean of all, in standard deviations of the values within a replica. A "
        "loss is one number: its means over all steps are compared, by its noise from step to "
        "step. With random batches the dots lie close to zero; a replica that stays on one "
        "side is given other data, or computes something else."
    ),
    draw=divergence,
    picture=divergence_picture,
    applies=lambda overview: len(overview.info.replicas) > 1,
)
