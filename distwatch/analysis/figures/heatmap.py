"""All signals over all steps at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from distwatch.analysis.figures import svg
from distwatch.analysis.figures.labels import labels
from distwatch.analysis.figures.style import (
    BROKEN,
    SCALE,
    TIMES,
    Figure,
    Trace,
    figure,
    shown,
)
from distwatch.analysis.overview import History, Overview, quantity_named
from distwatch.analysis.overview.binning import Bins, Flags, Floats
from distwatch.errors import ConfigError

#: A row's largest and smallest multiple of its median, as log2; what is zero is the smallest.
FURTHEST = 6.0

#: Colours tell apart what most of the values are: this share lies beyond either end of them.
_BEYOND = 0.02

#: The least that the scale reaches to either side: a factor of 1.25, so that noise looks calm.
_LEAST = math.log2(1.25)

#: What the scale may be marked with; fifths where it reaches no factor of two.
_MARKS = tuple(map(float, range(-6, 7)))
_MOST_MARKS = 5
_FINE_MARKS = (math.log2(0.8), 0.0, math.log2(1.25))

#: The height of a row, which shrinks where there are many, and of a label.
_ROW, _ALL_ROWS, _LEAST_ROW = 22, 900, 4
_LABEL_HEIGHT = 11

#: Of a picture: columns, and colours.
_COLUMNS, _SHADES = 130, 24

#: NaN of a single step is drawn at least this part of the width.
_VISIBLE = 1 / 300


def heatmap(overview: Overview, statistic: str = "size", replica: int | None = None) -> Figure:
    """Draw every signal as a row of colours, relative to its own median.

    Each colour is the largest step of a bin, as a multiple of the median over the bins of
    that signal, so that signals of any scale can be compared. Colours are spread over what
    most values are; the few beyond have the colour of the end. Orange is NaN or Inf.

    Args:
        overview: the run.
        statistic: "size", "l2", "std", "spread", "zeros" or "ratio".
        replica: the number of one; None for all of them together.

    Raises:
        ConfigError: there is no such statistic or replica, or it has a sign.
        SetupError: plotly is not installed.
    """
    series = _series(overview, replica)
    steps, names, values, broken = _rows(overview, statistic, series)
    height, named = rows_of(len(names))
    made = figure(
        [_trace(steps, values, statistic, series), _broken(steps, broken)],
        height=116 + round(len(names) * height),
        xaxis_title="step",
    )
    made.update_layout(margin={"t": 64})
    made.update_yaxes(
        tickvals=list(range(0, len(names), named)),
        ticktext=[shown(label) for label in labels(names)[::named]],
        autorange="reversed",
        showgrid=False,
        tickfont={"size": 10 if height < _ROW / 2 else 11.5},
        ticksuffix=" ",
    )
    return made


def heatmap_picture(
    overview: Overview, statistic: str = "size", replica: int | None = None
) -> str:
    """The same as a small picture, of as many signals as it has room for.

    Raises:
        ConfigError: see `heatmap`.
    """
    steps, names, values, broken = _rows(overview, statistic, _series(overview, replica))
    found = relative(values)
    scale, _ = scale_of(found)
    low, high = scale["zmin"], scale["zmax"]
    shown_rows = min(len(names), svg.MOST_ROWS)
    cells = [
        cell
        for row in range(shown_rows)
        for cell in _cells(row, (found[row] - low) / (high - low), widened(broken)[row])
    ]
    below = svg.MARGIN + svg.ROW * shown_rows + 12
    left_out = len(names) - shown_rows
    said = f"step; {left_out} more signals are left out" if left_out else "step"
    first, last = f"{steps[0] + 0.5:g}", f"{steps[-1] - 0.5:g}"
    scale_said = f"from {2.0**low:.3g}{TIMES} (dark) to {2.0**high:.3g}{TIMES} its median"
    parts = [
        *svg.names_of_rows(names[:shown_rows]),
        *cells,
        svg.text(svg.NAMES, 12, scale_said),
        *svg.ends(first, last, said, below),
    ]
    return svg.drawing("All signals over all steps", below + 6, parts)


def _cells(row: int, shares: Floats, broken: Any) -> Iterator[str]:
    """The rectangles of a row: neighbours of one colour are one."""
    parts = np.array_split(np.arange(len(shares)), min(_COLUMNS, len(shares)))
    colours = [_colour(shares[part], broken[part]) for part in parts]
    width = (svg.WIDTH - 4 - svg.NAMES) / len(parts)
    place = 0
    for colour, same in itertools.groupby(colours):
        number = len(list(same))
        if colour:
            yield (
                f'<rect x="{svg.NAMES + place * width:.1f}" y="{svg.MARGIN + svg.ROW * row}" '
                f'width="{number * width + 0.2:.1f}" height="{svg.ROW - 1}" fill="{colour}" '
                'shape-rendering="crispEdges"/>'
            )
        place += number


def _colour(shares: Floats, broken: Any) -> str:
    """That of the largest of some values; "" where none is known."""
    if np.any(broken):
        return BROKEN
    known = shares[~np.isnan(shares)]
    # Few colours, so that many neighbours are alike.
    return svg.viridis(round(float(known.max()) * _SHADES) / _SHADES) if len(known) else ""


def _rows(
    overview: Overview, statistic: str, series: int
) -> tuple[Floats, list[str], Floats, Flags]:
    """The ends of the columns, the names, and the values and flags: shape (signal, column)."""
    rows = [each for each in overview.histories if statistic in each.kept]
    _check(overview, statistic, bool(rows))
    # The ends of the columns: those of the table that has most bins.
    steps = edges_of(max((history.bins for history in rows), key=len))
    names = [signal.name for history in rows for signal in history.signals]
    values = np.concatenate([_values_on(steps, h, statistic, series) for h in rows], axis=1).T
    broken = np.concatenate([_on(steps, h.bins, h.broken[:, series]) for h in rows], axis=1).T
    return steps, names, values, broken


def rows_of(signals: int) -> tuple[float, int]:
    """The height of a row, and each how many-th has a label, so that a screen holds all."""
    height = max(_LEAST_ROW, min(_ROW, _ALL_ROWS / max(1, signals)))
    return height, math.ceil(_LABEL_HEIGHT / height)


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
    found = relative(values)
    scale, marks = scale_of(found)
    return {
        "type": "heatmap",
        "x": steps,
        "y": np.arange(len(values)),
        "z": found,
        "customdata": values,
        **scale,
        "colorscale": SCALE,
        "hoverongaps": False,
        "hovertemplate": "%{y}<br>step %{x}<br>%{customdata:.4g}<extra></extra>",
        "meta": {"part": "heat", "statistic": statistic, "series": series},
        # Above the rows, where it has room however few they are.
        "colorbar": {
            "title": {"text": "relative to its median", "side": "top", "font": {"size": 12}},
            **marks,
            "orientation": "h",
            "thickness": 10,
            "outlinewidth": 0,
            "len": 260,
            "lenmode": "pixels",
            "x": 1,
            "xanchor": "right",
            "y": 1,
            "yanchor": "bottom",
            "ypad": 4,
        },
    }


def relative(values: Floats) -> Floats:
    """How many times its row's median each value is, as log2: shape (signal, bin)."""
    usual = np.array([np.median(row[row > 0]) if (row > 0).any() else np.nan for row in values])
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log2(values / usual[:, None])
    # A row that is zero throughout equals its median.
    found = np.where(values == 0, np.where(np.isnan(usual)[:, None], 0.0, -FURTHEST), found)
    return np.asarray(np.clip(found, -FURTHEST, FURTHEST))


