"""Layers whose units are dead or saturated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from distwatch.findings.findings import NOTE, WARNING, Finding
from distwatch.findings.rules import rule
from distwatch.findings.tables import Recorded, TableDigest
from distwatch.text import counted, listed

#: With fewer rows nothing is concluded from the last part of a run.
ROWS = 8

#: From this share of its units on a layer is warned of: "you may find that as much as 40% of
#: your network can be dead" where the learning rate is too high (A. Karpathy, notes of
#: Stanford's CS231n, "ReLU").
_MANY_UNITS = 0.4

#: Where the units are not counted (in older stores): shares of elements that stay exactly as
#: they are, or are exactly zero. Of a ReLU layer about half are zero (K. He et al., "Delving
#: Deep into Rectifiers", 2015), and so a quarter to a half unchanged; units that are zero for
#: every example learn no more (A. L. Maas et al., "Rectifier Nonlinearities Improve Neural
#: Network Acoustic Models", 2013). More zeros of values are tolerated, since dropout and
#: pooling cause some.
_UNCHANGED, _ZERO = 0.6, 0.85
#: From this share on hardly any unit of the layer is alive.
_DEAD = 0.95


#: How many further layers are in a sentence.
_LISTED = 3


#: How many more units, on average, may be constant at a step by chance.
_SELDOM = 0.5

_OF_ZERO = (
    "they may be dead. A lower learning rate, or an activation that lets some gradient through "
    "below zero, may help."
)
_OF_WHOLE = (
    "nothing passes through it any more. A lower learning rate, smaller first weights, or an "
    "activation that lets some gradient through below zero, may help."
)
_OF_EQUAL = (
    "they may be saturated, or the examples equal. A lower learning rate, or inputs and "
    "weights of smaller size, may help."
)
_OF_ONE = "by one unit that is always the same no examples are told apart."


class _Dead(NamedTuple):
    """A signal whose units, or some of them, tell nothing."""

    share: float
    signal: str
    order: float
    step: int
    #: How many, of how many.
    part: str
    #: What is so of them.
    what: str
    severity: str
    advice: str
    fault: str


@rule(
    "DeadUnits",
    'A. Karpathy, notes of CS231n, "ReLU": as much as 40% of a network can be dead',
    many_units=_MANY_UNITS,
    zeros=_ZERO,
    unchanged=_UNCHANGED,
)
def dead(run: Recorded) -> list[Finding]:
    """Layers of which units are the same for every example, in the last part."""
    found = [each for table in run.tables for each in _dead_of(run, table)]
    if not found:
        return []
    # A layer may be watched against several references: the first of them tells.
    first: dict[str, _Dead] = {}
    for each in found:
        first.setdefault(each.signal.partition("@")[0], each)
    found = list(first.values())
    # Behind a dead layer all others put out one value, too.
    found.sort(key=lambda x: (-x.share, 0.0) if x.share < _DEAD else (-1.0, x.order))
    found.sort(key=lambda each: each.severity != WARNING)
    most, *further = _each_once(found)
    brief = f"{most.part} of {most.signal} {most.what} from step {most.step} on"
    if further:
        listed_ = [
            f"{each.part} of {each.signal}{'' if each.what == most.what else f' {each.what}'}"
            for each in further[:_LISTED]
        ]
        if len(further) > _LISTED:
            listed_.append(f"some of {counted(len(further) - _LISTED, 'more signal')}")
        brief += f" (also {listed(listed_)})"
    others = tuple(each.signal for each in further)
    text = f"{brief}: {most.advice}"
    finding = Finding("dead", most.severity, text, most.signal, most.step, None, others, brief)
    share = most.share
    return [
        replace(finding, share=share, value=share, threshold=_MANY_UNITS, faults=(most.fault,))
    ]


def _each_once(found: list[_Dead]) -> list[_Dead]:
    """Without the model's output, where it is that of a layer that is among them."""
    same = {each.order for each in found if each.signal != "activation/output"}
    return [
        each for each in found if each.signal != "activation/output" or each.order not in same
    ]


def _dead_of(run: Recorded, table: TableDigest) -> Iterator[_Dead]:
    if table.steps < ROWS:
        return
    for i, name in enumerate(table.table.names):
        if name.startswith("activation/"):
            known = table.has_units and table.timeline.in_last_part("unit_steps")[i] >= ROWS
            found = _by_units(table, i) if known else _by_elements(run, table, i)
            if found is not None:
                yield found


