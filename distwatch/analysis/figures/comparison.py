"""Two runs or more, on the signals that all have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

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

#: The letters of runs, and so how many can be compared.
LETTERS = "ABCDEFGH"

MOST = 20
_ROW = 24


@dataclass(frozen=True)
class Compared:
    """Runs: what all have, and what only some of them have."""

    runs: Sequence[Overview]

    @cached_property
    def _pairs(self) -> list[Matched]:
        first, *others = (run.signals for run in self.runs)
        return [Matched(first, other) for other in others]

    @cached_property
    def common(self) -> list[str]:
        """The names of the signals of all, in the order of the first."""
        first = [signal.name for signal in self.runs[0].signals]
        others = [{signal.name for signal in run.signals} for run in self.runs[1:]]
        return [name for name in first if all(name in names for names in others)]

    @property
    def not_in_all(self) -> list[list[str]]:
        """The names of the signals of each run that some other run does not have."""
        common = set(self.common)
        return [
            [signal.name for signal in run.signals if signal.name not in common]
            for run in self.runs
        ]

    @property
    def otherwise_measured(self) -> list[str]:
        """Common signals whose references, or places in the step, differ from the first's."""
        found = {name for pair in self._pairs for name in pair.otherwise_measured}
        return [name for name in self.common if name in found]


def side_by_side(*histories: SignalHistory) -> Figure:
    """Draw one signal of several runs, each merged over its replicas.

    Raises:
        SetupError: plotly is not installed.
    """
    first = histories[0]
    return figure(
        [trace for place, each in enumerate(histories) for trace in _merged(each, place)],
        height=HEIGHT,
        title=shown(first.signal.name),
        xaxis_title="step",
        yaxis_title=first.quantity.label(first.signal.reference),
        hovermode="closest",
    )


def _merged(history: SignalHistory, place: int) -> list[Trace]:
    colour, name = RUN_COLOURS[place], f"run {LETTERS[place]}"
    band, line, crosses = traces_of(history.only(()))
    band |= {
        "name": name,
        "fillcolor": faint(colour),
        "line": {**band["line"], "color": faint(colour, 0.55)},
    }
    line |= {
        "name": name,
        "line": {"color": colour, "dash": ("solid", "dash")[place % 2], "width": 1.8},
        "hovertemplate": f"step %{{x}}: %{{y:.4g}}<extra>{name}</extra>",
    }
    crosses["name"] = f"NaN or Inf in {name}"
    for trace in (band, line, crosses):
        trace["meta"] |= {"run": place, "series": -1, "ink": False}
        trace["legendgroup"] = name
    return [band, line, crosses]


def comparison(compared: Compared, statistic: str = "size", most: int = MOST) -> Figure:
    """Rank the common signals by how much their medians differ from those of the first run.

    Raises:
        SetupError: plotly is not installed.
    """
    names, times = ranked(compared, statistic, most)
    made = figure(
        [_reach(times), *(_dots(times, place) for place in range(1, len(compared.runs)))],
        height=110 + _ROW * max(1, len(names)),
        xaxis_title="median, as a multiple of that in A",
        showlegend=len(compared.runs) > 2,
    )
    widest = max(1.0, float(np.ceil(np.nanmax(np.abs(times), initial=0.0))))
    ticks = np.unique(np.round(np.linspace(-widest, widest, 5)))
    made.update_xaxes(
        tickvals=ticks,
        ticktext=[f"{'1/' * bool(t < 0)}{2.0 ** abs(t):g}{TIMES}" for t in ticks],
        range=[-widest * 1.05, widest * 1.05],
        zeroline=True,
        zerolinecolor="rgba(128,140,152,0.6)",
    )
    name_rows(made, names)
    return made


def _reach(times: Floats) -> Trace:
    """Bars from the smallest multiple to the largest, that of the first run among them."""
    low, high = (f(np.nan_to_num(times), axis=1, initial=0.0) for f in (np.min, np.max))
    return {
        "type": "bar",
        "x": high - low,
        "base": low,
        "y": np.arange(len(times)),
        "orientation": "h",
        "width": 0.5,
        "marker": {"color": "rgba(128,140,152,0.35)"},
        "hoverinfo": "skip",
        "showlegend": False,
        "meta": {"part": "reach"},
    }


def _dots(times: Floats, place: int) -> Trace:
    letter = LETTERS[place]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": times[:, place],
        "y": np.arange(len(times)),
        "marker": {"color": RUN_COLOURS[place], "size": 10},
        "name": f"run {letter}",
        "customdata": 2.0 ** times[:, place],
        "hovertemplate": "%{y}<br>in "
        + letter
        + f" %{{customdata:.3g}} times that in A<extra>run {letter}</extra>",
        "meta": {"part": "times", "run": place},
    }


def ranked(compared: Compared, statistic: str, most: int) -> tuple[list[str], Floats]:
    """Names, and log2 of each run's median over the first's, largest difference first.

    What is not above zero in the first run or in all others is left out.

    Returns:
        The names, and the multiples of shape (signal, run), NaN where there is none.
    """
    medians = np.array(
        [[_median(run, name, statistic) for run in compared.runs] for name in compared.common]
    ).reshape(-1, len(compared.runs))
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.log2(medians / medians[:, :1])
    times = np.where(np.isfinite(times), times, np.nan)
    known = np.isfinite(times[:, 1:]).sum(axis=1) > 0
    furthest = np.nan_to_num(np.abs(times)).max(axis=1, initial=0.0)
    order = np.argsort(-furthest, kind="stable")
    order = order[known[order]][:most]
    return [compared.common[place] for place in order], times[order]


def _median(run: Overview, name: str, statistic: str) -> float:
    history, place = run.find(name)
    if statistic not in history.kept:
        return np.nan
    mean = history.kept[statistic].mean[:, -1, place]
    known = mean[np.isfinite(mean)]
    return float(np.median(known)) if len(known) else np.nan
