"""The checks of ``distwatch doctor``, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from distwatch.cli.doctor.findings import Finding, problem
from distwatch.cli.doctor.software import look_at_software
from distwatch.cli.doctor.targets import look_at_target
from distwatch.cli.doctor.trainings import TIMEOUT, look_at_trainings


class Check(NamedTuple):
    """One check of the machine: its topic, and the function that makes its findings."""

    topic: str
    look: Callable[[], Iterator[Finding]]


def checks(target: str, *, quick: bool = False, timeout: float = TIMEOUT) -> list[Check]:
    """The checks, in order.

    Args:
        target: where runs will be written: a path or URL, as for `Watch`, or a folder.
        quick: leave the trainings out.
        timeout: seconds that a training may take.
    """
    training = Check("training", lambda: look_at_trainings(timeout))
    return [
        Check("software", look_at_software),
        *([] if quick else [training]),
        Check("target", lambda: look_at_target(target)),
    ]


def findings_of(check: Check) -> list[Finding]:
    """The findings of a check; also that it failed itself, so that other checks still run."""
    found = []
    try:
        for finding in check.look():
            found.append(finding)
    except Exception as error:
        text = f"this check itself failed: {type(error).__name__}: {error}"
        found.append(problem(check.topic, text, "please report it."))
    return found
