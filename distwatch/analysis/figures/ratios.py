"""How much the optimizer changes each weight, relative to the weight's own size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from distwatch.analysis.figures import svg
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

#: Of a picture: lines, the characters of their names, and the height of its axis in pixels.
_PICTURED, _NAME, _HEIGHT = 7, 18, 130


def update_ratios(overview: Overview, most: int = MOST) -> Figure:
    """Draw the update-to-weight ratio of each weight, over all replicas together.

    A line is the mean over the steps of a bin. Where there are more weights than ``most``,
    those are shown whose ratio is furthest from `TARGET` in the last part of the run.

    Raises:
        ConfigError: no signal of the run has a ratio.
        SetupError: plotly is not installed.
    """
    chosen = _furthest(overview, most)
    names = labels(_weights(chosen))
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


def update_ratios_picture(overview: Overview) -> str:
    """The same as a small picture.

    Raises:
        ConfigError: see `update_ratios`.
    """
    chosen = _furthest(overview, _PICTURED)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = [np.log10(history.mean[:, -1]) for history in chosen]
    known = np.concatenate([np.log10(HEALTHY), *(each[np.isfinite(each)] for each in drawn)])
    low, high = np.floor(known.min()), np.ceil(known.max())
    steps = np.concatenate([history.bins.centre for history in chosen])
    bottom = svg.MARGIN + _HEIGHT

    def y(value: Any) -> Any:
        return svg.within(value, low, high, bottom, svg.MARGIN)

    def x(value: Any) -> Any:
        return svg.within(value, steps.min(), steps.max(), svg.NAMES, svg.WIDTH - 10)

    top, foot = (float(y(np.log10(value))) for value in HEALTHY[::-1])
    parts = [
        f'<rect x="{svg.NAMES}" y="{top:.1f}" width="{svg.WIDTH - 10 - svg.NAMES}" '
        f'height="{foot - top:.1f}" fill="#009E73" fill-opacity="0.12"/>',
        *_marks(low, high, y),
        *(
            svg.line(x(history.bins.centre), y(each), colour_of(place), 'stroke-width="1.4"')
            for place, (history, each) in enumerate(zip(chosen, drawn, strict=True))
        ),
        *_key(_weights(chosen)),
        *svg.ends(f"{steps.min():g}", f"{steps.max():g}", "step", bottom + 14),
    ]
    return svg.drawing("|update| / |weight|", bottom + 20, parts)


def _marks(low: float, high: float, y: Callable[[float], Any]) -> Iterator[str]:
    """The powers of ten at the axis, at most about five of them."""
    each = max(1, round((high - low) / 4))
    for power in range(int(low), int(high) + 1, each):
        yield svg.text(svg.NAMES - 4, float(y(power)) + 3.5, f"{10.0**power:g}", "end")


def _key(names: Sequence[str]) -> Iterator[str]:
    """Which weight has which colour, at the left."""
    for place, name in enumerate(labels(list(names), _NAME)):
        at = svg.MARGIN + svg.ROW * place
        yield f'<path d="M2 {at + 8}h10" stroke="{colour_of(place)}" stroke-width="2"/>'
        yield svg.text(15, at + 11, name)


def _furthest(overview: Overview, most: int) -> list[SignalHistory]:
    """Those whose ratio is furthest from what is usual, in the last part of the run."""
    histories = with_ratio(overview)
    if not histories:
        raise ConfigError("no signal of the run has a ratio: watch with distwatch.updates().")
    return sorted(histories, key=_distance_from_target, reverse=True)[:most]


def _weights(histories: Sequence[SignalHistory]) -> list[str]:
    return [history.signal.name.removeprefix("update/") for history in histories]


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
    picture=update_ratios_picture,
    applies=lambda overview: bool(with_ratio(overview)),
)
