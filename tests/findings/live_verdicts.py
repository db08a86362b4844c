"""What the rules say while a training goes on, beside what they say of its store."""

from __future__ import annotations

import contextlib
from unittest import mock

from distwatch import actions
from distwatch.findings import WARNING
from distwatch.records import CLOSED
from distwatch.training import acting
from distwatch.training.phase import Phase

#: What has a Watch ask all of its rules, as often as it can.
ASKED = {"rules": [actions.on("*", severity="note", do=actions.call(str))], "drain_every": 1e-3}


class Verdicts(list):
    """Each time that rules were asked: the step, whether of the whole, and the findings."""

    @property
    def whole(self):
        """What was found of the whole training, at its end."""
        ((_, _, found),) = [each for each in self if each[1]]
        return found

    @property
    def early(self):
        """(step, warning) of what was warned of while it went on."""
        return [
            (step, finding)
            for step, whole, found in self
            for finding in found
            if not whole and finding.severity == WARNING
        ]


@contextlib.contextmanager
def judged_live():
    """Keep what the rules say of the trainings in this block that are `ASKED`."""
    kept, findings = Verdicts(), Phase.findings

    def noted(phase, asked, ended=None):
        found = findings(phase, asked, ended)
        kept.append((phase.steps_done, ended == CLOSED, found))
        return found

    with (
        mock.patch.object(Phase, "findings", noted),
        mock.patch.object(acting, "MOST_TIME", 1e9),
    ):
        yield kept


def wrong_live(verdicts, found):
    """What the rules said while a training went on and not afterwards; empty if nothing.

    Args:
        verdicts: those of the training.
        found: the findings of its store.
    """
    if verdicts.whole != found:
        live, stored = {*verdicts.whole}, {*found}
        return f"only live: {live - stored}; only afterwards: {stored - live}"
    told = {_which(each) for finding in found for each in (finding, *finding.follows)}
    taken_back = {
        f"{finding.kind} at step {step}: {finding.text}"
        for step, finding in verdicts.early
        if _which(finding) not in told
    }
    return "; ".join(sorted(taken_back))


def _which(finding):
    """What makes it the same finding when more rows are known."""
    return finding.kind, finding.severity, finding.signal, finding.step
