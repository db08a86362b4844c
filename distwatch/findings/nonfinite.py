"""Where NaN and Inf came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from distwatch.findings.broken import NEVER, Broken
from distwatch.findings.copies import is_copied
from distwatch.findings.findings import CERTAIN, NOTE, WARNING, Finding
from distwatch.findings.origins import kind_of, origin
from distwatch.findings.rules import AT_ONCE, rule
from distwatch.findings.tables import Recorded, TableDigest
from distwatch.records import BrokenRows, RunInfo
from distwatch.text import counted, listed

_GRADIENTS = ("gradient_local", "gradient", "gradient_clipped")

#: Those that exist once, and whose rows the first replica holds.
_ONCE = ("gradient", "gradient_clipped")


class _Place(NamedTuple):
    """Where NaN or Inf are: what is smaller came first."""

    step: int
    origin: tuple[int, float, bool]
    #: Large ones first, then by name: not by tables, which depend on how signals are chosen.
    size: float
    name: str
    position: int
    table: int


@rule("NonFinite", asked=AT_ONCE)
def not_finite(run: Recorded) -> Iterator[Finding]:
    """Where NaN or Inf appeared first, how far they spread, and whether they remain."""
    broken = [table for table in run.tables if table.broken.any]
    places = sorted(_places(broken))
    if places:
        yield _first_of(run.info, broken, places)
    elif broken:
        yield _overflow(broken)
    else:
        yield from _of_changes(run)


def _places(broken: list[TableDigest]) -> Iterator[_Place]:
    for number, table in enumerate(broken):
        first, first_taken = table.broken.first, table.broken.first_taken
        for i, signal in enumerate(table.table.signals):
            kind = kind_of(signal.name)
            meant = kind in _GRADIENTS and _are_skipped(table.broken)
            step = int((first_taken if meant else first)[:, i].min())
            if step < NEVER:
                yield _Place(
                    step,
                    origin(signal),
                    -float(table.totals[:, i, 0].max()),
                    signal.name,
                    i,
                    number,
                )


def _are_skipped(broken: Broken) -> bool:
    """Whether the steps that the optimizer did not take are few enough to be meant.

    A loss scale that is too large lets gradients overflow; the step is not taken, and the
    scale is halved.
    """
    return not (broken.still and broken.contiguous and broken.steps > _MOST_SKIPPED)


#: Halving it so often takes the largest loss scale that float16 can bear down to nothing.
_MOST_SKIPPED = 40


def _overflow(broken: list[TableDigest]) -> Finding:
    steps = max(table.broken.not_taken for table in broken)
    table = min(broken, key=lambda each: int(each.broken.first.min()))
    step = int(table.broken.first.min())
    name = table.table.names[int(np.argmin(table.broken.first.min(axis=0)))]
    text = (
        f"Gradients overflowed at {counted(steps, 'step')}, first at step {step}, and the "
        "optimizer skipped these steps, as a loss scale does to find its size."
    )
    return Finding("overflow_skipped", NOTE, text, name, step)


def _of_changes(run: Recorded) -> Iterator[Finding]:
    """Changes with NaN or Inf of signals that have none themselves."""
    found = [(t.broken.of_change, t) for t in run.tables if t.broken.of_change is not None]
    if found:
        (step, i), table = min(found, key=lambda pair: pair[0])
        name = table.table.names[i]
        text = (
            f"The change of {name} has NaN or Inf at step {step}, and {name} itself has none "
            "there: what it is measured against had some, at a step that was not looked at, or "
            "the difference is too large for its dtype."
        )
        yield Finding("not_finite", WARNING, text, name, step)


def _first_of(info: RunInfo, broken: list[TableDigest], places: list[_Place]) -> Finding:
    first = places[0]
    table = broken[first.table]
    name = table.table.names[first.position]
    names = [broken[place.table].table.names[place.position] for place in places]
    others = tuple(dict.fromkeys(each for each in names if each != name))
    replica, where = _where(info, table, first)
    rows = _rows(info, table, first)
    last = max(each.broken.last for each in broken)
    still = any(each.broken.still for each in broken)
    brief = f"NaN or Inf first appeared at step {first.step}{where}, {_pass(name)}in {name}"
    text = (
        f"{brief}{rows}; in all they are in {counted(len(others) + 1, 'signal')} and "
        f"{_steps(broken)}, "
        f"{'up to the end of the run' if still else f'most recently at step {last}'}."
        f"{_unseen_before(broken, first.step)}"
    )
    advice = _BY_WEIGHTS if _is_of_weights(info, broken, places) else ""
    return Finding(
        "not_finite", WARNING, f"{text} {advice}".strip(), name, first.step, replica, others,
        brief, faults=("exploding",), last_step=last, confidence=CERTAIN, advice=advice,
    )  # fmt: skip


def _rows(info: RunInfo, table: TableDigest, first: _Place) -> str:
    """In which rows of the replicas' batches they were, where that was recorded."""
    name = table.table.names[first.position]
    each = [table.broken.rows.get((name, r, first.step)) for r in info.replicas]
    said = [_named_rows(rows, several=len(info.replicas) > 1) for rows in each if rows]
    if len(said) > _MOST_REPLICAS:
        said[_MOST_REPLICAS:] = ["..."]
    return f" ({'; '.join(said)})" if said else ""


