"""How much the optimizer changes each weight, relative to the weight's own size."""

from __future__ import annotations

import numpy as np

from distwatch.analysis.figures.curves import line
from distwatch.analysis.figures.labels import labels
from distwatch.analysis.figures.style import (
    Figure,
    RunFigure,
    Trace,
    colour_of,
    dash_of,
    figure,
    shown,
)
from distwatch.analysis.overview import Overview, SignalHistory
from distwatch.errors import ConfigError

#: Karpathy, CS231n notes, "Ratio of weights:updates": "should be somewhere around 1e-3".
HEALTHY = (1e-4, 1e-2)
TARGET = 1e-3

#: More lines cannot be told from one another.
MOST = 14


def update_ratios(overview: Overview, most: int = MOST) -> Figure:
    """Draw the update-to-weight ratio of each weight, over all replicas together.

    A line is the mean over the steps of a bin. Where there are more weights than ``most``,
    those are shown whose ratio is furthest from `TARGET` in the last part of the run.

    Raises:
        ConfigError: no signal of the run has a ratio.
        SetupError: plotly is not installed.
    """
    histories = with_ratio(overview)
    if not histories:
        raise ConfigError("no signal of the run has a ratio: watch with distwatch.updates().")
    chosen = sorted(histories, key=_distance_from_target, reverse=True)[:most]
    names = labels([history.signal.name.removeprefix("update/") for history in chosen])
    made = figure(
        [_trace(*each, place) for place, each in enumerate(zip(chosen, names, strict=True))],
        height=420,
        xaxis_title="step",
        yaxis_title="|update| / |weight|",
    )
    made.add_hrect(
        y0=HEALTHY[0], y1=HEALTHY[1], fillcolor="#009E73", opacity=0.09, line_width=0
    )
    made.add_hline(y=TARGET, line={"color": "#009E73", "width": 1, "dash": "dot"})
    made.update_yaxes(type="log", exponentformat="power", dtick=1)
    return made


def with_ratio(overview: Overview) -> list[SignalHistory]:
    """The histories of the signals that have a ratio."""
    return [
        overview.history(signal.name, "ratio")
        for history in overview.histories
        if "ratio" in history.kept
        for signal in history.signals
    ]


def _distance_from_target(history: SignalHistory) -> float:
    last = history.mean[-max(1, len(history.bins) // 4) :, -1]
    positive = last[last > 0]
    if not len(positive):
        return 0.0
    return float(abs(np.log10(np.median(positive) / TARGET)))


def _trace(history: SignalHistory, name: str, place: int) -> Trace:
    mean = history.mean[:, -1]
    return {
        "type": "scatter",
        **line(history.bins, np.where(mean > 0, mean, np.nan)),
        "mode": "lines",
        "line": {"color": colour_of(place), "dash": dash_of(place), "width": 1.6},
        "name": shown(name),
        "hovertemplate": "step %{x}: %{y:.3g}<extra>%{fullData.name}</extra>",
        "meta": {"part": "ratio"},
    }


UPDATE_RATIOS = RunFigure(
    name="update-ratios",
    title="Update ratios",
    caption=(
        "How much a step changes a weight, relative to the weight's own size. About 10⁻³ "
        "(dotted) is usual; below the green band a weight hardly learns, above it the learning "
        "rate may be too high. Biases start at zero, so their ratios start high."
    ),
    draw=update_ratios,
    applies=lambda overview: bool(with_ratio(overview)),
)
