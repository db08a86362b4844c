"""What a run's rows add up to, and all rules that find what stands out in it.

A new rule is a function that takes what is `Recorded` and returns its findings, listed here
in the order in which findings of equal severity are listed.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from distwatch.findings.causes import folded
from distwatch.findings.changes import largest_change, spikes
from distwatch.findings.copy_digest import CopyDigest
from distwatch.findings.course import Course, course_of
from distwatch.findings.desync import canary, desync
from distwatch.findings.epochs import (
    learnt_by_heart,
    nothing_general,
    overfitting,
    stopped_early,
    whole_set_at_once,
)
from distwatch.findings.extent import extent, losses, sound, unclosed
from distwatch.findings.findings import NOTE, WARNING, Finding, ordered, sentences
from distwatch.findings.gradients import no_gradient, update_ratios, without_gradient
from distwatch.findings.learning import (
    constant_output,
    flat_loss,
    fresh_and_frozen,
    heavy_penalty,
    not_learning,
    still_learning,
    underfitting,
    why_not_finite,
    works,
)
from distwatch.findings.nonfinite import not_finite
from distwatch.findings.origins import GIVEN, kind_of
from distwatch.findings.reasons import high_rate
from distwatch.findings.replicas import apart, different_copies, equal_inputs, odd_replicas
from distwatch.findings.rules import Rule, as_rule
from distwatch.findings.setup import first_weights, last_activation, loss_function, output_range
from distwatch.findings.tables import Recorded, TableDigest
from distwatch.findings.units import dead
from distwatch.records import CLOSED, Block, Epoch, RunInfo, concatenate

#: Those that hold for a run without rows, too.
ALWAYS: tuple[Rule, ...] = (extent, desync, canary, without_gradient, losses, unclosed, sound)

RULES: tuple[Rule, ...] = (
    extent,
    not_finite,
    losses,
    last_activation,
    loss_function,
    output_range,
    first_weights,
    not_learning,
    underfitting,
    constant_output,
    fresh_and_frozen,
    heavy_penalty,
    flat_loss,
    equal_inputs,
    desync,
    canary,
    different_copies,
    odd_replicas,
    without_gradient,
    dead,
    no_gradient,
    update_ratios,
    spikes,
    largest_change,
    still_learning,
    nothing_general,
    overfitting,
    learnt_by_heart,
    whole_set_at_once,
    stopped_early,
    apart,
    unclosed,
    sound,
)


class Digest:
    """What a run's rows add up to, over all their steps.

    It takes a few megabytes at most, and no more for a longer run. It depends on the rows
    alone, to the last bit, and not on the blocks in which they come: rows are added up by
    windows, as a store keeps them. So a digest that was made while a run was written equals
    the one that is read from its store.

    Args:
        info: the run.
        epochs: what its epochs came to, as far as that is known.
    """

    def __init__(self, info: RunInfo, epochs: Iterable[Epoch] = ()) -> None:
        self.info = info
        self.epochs = list(epochs)
        #: Of whole windows. Tables of checksums of the replicas' copies come last.
        self._whole: dict[str, TableDigest | CopyDigest] = {
            t.name: CopyDigest(info, t) if t.of_copies else TableDigest(info, t)
            for t in sorted(info.tables, key=lambda table: table.of_copies)
        }
        #: Rows that fill no window yet.
        self._rest: dict[str, Block] = {}

    def observe(self, block: Block) -> None:
        """Take the next block: each table's in order of step."""
        vars(self).pop("_of_all", None)
        whole = self._whole[block.table]
        whole.lost += block.lost
        rows = replace(block, tensors=None, lost=0)
        if (rest := self._rest.pop(block.table, None)) is not None:
            rows = concatenate([rest, rows])
        window = whole.table.window
        end = len(rows) // window * window
        for start in range(0, end, window):
            whole.observe(rows[start : start + window])
        if end < len(rows):
            self._rest[block.table] = rows[end:]

    def count_lost(self, table: str, steps: int) -> None:
        """Count steps of a table that never came."""
        vars(self).pop("_of_all", None)
        self._whole[table].lost += steps

    @functools.cached_property
    def _of_all(self) -> dict[str, TableDigest | CopyDigest]:
        """The tables with all of their rows."""
        return {name: self._with_rest(whole) for name, whole in self._whole.items()}

    def _with_rest(self, whole: TableDigest | CopyDigest) -> TableDigest | CopyDigest:
        rest = self._rest.get(whole.table.name)
        if rest is None:
            return whole
        # More rows of this window may come, so what is whole stays as it is.
        made = copy.deepcopy(whole, {id(whole.table): whole.table})
        made.observe(rest)
        return made

    @property
    def tables(self) -> dict[str, TableDigest]:
        """What each table of signals adds up to."""
        every = self._of_all.items()
        return {name: table for name, table in every if isinstance(table, TableDigest)}

    @property
    def copies(self) -> dict[str, CopyDigest]:
        """The same of checksums of the replicas' copies of variables."""
        every = self._of_all.items()
        return {name: table for name, table in every if isinstance(table, CopyDigest)}

    @property
    def steps(self) -> int:
        """Steps looked at, summed over tables."""
        whole = sum(table.steps for table in self._whole.values())
        return whole + sum(map(len, self._rest.values()))

    @property
    def lost(self) -> int:
        """Steps lost, summed over tables."""
        return sum(table.lost for table in self._whole.values())

    # Sums of a training that diverged overflow here, too; that is reported as what it is.
    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def findings(
        self,
        *,
        lost: int | None = None,
        ended: str | None = CLOSED,
        rules: Iterable[Rule | Callable[[Recorded], Iterable[Finding]]] = (),
        asked: Callable[[Rule], bool] = lambda rule: True,
    ) -> list[Finding]:
        """What stands out: the extent first, then warnings, then notes.

        Args:
            lost: how many steps were lost, where more is known than the blocks say.
            ended: "closed", or the error that ended the writing of the run; None while it
                goes on, or if its writer was killed.
            rules: further ones: plain functions of what was `Recorded`, or `Rule`.
            asked: which rules are asked: all, unless the training goes on.
        """
        tables = [table for table in self.tables.values() if table.steps]
        copies = [table for table in self.copies.values() if table.steps]
        lost = self.lost if lost is None else lost
        run = Recorded(self.info, tables, lost, ended, copies, self.epochs)
        course = course_of(run)
        found = [
            _tempered(each, course)
            for rule in (*(RULES if tables else ALWAYS), *map(as_rule, rules))
            if asked(rule)
            for each in rule.apply(run, course)
        ]
        return ordered(folded(found))

    def sentences(
        self,
        *,
        lost: int | None = None,
        ended: str | None = CLOSED,
        rules: Iterable[Rule | Callable[[Recorded], Iterable[Finding]]] = (),
    ) -> list[str]:
        """The findings' texts, at most ten; arguments as in `findings`."""
        return sentences(self.findings(lost=lost, ended=ended, rules=rules))


