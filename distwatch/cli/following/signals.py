"""The last steps of each signal, and which signals and replicas stand out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distwatch.errors import ConfigError, nearest
from distwatch.records import Floats, Table
from distwatch.statistics import ROW, SPREAD, replica_spread, special_elements
from distwatch.store.readable_tables import ReadableTable

#: A worker that is more than this many windows behind is not waited for.
_PATIENCE = 2


@dataclass(frozen=True)
class SignalLook:
    """One signal over the last steps at which it was looked at.

    Shapes: values, broken (n,). ``spread`` is that of the last step, ``replica`` the one
    whose means lie furthest from those of all, ``special`` the number of NaN and Inf, and
    ``attention`` says how much attention the signal deserves: it has no unit.
    """

    name: str
    values: Floats
    broken: Any
    value: float
    spread: float
    replica: int | None
    special: int
    attention: float


def check_statistic(statistic: str, tables: Sequence[Table]) -> None:
    """Refuse a statistic that no table has.

    Raises:
        ConfigError: naming the nearest.
    """
    known = list(dict.fromkeys([SPREAD.name, *(n for each in tables for n in each.values)]))
    if statistic not in known:
        raise ConfigError(
            f"unknown statistic {statistic!r}; nearest: {nearest(statistic, known)}."
        )


# Sums of values near the largest number overflow; that needs no warning.
@np.errstate(over="ignore", invalid="ignore")
def look_at(
    stored: ReadableTable, chosen: set[str], *, statistic: str, last: int, over: bool
) -> list[SignalLook]:
    """Read the last steps of a table's chosen signals, and nothing before them.

    Args:
        stored: the table.
        chosen: names of signals, also of other tables.
        statistic: what is shown, merged over the replicas.
        last: how many steps.
        over: whether the run has ended, so that no worker is waited for.
    """
    places = [i for i, name in enumerate(stored.table.names) if name in chosen]
    if not places:
        return []
    steps = last_steps(stored, last, over=over)
    signals = slice(places[0], places[-1] + 1)
    within = [place - places[0] for place in places]
    rows = stored.read("rows", steps, signals)[:, :, within]
    merged = stored.table.read(stored.read("merged", steps, signals)[:, within])
    each = ROW.read(rows[..., : len(ROW.fields)])
    apart = merged[SPREAD.name] = replica_spread(rows)
    values = np.asarray(merged.get(statistic, np.nan * apart), np.float64)
    special = special_elements(merged)
    attention = _attention(values, apart, merged["std"])
    outliers = _outliers(each)
    return [
        SignalLook(
            name=stored.table.names[place],
            values=values[:, i],
            broken=special[:, i] > 0,
            value=_last(values[:, i]),
            spread=_last(apart[:, i]),
            replica=None if outliers is None else stored.replicas[int(outliers[i])],
            special=int(special[:, i].sum()),
            attention=float(attention[i]),
        )
        for i, place in enumerate(places)
    ]


def last_steps(stored: ReadableTable, last: int, *, over: bool) -> slice:
    """The last steps that all workers have.

    Workers commit one after the other; a step that only some have committed would look
    like a smaller change. One that is far behind is not waited for: it may be dead.
    """
    stop = stored.steps
    far = _PATIENCE * stored.table.window
    if not over and stop:
        there = stored.read("present", slice(max(0, stop - far - 1), stop))
        behind = np.argmax(there[::-1], axis=0)
        stop -= int(behind[there.any(axis=0)].max(initial=0))
    return slice(max(0, stop - last), stop)


def _last(values: Floats) -> float:
    return float(values[-1]) if len(values) else np.nan


def _mean(values: Any, axis: int) -> Any:
    """The mean of what is finite; NaN where nothing is."""
    return np.ma.masked_invalid(values).mean(axis=axis).filled(np.nan)


def _attention(values: Floats, apart: Floats, std: Floats) -> Floats:
    """How much signals change, relative to their own size: shape (signal,).

    The larger of two numbers: the standard deviation of ``values`` over the steps, relative
    to their mean size, and how far the replicas' means lie apart, in standard deviations.
    """
    swing = np.sqrt(_mean((values - _mean(values, 0)) ** 2, 0))
    swings = _relative(swing, _mean(np.abs(values), 0))
    return np.maximum(swings, _relative(_mean(apart, 0), _mean(std, 0)))


def _relative(size: Floats, unit: Floats) -> Floats:
    """``size / unit``; 0 where ``size`` is not known."""
    return np.nan_to_num(size / np.maximum(np.nan_to_num(unit), np.finfo(float).tiny))


def _outliers(each: dict[str, Any]) -> Any:
    """The positions of the replicas furthest from the mean of all: shape (signal,).

    None if there is only one. Of replicas that are equally far, as two always are, the one
    with the largest standard deviation, as in `Run.summary`.
    """
    means = each["mean"]
    if means.shape[1] < 2:
        return None
    out = np.nan_to_num(_mean(np.abs(means - _mean(means, 1)[:, None]), 0))
    std = np.nan_to_num(_mean(each["std"], 0))
    furthest = out >= out.max(axis=0) * (1 - 1e-9)
    return np.argmax(np.where(furthest, std, -1.0), axis=0)
