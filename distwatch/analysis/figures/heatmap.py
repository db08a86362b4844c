"""All signals over all steps at once."""

from __future__ import annotations

import numpy as np

from distwatch.analysis.figures.style import LABEL, SCALE, TIMES, Figure, Trace, figure, shown
from distwatch.analysis.overview import History, Overview, quantity_named
from distwatch.analysis.overview.binning import Bins, Floats
from distwatch.errors import ConfigError

#: Colours end at this many times a row's median, and at that part of it.
WIDEST = 4.0

_ROW = 22
_LEAST_ROW = 11
_LOG = np.log2(WIDEST)


def heatmap(overview: Overview, statistic: str = "size", replica: int | None = None) -> Figure:
    """Draw every signal as a row of colours, relative to its own median.

    Each colour is the largest step of a bin, as a multiple of the median over the bins of
    that signal, so that signals of any scale can be compared, and spikes are visible.

    Args:
        overview: the run.
        statistic: "size", "l2", "std", "spread", "zeros" or "ratio".
        replica: the number of one; None for all of them together.

    Raises:
        ConfigError: there is no such statistic or replica, or it has a sign.
        SetupError: plotly is not installed.
    """
    series = _series(overview, replica)
    rows = [each for each in overview.histories if statistic in each.kept]
    _check(overview, statistic, bool(rows))
    # The ends of the columns: those of the table that has most bins.
    steps = edges_of(max((history.bins for history in rows), key=len))
    names = [signal.name for history in rows for signal in history.signals]
    values = np.concatenate([_on(steps, h, statistic, series) for h in rows], axis=1).T
    made = figure(
        [_trace(steps, values, statistic, series)],
        height=90 + len(names) * max(_LEAST_ROW, min(_ROW, 900 // len(names))),
        xaxis_title="step",
    )
    made.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[shown(name, LABEL) for name in names],
        autorange="reversed",
        showgrid=False,
        tickfont={"size": 10 if len(names) > 45 else 11.5},
        ticksuffix=" ",
    )
    return made


def _series(overview: Overview, replica: int | None) -> int:
    if replica is None:
        return -1
    if replica not in overview.info.replicas:
        known = ", ".join(map(str, overview.info.replicas))
        raise ConfigError(f"the run has no replica {replica}; it has: {known}.")
    return overview.info.replicas.index(replica)


def _check(overview: Overview, statistic: str, found: bool) -> None:
    if quantity_named(statistic).signed:
        raise ConfigError(
            f"{statistic!r} may be below zero, so it is no multiple of its median; choose "
            "'size' or 'std', or draw it as curves."
        )
    if not found:
        has = ", ".join(repr(quantity.name) for quantity in overview.quantities) or "no rows"
        raise ConfigError(f"no signal of the run has {statistic!r}; it has: {has}.")


def _trace(steps: Floats, values: Floats, statistic: str, series: int) -> Trace:
    return {
        "type": "heatmap",
        "x": steps,
        "y": np.arange(len(values)),
        "z": relative(values),
        "customdata": values,
        "zmin": -_LOG,
        "zmax": _LOG,
        "colorscale": SCALE,
        "hoverongaps": False,
        "hovertemplate": "%{y}<br>step %{x}<br>%{customdata:.4g}<extra></extra>",
        "meta": {"part": "heat", "statistic": statistic, "series": series},
        "colorbar": {
            "title": {"text": "relative to its median", "side": "right"},
            "tickvals": [-2, -1, 0, 1, 2],
            "ticktext": [f"{part}{TIMES}" for part in ("¼", "½", "1", "2", "4")],
            "thickness": 12,
            "outlinewidth": 0,
            "len": 260,
            "lenmode": "pixels",
            "y": 1,
            "yanchor": "top",
        },
    }


def relative(values: Floats) -> Floats:
    """How many times its row's median each value is, as log2: shape (signal, bin)."""
    usual = np.array([np.median(row[row > 0]) if (row > 0).any() else np.nan for row in values])
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log2(values / usual[:, None])
    # A row that is zero throughout equals its median.
    found = np.where(values == 0, np.where(np.isnan(usual)[:, None], 0.0, -_LOG), found)
    return np.asarray(np.clip(found, -_LOG, _LOG))


def edges_of(bins: Bins) -> Floats:
    """The ends of bins along the step axis: shape (bin + 1,)."""
    between = (bins.last[:-1] + bins.first[1:]) / 2.0
    return np.concatenate([[bins.first[0] - 0.5], between, [bins.last[-1] + 0.5]])


def _on(steps: Floats, history: History, statistic: str, series: int) -> Floats:
    """The largest step of each bin, resampled to columns: shape (column, signal)."""
    binned = history.kept[statistic]
    values = binned.high[:, series if binned.high.shape[1] > 1 else 0]
    own = edges_of(history.bins)
    if len(own) == len(steps) and (own == steps).all():
        return values
    middle = (steps[:-1] + steps[1:]) / 2.0
    place = np.clip(np.searchsorted(own, middle, side="right") - 1, 0, len(values) - 1)
    return values[place]
