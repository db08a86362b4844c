"""Whether the replicas hold the same, and compute the same, by checksums of bits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np

from distwatch.findings.broken import NEVER
from distwatch.findings.copy_digest import CopyDigest, largest
from distwatch.findings.findings import CERTAIN, LIKELY, WARNING, Finding
from distwatch.findings.rules import AT_ONCE, rule
from distwatch.findings.tables import Recorded
from distwatch.statistics import ROW
from distwatch.text import capitalized, counted, listed

_COUNT, _ZEROS, _NANS, _INFS = (
    ROW.fields.index(name) for name in ("count", "zeros", "nans", "infs")
)

#: How many names are in a sentence.
_NAMED = 4


@rule("Desync", asked=AT_ONCE)
def desync(run: Recorded) -> Iterator[Finding]:
    """Variables of which the replicas hold different copies: a finding for each culprit."""
    for group in _groups(run, of_canary=False):
        yield _finding(group)


@rule(
    "Canary",
    source="P. H. Hochschild et al., Cores that don't count, HotOS 2021; "
    "H. D. Dixit et al., Silent data corruptions at scale, 2021",
    asked=AT_ONCE,
)
def canary(run: Recorded) -> Iterator[Finding]:
    """Replicas that compute something else from the same numbers: a finding for each."""
    for group in _groups(run, of_canary=True):
        yield _of_canary(group)


def _groups(run: Recorded, *, of_canary: bool) -> list[list[_Difference]]:
    """What differs, by the replicas that are odd there; what was first comes first."""
    found = sorted(
        (
            _Difference(copies.odd[i], int(copies.first[i]), i, copies)
            for copies in run.copies
            for i in map(int, np.flatnonzero(copies.first < NEVER))
            if copies.table.of_canary == of_canary
        ),
        key=lambda each: (each.odd, each.first, each.copies.table.name, each.variable),
    )
    groups = [[*group] for _, group in groupby(found, key=lambda each: each.odd)]
    return sorted(groups, key=lambda group: group[0].first)


class _Difference(NamedTuple):
    """The copies of one variable that differ."""

    odd: tuple[int, ...]
    first: int
    variable: int
    copies: CopyDigest

    @property
    def signal(self) -> str:
        """Its name."""
        return self.copies.table.names[self.variable]

    @property
    def path(self) -> str:
        """That of the variable."""
        return self.signal.partition("/")[2]


def _finding(group: list[_Difference]) -> Finding:
    main = group[0]
    odd = [main.copies.replicas[place] for place in main.odd]
    return _said("desync", group, odd, _whose(main, odd), _ADVICE)


def _of_canary(group: list[_Difference]) -> Finding:
    main = group[0]
    odd = [main.copies.replicas[place] for place in main.odd]
    what = "the output" if main.path == "output" else f"the gradient of {main.path}"
    given = "from the same batch, weights and seeds"
    if odd:
        several = len(odd) > 1
        who = f"replicas {listed(odd)} compute" if several else f"replica {odd[0]} computes"
        whose = f"{who} {what} otherwise than the others {given}"
    else:
        whose = f"replicas {listed(main.copies.replicas)} compute {what} differently {given}"
    return _said("canary", group, odd, whose, _OF_COMPUTING)


def _said(
    kind: str, group: list[_Difference], odd: list[int], whose: str, advice: str
) -> Finding:
    main = group[0]
    brief = f"{whose} {_when(main)}"
    text = f"{capitalized(brief)}, {_size(main)}.{_others(group[1:])} {advice}"
    return Finding(
        kind,
        WARNING,
        text,
        main.signal,
        main.first,
        odd[0] if len(odd) == 1 else None,
        tuple(each.signal for each in group[1:]),
        brief,
        last_step=max(int(each.copies.last[each.variable]) for each in group),
        # Other devices than CPUs need not compute the same bits.
        confidence=LIKELY if main.copies.table.of_canary else CERTAIN,
        advice=advice,
    )


def _whose(main: _Difference, odd: list[int]) -> str:
    if not odd:
        return f"the copies of {main.path} on replicas {listed(main.copies.replicas)} differ"
    if len(odd) > 1:
        named = listed(odd)
        return f"the copies of {main.path} on replicas {named} differ from those of the others"
    return f"the copy of {main.path} on replica {odd[0]} differs from those of the others"


_ADVICE = (
    "Every replica should hold the same bits. Look for a write that is not synchronized, an "
    "optimizer that is applied on some replicas only, or memory that is faulty."
)


_OF_COMPUTING = (
    "Its data are not the cause, since they were the same. Look for a layer that computes by "
    "the replica's number or device, and test the device itself: memory, driver, cooling."
)


def _when(main: _Difference) -> str:
    """From the first step to the last at which it was seen."""
    last, end = int(main.copies.last[main.variable]), main.copies.extent[1]
    seen = f"at step {last}"
    if last > main.first:
        seen = f"from step {main.first} to step {last}"
    return f"{seen}, {'the last that was compared' if last == end else 'and not after it'}"


def _size(main: _Difference) -> str:
    apart = main.copies.apart.get(main.variable)
    if apart is None:
        return "by how much is not known"
    elements = counted(int(apart[_COUNT]), "element")
    different = int(apart[_COUNT] - apart[_ZEROS])
    if not different:
        return f"though as numbers all {elements} were equal when they were compared"
    many = f"in {different:,} of {elements}"
    if apart[_NANS] + apart[_INFS] == different:
        return f"{many}, which are not finite"
    return f"{many}, by up to {float(largest(apart)):.4g}"


def _others(group: list[_Difference]) -> str:
    if not group:
        return ""
    paths = [each.path for each in group]
    named = listed(paths[:_NAMED])
    if len(paths) > _NAMED:
        named = f"{', '.join(paths[:_NAMED])} and {len(paths) - _NAMED} more"
    return f" The same is true of {named}."


def in_step(run: Recorded) -> str | None:
    """That all copies were equal at all steps that were compared, if so."""
    seen = [copies for copies in run.copies if copies.steps and not copies.table.of_canary]
    if not seen or any((copies.first < NEVER).any() for copies in seen):
        return None
    variables = sum(len(copies.table.signals) for copies in seen)
    steps = max(copies.steps for copies in seen)
    when = f"all {counted(steps, 'step')} that were" if steps > 1 else "the only step that was"
    return (
        f"The replicas' copies of {counted(variables, 'variable')} were equal, bit for bit, at "
        f"{when} compared."
    )
