"""The checks of ``distwatch doctor``, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from distwatch.cli.doctor.findings import Finding, problem
from distwatch.cli.doctor.software import look_at_software
from distwatch.cli.doctor.targets import look_at_target
from distwatch.cli.doctor.trainings import TIMEOUT, look_at_trainings


def checks(
    target: str, *, quick: bool = False, timeout: float = TIMEOUT
) -> dict[str, Callable[[], Iterator[Finding]]]:
    """The checks, in order, by topic: functions that make their findings.

    Args:
        target: where runs will be written: a path or URL, as for `Watch`, or a folder.
        quick: leave the trainings out.
        timeout: seconds that a training may take.
    """
    training = {} if quick else {"training": partial(look_at_trainings, timeout)}
    return {
        "software": look_at_software,
        **training,
        "target": partial(look_at_target, target),
    }


def findings_of(topic: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of a check; also that it failed itself, so that other checks still run."""
    found = []
    try:
        for finding in look():
            found.append(finding)
    except Exception as error:
        text = f"this check itself failed: {type(error).__name__}: {error}"
        found.append(problem(topic, text, "please report it."))
    return found
