"""What went wrong in a training: NaN, dead units, updates that are too small or large."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from distwatch.findings.findings import NOTE, WARNING, Finding, and_more
from distwatch.findings.tables import Recorded, TableDigest
from distwatch.records import Floats
from distwatch.signals import Gradients
from distwatch.text import counted

#: With fewer rows nothing is concluded from the last part of a run.
_ROWS = 8

#: Shares of elements that stay exactly as they are, or are exactly zero. Of a ReLU layer
#: about half are zero (K. He et al., "Delving Deep into Rectifiers", 2015), and so a
#: quarter to a half unchanged; units that are zero for every example learn no more
#: (A. L. Maas et al., "Rectifier Nonlinearities Improve Neural Network Acoustic Models",
#: 2013). More zeros of values are tolerated, since dropout and pooling cause some.
_UNCHANGED, _ZERO = 0.6, 0.85
#: From this share on hardly any unit of the layer is alive.
_DEAD = 0.95

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

_TOO_FAST = (
    "updates from step {since} on are up to {ratio:.2g} of their weight's norm, where about "
    "0.001 is healthy: the training may be unstable. A lower learning rate may help."
)
_FROZEN = (
    "not changed by any step from {since} on. Is the learning rate zero, or does no gradient "
    "arrive there?"
)
_TOO_SLOW = (
    "updates from step {since} on are down to {ratio:.2g} of their weight's norm, where about "
    "0.001 is healthy: it hardly learns any more. A higher learning rate may help."
)

_GRADIENTS = tuple(f"{prefix}/" for prefix in Gradients.prefixes)


def not_finite(run: Recorded) -> list[Finding]:
    """Where NaN or Inf appeared first, how far they spread, and whether they remain."""
    broken = [(t.broken.first, t) for t in run.tables if t.broken.first is not None]
    if not broken:
        return []
    (step, position, signal), table = min(broken, key=lambda pair: pair[0][0])
    all_signals = _names(
        (each, i) for _, each in broken for i in np.flatnonzero(each.broken.signals).tolist()
    )
    steps = max(each.broken.steps for _, each in broken)
    last = max(each.broken.last for _, each in broken)
    still = any(each.broken.still for _, each in broken)
    replica, name = run.info.replicas[position], table.table.names[signal]
    text = (
        f"NaN or Inf first appeared at step {step} on replica {replica}, in {name}; in all "
        f"they are in {counted(len(all_signals), 'signal')} and {counted(steps, 'step')}, "
        f"{'up to the end of the run' if still else f'most recently at step {last}'}."
    )
    others = tuple(each for each in all_signals if each != name)
    return [Finding("not_finite", WARNING, text, name, step, replica, others)]


def dead(run: Recorded) -> list[Finding]:
    """Activations of which most elements do not change, or are zero, in the last part."""
    shares = [
        (float(_share_of_zeros(table)[signal]), table, signal)
        for table in run.tables
        for signal in _named_as(table, ("activation/",))
    ]
    found = [
        each for each in shares if each[0] >= (_ZERO if _of_values(*each[1:]) else _UNCHANGED)
    ]
    if not found:
        return []
    found.sort(key=lambda each: each[0], reverse=True)
    most, table, signal = found[0]
    name, others = table.table.names[signal], _names(each[1:] for each in found[1:])
    text = (
        f"{_percent(most)} of the elements of {name}{_among(others)} "
        f"{'were exactly zero' if _of_values(table, signal) else 'did not change at all'} "
        f"from step {_since(table)} on: up to that share of its units may be dead or "
        "saturated. A lower learning rate or a leaky activation may help."
    )
    severity = WARNING if most >= _DEAD else NOTE
    return [Finding("dead", severity, text, name, _since(table), others=others)]


def no_gradient(run: Recorded) -> list[Finding]:
    """Variables whose gradient is exactly zero in the whole of the last part."""
    found = [
        (table, signal)
        for table in run.tables
        for signal in _named_as(table, _GRADIENTS)
        if _of_values(table, signal) and _share_of_zeros(table)[signal] == 1.0
    ]
    if not found:
        return []
    (table, signal), others = found[0], _names(found[1:])
    name = table.table.names[signal]
    text = (
        f"{name}{and_more(others)} {'were' if others else 'was'} exactly zero from step "
        f"{_since(table)} on: no gradient arrives there. Look for dead units in later layers."
    )
    return [Finding("no_gradient", WARNING, text, name, _since(table), others=others)]


def update_ratios(run: Recorded) -> Iterator[Finding]:
    """Weights that hardly change any more in the last part, or change too much."""
    ratios = [
        (ratio, table, signal)
        for table in run.tables
        if table.has_ratio
        for signal, ratio in _ratios(table)
    ]
    still = [each for each in ratios if each[0] == 0.0]
    slow = sorted((each for each in ratios if 0.0 < each[0] < _SLOW), key=lambda each: each[0])
    fast = sorted(
        (each for each in ratios if each[0] > _fast(each[1])), key=lambda each: -each[0]
    )
    kinds = [
        (fast, _TOO_FAST, bool(fast) and fast[0][0] > _OVERWRITING),
        (still, _FROZEN, True),
        (slow, _TOO_SLOW, bool(slow) and slow[0][0] < _LOST_IN_ROUNDING),
    ]
    for found, what, grave in kinds:
        if found:
            ratio, table, signal = found[0]
            name, since = table.table.names[signal], _since(table)
            others = _names(each[1:] for each in found[1:])
            text = f"{name}{and_more(others)}: {what.format(since=since, ratio=ratio)}"
            severity = WARNING if grave else NOTE
            yield Finding("update_ratio", severity, text, name, since, others=others)


def _ratios(table: TableDigest) -> Iterator[tuple[int, float]]:
    """The update-to-weight ratio in the last part, where weights are not zero."""
    if table.steps < _ROWS:
        return
    change, weight = map(table.timeline.in_last_part, ("change_l2sq", "weight_l2sq"))
    for signal in _named_as(table, ("update/",)):
        if _of_values(table, signal) and 0 < weight[signal] < np.inf:
            ratio = float(np.sqrt(change[signal] / weight[signal]))
            if np.isfinite(ratio):
                yield signal, ratio


def _fast(table: TableDigest) -> float:
    """The ratio from which updates are too large, given how long the weights have grown."""
    return max(_FAST, _FROM_ZERO / math.sqrt(_since(table) + 1.0))


def _share_of_zeros(table: TableDigest) -> Floats:
    """Which share of the elements is exactly zero in the last part: shape (signal,)."""
    zeros, count = map(table.timeline.in_last_part, ("zeros", "count"))
    enough = (count > 0) & (table.steps >= _ROWS)
    return np.where(enough, zeros / np.maximum(count, 1.0), np.nan)


def _since(table: TableDigest) -> int:
    """The first step of the last part."""
    return int(table.timeline.first_step[table.timeline.last_part])


def _of_values(table: TableDigest, signal: int) -> bool:
    """Whether a signal records values, not changes of them."""
    return table.table.signals[signal].reference == "none"


def _named_as(table: TableDigest, starts: tuple[str, ...]) -> list[int]:
    return [i for i, name in enumerate(table.table.names) if name.startswith(starts)]


def _names(found: Iterable[tuple[TableDigest, int]]) -> tuple[str, ...]:
    return tuple(table.table.names[signal] for table, signal in found)


def _among(others: Sequence[str]) -> str:
    return f" (and a smaller share in {counted(len(others), 'more signal')})" if others else ""


def _percent(share: float) -> str:
    """A share in words; less than all is never rounded to 100%."""
    return "All" if share == 1.0 else f"{min(100 * share, 99.9):.3g}%"
