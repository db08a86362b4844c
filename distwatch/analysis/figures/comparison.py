"""Two runs, on the signals that both have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distwatch.analysis.figures.curves import HEIGHT, traces_of
from distwatch.analysis.figures.style import (
    RUN_COLOURS,
    TIMES,
    Figure,
    Trace,
    faint,
    figure,
    name_rows,
    shown,
)
from distwatch.analysis.matching import Matched
from distwatch.analysis.overview import Overview, SignalHistory
from distwatch.analysis.overview.binning import Floats

MOST = 20
_ROW = 24


@dataclass(frozen=True)
class Compared:
    """Two runs: what both have, and what only one of them has."""

    first: Overview
    second: Overview

    @property
    def signals(self) -> Matched:
        """Which signals both have."""
        return Matched(self.first.signals, self.second.signals)

    @property
    def common(self) -> list[str]:
        """The names of the signals of both, in the order of the first."""
        return [signal.name for signal in self.signals.common]


def side_by_side(first: SignalHistory, second: SignalHistory) -> Figure:
    """Draw one signal of two runs, each merged over its replicas.

    Raises:
        SetupError: plotly is not installed.
    """
    return figure(
        [*_merged(first, 0), *_merged(second, 1)],
        height=HEIGHT,
        title=shown(first.signal.name),
        xaxis_title="step",
        yaxis_title=first.quantity.label(first.signal.reference),
        hovermode="closest",
    )


def _merged(history: SignalHistory, place: int) -> list[Trace]:
    colour, name = RUN_COLOURS[place], f"run {'AB'[place]}"
    band, line, crosses = traces_of(history.only(()))
    band |= {
        "name": name,
        "fillcolor": faint(colour),
        "line": {**band["line"], "color": faint(colour, 0.55)},
    }
    line |= {
        "name": name,
        "line": {"color": colour, "dash": ("solid", "dash")[place], "width": 1.8},
        "hovertemplate": f"step %{{x}}: %{{y:.4g}}<extra>{name}</extra>",
    }
    crosses["name"] = f"NaN or Inf in {name}"
    for trace in (band, line, crosses):
        trace["meta"] |= {"run": place, "series": -1, "ink": False}
        trace["legendgroup"] = name
    return [band, line, crosses]


def comparison(compared: Compared, statistic: str = "size", most: int = MOST) -> Figure:
    """Rank the common signals by how much their median differs between two runs.

    Raises:
        SetupError: plotly is not installed.
    """
    names, times = ranked(compared, statistic, most)
    bars = {
        "type": "bar",
        "x": times,
        "y": np.arange(len(names)),
        "orientation": "h",
        "width": 0.6,
        "marker": {"color": [RUN_COLOURS[int(each > 0)] for each in times]},
        "customdata": 2.0**times,
        "hovertemplate": "%{y}<br>in B %{customdata:.3g} times that in A<extra></extra>",
        "meta": {"part": "times"},
    }
    made = figure(
        [bars],
        height=110 + _ROW * max(1, len(names)),
        xaxis_title="median in B / median in A",
        showlegend=False,
    )
    widest = max(1.0, float(np.ceil(np.abs(times).max(initial=0.0))))
    ticks = np.unique(np.round(np.linspace(-widest, widest, 5)))
    made.update_xaxes(
        tickvals=ticks,
        ticktext=[f"{2.0**t:g}{TIMES}" for t in ticks],
        range=[-widest * 1.05, widest * 1.05],
        zeroline=True,
        zerolinecolor="rgba(128,140,152,0.6)",
    )
    name_rows(made, names)
    return made


def ranked(compared: Compared, statistic: str, most: int) -> tuple[list[str], Floats]:
    """Names, and log2 of the second run's median over the first's, largest difference first."""
    medians = (
        (
            name,
            _median(compared.first, name, statistic),
            _median(compared.second, name, statistic),
        )
        for name in compared.common
    )
    found = [(name, float(np.log2(b / a))) for name, a, b in medians if a > 0 and b > 0]
    found = sorted(found, key=lambda pair: -abs(pair[1]))[:most]
    return [name for name, _ in found], np.array([times for _, times in found])


def _median(run: Overview, name: str, statistic: str) -> float:
    history, place = run.find(name)
    if statistic not in history.kept:
        return np.nan
    mean = history.kept[statistic].mean[:, -1, place]
    known = mean[np.isfinite(mean)]
    return float(np.median(known)) if len(known) else np.nan
