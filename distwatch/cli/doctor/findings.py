"""What the doctor says: one thing that was looked at, how it is, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["ok", "note", "warning", "problem"]

#: A note is about what is not there and need not be.
OK: Verdict = "ok"
NOTE: Verdict = "note"
WARNING: Verdict = "warning"
PROBLEM: Verdict = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's.

    ``remedy`` is what to do about anything but OK, ``figures`` are what was measured, by
    names that end in their unit.
    """

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


def ok(name: str, text: str, **figures: float) -> Finding:
    """All is well."""
    return Finding(name, OK, text, figures=figures)


def note(name: str, text: str, remedy: str = "") -> Finding:
    """Something is not there, and nothing but what it is for needs it."""
    return Finding(name, NOTE, text, remedy)


def warning(name: str, text: str, remedy: str, **figures: float) -> Finding:
    """It works, and worse than it could."""
    return Finding(name, WARNING, text, remedy, figures)


def problem(name: str, text: str, remedy: str, **figures: float) -> Finding:
    """It does not work."""
    return Finding(name, PROBLEM, text, remedy, figures)
