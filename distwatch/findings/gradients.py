"""Variables that no gradient reaches, and updates that are too small or too large."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from distwatch.findings.findings import CERTAIN, NOTE, WARNING, Finding, and_more
from distwatch.findings.rules import AT_ONCE, rule
from distwatch.findings.streaks import NONE
from distwatch.findings.tables import Recorded, TableDigest
from distwatch.findings.units import ROWS, since_last_part
from distwatch.records import NO_GRADIENT
from distwatch.signals import Gradients
from distwatch.text import capitalized, counted, listed

#: The norm of an update over that of its weight is about 1e-3 in a healthy training
#: (A. Karpathy, notes of Stanford's CS231n, "Ratio of weights:updates"); two orders of
#: magnitude to either side are tolerated.
_SLOW, _FAST = 1e-5, 1e-1
#: A weight that started at zero is the sum of its updates: after t random ones of equal
#: norm its own is sqrt(t) times theirs, so a healthy ratio is 1 / sqrt(t). Twice that.
_FROM_ZERO = 2.0
#: Smaller than half a unit in the last place of float32 (6e-8) nothing is added at all; as
#: large as the weight itself an update leaves nothing of it.
_LOST_IN_ROUNDING, _OVERWRITING = 1e-7, 1.0

#: A loss that fell to this part of what it was in the beginning leaves little to learn.
_SOLVED = 1e-3

#: How many names are in a sentence.
_NAMED = 4

_GRADIENTS = tuple(f"{prefix}/" for prefix in Gradients.prefixes)


class _Still(NamedTuple):
    """A variable whose gradient, or update, is exactly zero up to the end."""

    name: str
    since: int
    #: Whether it has been from its first row on.
    always: bool
    elements: float
    position: int


@rule("WithoutGradient", asked=AT_ONCE)
def without_gradient(run: Recorded) -> Iterator[Finding]:
    """Variables that the loss does not depend on, so that their gradient is None."""
    paths = [path for path, why in run.info.unwatched.items() if why == NO_GRADIENT]
    if not paths:
        return
    named = listed(paths[:_NAMED])
    if len(paths) > _NAMED:
        named = (
            f"{', '.join(paths[:_NAMED])} and {counted(len(paths) - _NAMED, 'more variable')}"
        )
    are = "is" if len(paths) == 1 else "are"
    brief = f"no gradient of the loss reaches {named}, which {are} trainable"
    text = (
        f"{capitalized(brief)}: the loss does not depend on "
        f"{'it' if len(paths) == 1 else 'them'}. Look for a stop_gradient, a conversion to "
        "NumPy or whole numbers, or a part of the model that is not used."
    )
    yield Finding(
        "without_gradient", WARNING, text, paths[0], others=tuple(paths[1:]), brief=brief,
        faults=("frozen_or_disconnected",), confidence=CERTAIN,
    )  # fmt: skip


@rule("NoGradient", solved=_SOLVED)
def no_gradient(run: Recorded) -> Iterator[Finding]:
    """Variables whose gradient is exactly zero in the whole of the last part."""
    all_, still = _still(run, _GRADIENTS)
    found = _but_small_parts(all_, still)
    if not found:
        return
    first, others = _first_and_others(found)
    since = first.since
    brief = (
        f"{first.name}{and_more(others)} {'were' if others else 'was'} exactly zero from step "
        f"{since} on"
    )
    if len(still) == len(all_) and _is_solved(run, still):
        text = f"{brief}: nothing is left to learn, as far as the loss tells."
        yield Finding("no_gradient", NOTE, text, first.name, since, None, others, brief)
        return
    text = f"{brief}: no gradient arrives there. Look for dead units in later layers."
    yield Finding(
        "no_gradient", WARNING, text, first.name, since, None, others, brief,
        faults=("frozen_or_disconnected", "dead_relu"),
    )  # fmt: skip


@rule(
    "UpdateRatio",
    'A. Karpathy, notes of CS231n, "Ratio of weights:updates"',
    slow=_SLOW,
    fast=_FAST,
)
def update_ratios(run: Recorded) -> Iterator[Finding]:
    """Weights that hardly change any more in the last part, or change too much."""
    ratios = [
        (ratio, table, signal)
        for table in run.tables
        if table.has_ratio
        for signal, ratio in _ratios(table)
    ]
    slow = sorted((each for each in ratios if 0.0 < each[0] < _SLOW), key=lambda each: each[0])
    fast = sorted(
        (each for each in ratios if each[0] > _fast(each[1])), key=lambda each: -each[0]
    )
    if fast:
        yield _out_of_range(
            fast,
            "up to",
            "the training may be unstable. A lower learning rate may help.",
            grave=fast[0][0] > _OVERWRITING,
            fault="learning_rate_too_high",
        )
    yield from _unchanged(run)
    if slow:
        advice = " A higher learning rate may help." if not fast else ""
        yield _out_of_range(
            slow,
            "down to",
            f"it hardly learns any more.{advice}",
            grave=slow[0][0] < _LOST_IN_ROUNDING,
            fault="learning_rate_too_low",
        )


def _out_of_range(
    found: list[tuple[float, TableDigest, int]],
    bound: str,
    advice: str,
    *,
    grave: bool,
    fault: str,
) -> Finding:
    ratio, table, signal = found[0]
    name, since = table.table.names[signal], since_last_part(table)
    others = _names(each[1:] for each in found[1:])
    brief = (
        f"{name}{and_more(others)}: updates from step {since} on are {bound} {ratio:.2g} of "
        "their weight's norm"
    )
    text = f"{brief}, where about 0.001 is healthy: {advice}"
    severity = WARNING if grave else NOTE
    return Finding(
        "update_ratio", severity, text, name, since, None, others, brief,
        value=ratio, faults=(fault,),
    )  # fmt: skip


def _unchanged(run: Recorded) -> Iterator[Finding]:
    """Weights that no step changes any more."""
    all_, still = _still(run, ("update/",))
    found = _but_small_parts(all_, still)
    if not found:
        return
    first, others = _first_and_others(found)
    since = first.since
    brief = f"{first.name}{and_more(others)}: not changed by any step from {since} on"
    if len(still) == len(all_) and (
        _is_solved(run, still) or not any(each.always for each in still)
    ):
        text = f"{brief}. The task may be solved, or the learning rate have come to its end."
        yield Finding("update_ratio", NOTE, text, first.name, since, None, others, brief)
        return
    text = f"{brief}. Is the learning rate zero, or does no gradient arrive there?"
    yield Finding(
        "update_ratio", WARNING, text, first.name, since, None, others, brief,
        value=0.0, faults=("frozen_or_disconnected",),
    )  # fmt: skip


def _first_and_others(found: list[_Still]) -> tuple[_Still, tuple[str, ...]]:
    """What was the first to be zero, and the names of the others."""
    first = min(found, key=lambda each: each.since)
    return first, tuple(each.name for each in found if each is not first)


def _still(run: Recorded, starts: tuple[str, ...]) -> tuple[list[_Still], list[_Still]]:
    """Signals of values, and those of them that have been zero for a while, to the end."""
    found: list[_Still] = []
    still: list[_Still] = []
    for table in run.tables:
        count = table.timeline.in_last_part("count")
        for i, name in enumerate(table.table.names):
            if not name.startswith(starts) or not _of_values(table, i) or not count[i]:
                continue
            since, rows = table.zeros.at_least(i, 1.0)
            each = _Still(name, since, since == table.extent[0], float(count[i]), len(found))
            found.append(each)
            if since != NONE and rows >= ROWS and since <= since_last_part(table):
                still.append(each)
    return found, still


def _but_small_parts(all_: list[_Still], still: list[_Still]) -> list[_Still]:
    """Without variables beside which a larger one of the same layer is not zero.

    Something arrives at such a layer. That of a bias may cancel: that of a critic, which
    adds to the score of what is real as much as it takes from that of what is not.
    """
    zero = {each.name for each in still}
    largest: dict[str, float] = {}
    for each in all_:
        if each.name not in zero:
            layer = _layer(each.name)
            largest[layer] = max(largest.get(layer, 0.0), each.elements)
    return [each for each in still if not _is_small_part(each, largest)]


def _is_small_part(each: _Still, largest: dict[str, float]) -> bool:
    other = largest.get(_layer(each.name), 0.0)
    return each.elements < other or (each.elements == other and each.name.endswith("/bias"))


def _layer(name: str) -> str:
    """The kind of signal and the layer that a variable belongs to; itself without a layer."""
    layer = name.rpartition("/")[0]
    return layer if "/" in layer else name


def _is_solved(run: Recorded, still: list[_Still]) -> bool:
    """Whether that all of them came to rest may be because nothing is left to learn."""
    losses = [
        (table, i)
        for table in run.tables
        for i, name in enumerate(table.table.names)
        if name.startswith("loss") and _of_values(table, i)
    ]
    if not losses:
        # Nothing is known of it; what learned before may have come to its end.
        return not any(each.always for each in still)
    return all(_is_small(*loss) for loss in losses)


def _is_small(table: TableDigest, i: int) -> bool:
    line = table.timeline
    total, steps = line.sums["change"][:, i], line.sums["changes"][:, i]
    means = total[steps > 0] / steps[steps > 0]
    last, count = (line.in_last_part(name)[i] for name in ("change", "changes"))
    return bool(count) and bool(last / count <= _SOLVED * means[0])


def _ratios(table: TableDigest) -> Iterator[tuple[int, float]]:
    """The update-to-weight ratio in the last part, where weights are not zero."""
    if table.steps < ROWS:
        return
    change, weight = map(table.timeline.in_last_part, ("change_l2sq", "weight_l2sq"))
    for signal, name in enumerate(table.table.names):
        known = name.startswith("update/") and _of_values(table, signal)
        if known and 0 < weight[signal] < np.inf:
            ratio = float(np.sqrt(change[signal] / weight[signal]))
            if np.isfinite(ratio):
                yield signal, ratio


def _fast(table: TableDigest) -> float:
    """The ratio from which updates are too large, given how long the weights have grown."""
    return max(_FAST, _FROM_ZERO / math.sqrt(since_last_part(table) + 1.0))


def _of_values(table: TableDigest, signal: int) -> bool:
    """Whether a signal records values, not changes of them."""
    return table.table.signals[signal].reference == "none"


def _names(found: Iterable[tuple[TableDigest, int]]) -> tuple[str, ...]:
    return tuple(table.table.names[signal] for table, signal in found)