def _in_data(finding: Finding) -> bool:
    """Whether what the model is given is among the signals that a finding is about."""
    return any(kind_of(name) in GIVEN for name in (finding.signal, *finding.others) if name)


def _of_what_works(dead: Finding, course: Course) -> Finding:
    """Units that are dead in a training that works: a note, unless too high a rate did that."""
    rate = high_rate(course)
    if rate is None or dead.severity != WARNING:
        text = f"{dead.brief}; the training works all the same."
        return replace(dead, severity=NOTE, text=text, faults=())
    brief = f"{dead.brief}; {rate.seen}"
    return replace(
        dead, text=f"{brief}. {rate.advice}", brief=brief, advice=rate.advice,
        faults=(*dead.faults, *rate.faults),
    )  # fmt: skip


def _tempered(finding: Finding, course: Course) -> Finding:
    """A finding in the light of the training as a whole."""
    if finding.kind == "dead" and works(course):
        return _of_what_works(finding, course)
    if finding.kind == "not_finite" and _in_data(finding):
        advice = "The data themselves have NaN or Inf: look at what the model is given."
        return replace(
            finding, text=f"{finding.text} {advice}", advice=advice, faults=("other",)
        )
    if finding.kind == "not_finite" and (cause := why_not_finite(course)):
        return replace(
            finding,
            text=f"{finding.text} {cause.text}",
            advice=cause.advice,
            faults=(*finding.faults, *cause.faults),
        )
    return finding
