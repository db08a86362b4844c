"""The last steps of each signal, and what stands out in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distwatch.errors import ConfigError, nearest
from distwatch.findings import spread
from distwatch.records import Floats, Table, readable
from distwatch.statistics import ROW
from distwatch.store.joining import ReadableTable

#: What is known of a step beside its statistics.
SPREAD = "spread"

#: A worker that is further behind than this many windows is not waited for.
_PATIENCE = 2


@dataclass(frozen=True)
class SignalLook:
    """One signal over the last steps at which it was looked at.

    Shapes: values, broken (n,). ``spread`` is that of the last step, ``replica`` the one
    whose means lie furthest from those of all, ``special`` the number of NaN and Inf, and
    ``unrest`` says how much attention the signal deserves: it has no unit.
    """

    name: str
    values: Floats
    broken: Any
    value: float
    spread: float
    replica: int | None
    special: int
    unrest: float


def check_statistic(statistic: str, tables: Sequence[Table]) -> None:
    """Refuse a statistic that no table has.

    Raises:
        ConfigError: naming the nearest.
    """
    known = [SPREAD]
    for table in tables:
        said = readable(np.zeros((0, len(table.fields))), table)
        known += [name for name in said if name not in known]
    if statistic not in known:
        raise ConfigError(
            f"unknown statistic {statistic!r}; nearest: {nearest(statistic, known)}."
        )


# Values near the largest number there is overflow in sums; that is no reason to complain.
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
        over: whether no more rows come, so that no worker is waited for.
    """
    places = [i for i, name in enumerate(stored.table.names) if name in chosen]
    if not places:
        return []
    steps = last_steps(stored, last, over=over)
    signals = slice(places[0], places[-1] + 1)
    within = [place - places[0] for place in places]
    rows = stored.read("rows", steps, signals)[:, :, within]
    merged = readable(stored.read("merged", steps, signals)[:, within], stored.table)
    each = readable(rows[..., : len(ROW.fields)])
    merged[SPREAD] = spread(each["mean"], axis=1)
    unknown = np.full(merged[SPREAD].shape, np.nan)
    values = np.asarray(merged.get(statistic, unknown), np.float64)
    special = merged["nans"] + merged["infs"]
    unrest = _unrest(values, merged)
    outliers = _outliers(each)
    return [
        SignalLook(
            name=stored.table.names[place],
            values=values[:, i],
            broken=special[:, i] > 0,
            value=_last(values[:, i]),
            spread=_last(merged[SPREAD][:, i]),
            replica=None if outliers is None else stored.replicas[int(outliers[i])],
            special=int(special[:, i].sum()),
            unrest=float(unrest[i]),
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


def _mean(values: Any, axis: int | tuple[int, ...]) -> Floats:
    """The mean of what is finite; NaN where nothing is."""
    finite = np.isfinite(values)
    total = np.where(finite, values, 0.0).sum(axis=axis)
    number = finite.sum(axis=axis)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _unrest(values: Floats, merged: dict[str, Any]) -> Floats:
    """How much signals change, beside their own size: shape (signal,).

    The larger of two numbers: how widely what is shown swings, as a part of its mean
    size, and how far the replicas lie apart, in standard deviations.
    """
    swing = np.sqrt(_mean((values - _mean(values, 0)) ** 2, 0))
    tiny = np.finfo(float).tiny
    swings = swing / np.maximum(np.nan_to_num(_mean(np.abs(values), 0)), tiny)
    apart = _mean(merged[SPREAD], 0) / np.maximum(np.nan_to_num(_mean(merged["std"], 0)), tiny)
    return np.maximum(np.nan_to_num(swings), np.nan_to_num(apart))


def _outliers(each: dict[str, Any]) -> Any:
    """The positions of the replicas that lie furthest out: shape (signal,); None if alone.

    Of two that lie equally far out, as two alone always do, the one whose values are
    spread more widely, as `Run.summary` has it.
    """
    means = each["mean"]
    if means.shape[1] < 2:
        return None
    known = ~np.isnan(means)
    total = np.where(known, means, 0.0).sum(axis=1, keepdims=True)
    centre = total / np.maximum(known.sum(axis=1, keepdims=True), 1)
    out = np.nan_to_num(_mean(np.abs(means - centre), 0))
    std = np.nan_to_num(_mean(each["std"], 0))
    furthest = out >= out.max(axis=0) * (1 - 1e-9)
    return np.argmax(np.where(furthest, std, -1.0), axis=0)