def scale_of(found: Floats) -> tuple[dict[str, float], dict[str, Any]]:
    """Between which values colours are spread, and the marks of the scale.

    Args:
        found: what `relative` finds.
    """
    known = found[~np.isnan(found)]
    low, high = np.quantile(known, [_BEYOND, 1 - _BEYOND]) if len(known) else (0.0, 0.0)
    low, high = min(float(low), -_LEAST), max(float(high), _LEAST)
    marks = [mark for mark in _MARKS if low <= mark <= high]
    # From 1 on to both sides, so that 1 is among them.
    marks = [mark for mark in marks if mark % math.ceil(len(marks) / _MOST_MARKS) == 0]
    if len(marks) < 2:
        marks = [mark for mark in _FINE_MARKS if low <= mark <= high]
    texts = [f"{2.0**mark:.3g}{TIMES}" for mark in marks]
    return {"zmin": low, "zmax": high}, {"tickvals": marks, "ticktext": texts}


def _broken(steps: Floats, broken: Flags) -> Trace:
    """What covers the steps with NaN or Inf."""
    return {
        "type": "heatmap",
        "x": steps,
        "y": np.arange(len(broken)),
        "z": np.where(widened(broken), 1.0, np.nan),
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, BROKEN], [1, BROKEN]],
        "showscale": False,
        "hoverongaps": False,
        "hovertemplate": "%{y}<br>step %{x}<br>NaN or Inf<extra></extra>",
        "meta": {"part": "broken"},
    }


def widened(broken: Flags) -> Flags:
    """Flags wide enough to be seen: shape (signal, bin)."""
    wide = broken.copy()
    for by in range(1, int(broken.shape[1] * _VISIBLE) + 1):
        wide[:, by:] |= broken[:, :-by]
        wide[:, :-by] |= broken[:, by:]
    return wide


def edges_of(bins: Bins) -> Floats:
    """The ends of bins along the step axis: shape (bin + 1,)."""
    between = (bins.last[:-1] + bins.first[1:]) / 2.0
    return np.concatenate([[bins.first[0] - 0.5], between, [bins.last[-1] + 0.5]])


def _values_on(steps: Floats, history: History, statistic: str, series: int) -> Floats:
    """The largest step of each bin, on columns: shape (column, signal)."""
    high = history.kept[statistic].high
    return np.asarray(_on(steps, history.bins, high[:, series if high.shape[1] > 1 else 0]))


def _on(steps: Floats, bins: Bins, values: Any) -> Any:
    """What is known of bins, resampled to columns: shape (column, signal)."""
    own = edges_of(bins)
    if len(own) == len(steps) and (own == steps).all():
        return values
    middle = (steps[:-1] + steps[1:]) / 2.0
    place = np.clip(np.searchsorted(own, middle, side="right") - 1, 0, len(values) - 1)
    return values[place]
