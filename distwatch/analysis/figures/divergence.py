"""In which signals the replicas differ, and which replica."""

from __future__ import annotations

import numpy as np

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
    applies=lambda overview: len(overview.info.replicas) > 1,
)