#: Of how many replicas the rows are named.
_MOST_REPLICAS = 4


def _named_rows(found: BrokenRows, *, several: bool) -> str:
    batch = f"replica {found.replica}'s batch" if several else "the batch"
    if found.broken == found.rows:
        return f"all {counted(found.rows, 'row')} of {batch}"
    if found.broken > len(found.first):
        numbers = ", ".join(map(str, found.first))
        return f"{found.broken} of {found.rows} rows of {batch}: {numbers}, ..."
    return f"row{'s' * (found.broken > 1)} {listed(found.first)} of {batch}"


def _unseen_before(broken: list[TableDigest], step: int) -> str:
    """That they may have begun earlier, where no table with them looked at the steps before."""
    before = max(table.broken.before for table in broken)
    missing = step - 1 - before
    if before < 0 or missing <= 0:
        return ""
    return (
        f" They may have begun earlier: of these signals the {counted(missing, 'step')} before "
        f"it, after step {before}, {'is' if missing == 1 else 'are'} not recorded."
    )


#: In which part of a step signals are computed, by what their names begin with.
_PASSES = {
    "activation": "in the forward pass, ",
    "activation_input": "in the forward pass, ",
    "tensor": "in the forward pass, ",
    "gradient_local": "in the backward pass, ",
    "gradient": "in the backward pass, ",
    "gradient_clipped": "in the backward pass, ",
    "update": "in the optimizer's update, ",
}


def _pass(name: str) -> str:
    return _PASSES.get(kind_of(name), "")


_BY_WEIGHTS = (
    "All replicas have them at once, from the first layer on that is watched: either weights "
    "were spoiled before, by a gradient or an update, or the batches hold them. "
    "distwatch.gradients() and distwatch.inputs() tell which, and on which replica it began."
)


def _is_of_weights(info: RunInfo, broken: list[TableDigest], places: list[_Place]) -> bool:
    """Whether they came into the first layer of all replicas at once, later than at first.

    Replicas have different batches and the same weights. With gradients it would be seen.
    """
    first = places[0]
    table = broken[first.table]
    at_once = (table.broken.first[:, first.position] == first.step).all()
    signal = table.table.signals[first.position]
    orders = [
        each.order
        for each in info.signals
        if kind_of(each.name) == "activation" and each.order is not None
    ]
    is_first = signal.order == min(orders, default=None)
    in_first = kind_of(signal.name) == "activation" and is_first
    watched = {kind_of(name) for name in info.names}
    later = first.step > table.extent[0]
    several = len(info.replicas) > 1
    return bool(at_once and in_first and later and several and not watched & {*_GRADIENTS})


def _where(info: RunInfo, table: TableDigest, first: _Place) -> tuple[int | None, str]:
    """The replica that has them, if it is one, and in words."""
    signal = table.table.signals[first.position]
    firsts = table.broken.first[:, first.position]
    on = [info.replicas[i] for i in np.flatnonzero(firsts == first.step)]
    alike = is_copied(signal) or signal.name.startswith("weight/")
    if kind_of(signal.name) in _ONCE or (alike and len(on) == len(info.replicas)):
        return None, ""
    if len(info.replicas) == 1:
        return on[0], ""
    if len(on) == 1:
        return on[0], f" on replica {on[0]}"
    if len(on) == len(info.replicas):
        return None, f" on all {len(on)} replicas"
    return None, f" on replicas {listed(on)}"


def _steps(broken: list[TableDigest]) -> str:
    """At how many steps: of several tables those of one, if the others' are among them."""
    most = max(broken, key=lambda table: table.broken.steps).broken
    within = all(
        int(most.first.min()) <= int(table.broken.first.min())
        and table.broken.last <= most.last
        for table in broken
    )
    exact = len(broken) == 1 or (within and most.contiguous)
    return f"{'' if exact else 'at least '}{counted(most.steps, 'step')}"
