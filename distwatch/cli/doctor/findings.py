"""A finding of the doctor: what was checked, the verdict, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's output.

    A note is about something that is missing and optional. ``remedy`` says what to do about
    anything but OK; ``figures`` are measurements, by names that end in their unit.
    """

    verdict: Literal["ok", "note", "warning", "problem"]
    name: str
    text: str
    remedy: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


ok = partial(Finding, "ok")
note = partial(Finding, "note")
warning = partial(Finding, "warning")
problem = partial(Finding, "problem")


def graded(
    name: str,
    text: str,
    remedy: str,
    figures: Mapping[str, float] | None = None,
    *,
    is_problem: bool = False,
    is_warning: bool = False,
) -> Finding:
    """A finding whose verdict a measurement decides; OK if it is neither of the two."""
    if not (is_problem or is_warning):
        return ok(name, text, figures=figures or {})
    verdict = problem if is_problem else warning
    return verdict(name, text, remedy, figures or {})