def _by_units(table: TableDigest, i: int) -> _Dead | None:
    """From the numbers of units that are the same for a whole batch."""
    steps, units, zero, same = (
        float(table.timeline.in_last_part(name)[i])
        for name in ("unit_steps", "units", "zero_units", "constant_units")
    )
    number, since = _lasting_units(table, i)
    if number < 1:
        return None
    signal, units = table.table.signals[i], round(units / steps)
    all_zero = zero >= 0.5 * same
    if all_zero:
        what = "were zero for the whole batch"
        advice = _OF_WHOLE if number == units else _OF_ZERO
    else:
        what = "were the same for every example"
        advice = _OF_ONE if units == 1 else _OF_EQUAL
    many = number >= _MANY_UNITS * units and signal.trained is not False
    order = math.inf if signal.order is None else signal.order
    part, severity = f"{number} of {counted(units, 'unit')}", WARNING if many else NOTE
    fault = "dead_relu" if all_zero else "saturated"
    return _Dead(number / units, signal.name, order, since, part, what, severity, advice, fault)


def _lasting_units(table: TableDigest, i: int) -> tuple[int, int]:
    """How many units are constant in the whole last part, and since when."""
    steps, units, same, squares = (
        float(table.timeline.in_last_part(name)[i])
        for name in ("unit_steps", "units", "constant_units", "constant_squares")
    )
    units, mean = units / steps, same / steps
    since = since_last_part(table)
    if table.units is None:
        return 0, since
    number = math.ceil(table.units.highest(i, since) * units - 1e-6)
    # Where there are seldom more, these are always the same ones.
    if mean - number > _SELDOM:
        number = min(number, _by_chance(units, steps, mean, squares / steps))
    return number, table.units.at_least(i, number / units)[0]


def _by_chance(units: float, steps: float, mean: float, squares: float) -> int:
    """How many units are constant at every step, when others are at some by chance.

    If each of the others is constant at a step with the same probability p, the number of
    all that are has the mean d + (units - d) p and the variance (units - d) p (1 - p), from
    which d follows. The variance of few steps is not known well, and the larger it is, the
    fewer are dead for certain; so it is taken two standard errors larger.
    """
    variance = max(squares - mean**2, 0.0) * (1.0 + 2.0 * math.sqrt(2.0 / (steps - 1.0)))
    free = units - mean
    if free <= variance:
        return round(mean) if free <= 0 else 0
    return max(round(mean - free * variance / (free - variance)), 0)


def _by_elements(run: Recorded, table: TableDigest, i: int) -> _Dead | None:
    """From the share of elements that are zero, or did not change."""
    signal, share = table.table.signals[i], float(share_of_zeros(table)[i])
    of_values = signal.reference == "none"
    least = _ZERO if of_values else _UNCHANGED
    if not share >= least:
        return None
    if not of_values and not _something_changes(run):
        return None
    since = since_last_part(table)
    # At single steps it may be somewhat smaller than on average.
    if (held := table.zeros.highest(i, since)) >= least:
        since, _ = table.zeros.at_least(i, held)
    part = f"{percent(share)} of the elements"
    what = "were exactly zero" if of_values else "did not change at all"
    advice = (
        "up to that share of its units may be dead or saturated. A lower learning rate or a "
        "leaky activation may help."
    )
    severity = WARNING if share >= _DEAD else NOTE
    fault = "dead_relu" if of_values else "saturated"
    return _Dead(share, signal.name, i, since, part, what, severity, advice, fault)


def _something_changes(run: Recorded) -> bool:
    """Whether batches are known to change: of one batch a frozen layer puts out the same."""
    return any(table.batches is not None and table.batches.changed for table in run.tables)


def share_of_zeros(table: TableDigest) -> np.ndarray:
    """Which share of the elements is exactly zero in the last part: shape (signal,)."""
    zeros, count = map(table.timeline.in_last_part, ("zeros", "count"))
    enough = (count > 0) & (table.steps >= ROWS)
    return np.where(enough, zeros / np.maximum(count, 1.0), np.nan)


def since_last_part(table: TableDigest) -> int:
    """The first step of the last part."""
    return int(table.timeline.first_step[table.timeline.last_part])


def percent(share: float) -> str:
    """A share in words; less than all is never rounded to 100%."""
    return "All" if share == 1.0 else f"{min(100 * share, 99.9):.3g}%"
