"""A finding of the doctor: what was checked, the verdict, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["ok", "note", "warning", "problem"]

#: A note is about something that is missing and optional.
OK: Verdict = "ok"
NOTE: Verdict = "note"
WARNING: Verdict = "warning"
PROBLEM: Verdict = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's output.

    ``remedy`` says what to do about anything but OK; ``figures`` are measurements, by names
    that end in their unit.
    """

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


def ok(name: str, text: str, **figures: float) -> Finding:
    """It works."""
    return Finding(name, OK, text, figures=figures)


def note(name: str, text: str, remedy: str = "") -> Finding:
    """Something optional is missing."""
    return Finding(name, NOTE, text, remedy)


def warning(name: str, text: str, remedy: str, **figures: float) -> Finding:
    """It works, but not as well as it could."""
    return Finding(name, WARNING, text, remedy, figures)


def problem(name: str, text: str, remedy: str, **figures: float) -> Finding:
    """It does not work."""
    return Finding(name, PROBLEM, text, remedy, figures)
