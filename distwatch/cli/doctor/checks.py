"""The checks of ``distwatch doctor``, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from distwatch.cli.doctor.findings import (
    NOTE,
    OK,
    PROBLEM,
    WARNING,
    Finding,
    Verdict,
    problem,
)
from distwatch.cli.doctor.software import look_at_software
from distwatch.cli.doctor.targets import look_at_target
from distwatch.cli.doctor.trainings import TIMEOUT, look_at_trainings

__all__ = [
    "NOTE",
    "OK",
    "PROBLEM",
    "TIMEOUT",
    "WARNING",
    "Check",
    "Finding",
    "Verdict",
    "checks",
    "findings_of",
]


class Check(NamedTuple):
    """One look at the machine: what it is about, and what finds out."""

    topic: str
    look: Callable[[], Iterator[Finding]]


def checks(target: str, *, quick: bool = False, timeout: float = TIMEOUT) -> list[Check]:
    """What is looked at, in order.

    Args:
        target: where runs are to lie: a path or URL, as for `Watch`, or a folder.
        quick: leave the trainings out.
        timeout: seconds that a training may take.
    """
    trainings = [Check("training", lambda: look_at_trainings(timeout))]
    return [
        Check("software", look_at_software),
        *([] if quick else trainings),
        Check("target", lambda: look_at_target(target)),
    ]


def findings_of(check: Check) -> list[Finding]:
    """What a check finds; also that it fails itself, which must not hide the other checks."""
    found = []
    try:
        for finding in check.look():
            found.append(finding)
    except Exception as error:
        text = f"this check failed itself: {type(error).__name__}: {error}"
        found.append(problem(check.topic, text, "report it, please."))
    return found
