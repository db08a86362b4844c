"""What stands out in a run, one by one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distwatch.text import counted, printable

#: How much a finding matters: a fact worth knowing, or something to look into.
NOTE, WARNING = "note", "warning"

#: How sure a finding is: it follows from what was recorded, or is its usual cause.
CERTAIN, LIKELY = "certain", "likely"

#: The kinds of fault that findings name.
FAULTS = (
    "wrong_last_activation",
    "wrong_loss",
    "learning_rate_too_high",
    "learning_rate_too_low",
    "dead_relu",
    "saturated",
    "vanishing",
    "exploding",
    "missing_normalisation",
    "wrong_labels_or_encoding",
    "output_range",
    "constant_output",
    "too_few_epochs",
    "batch_size",
    "initialisation",
    "frozen_or_disconnected",
    "overfitting",
    "other",
)

#: The kind of finding that comes first: how large the run is.
EXTENT = "extent"

#: The largest number of sentences in a summary.
_MOST = 10


@dataclass(frozen=True)
class Finding:
    """One thing that stands out in a run, in words and for programs.

    ``kind`` is a stable name, such as "largest_change" or "not_finite"; ``severity``
    "note" or "warning". ``signal``, ``step`` and ``replica`` (its global number) say where,
    and are None where there is no single one; ``others`` names further signals of which the
    same is true. ``follows`` has what would be findings of their own if this one did not
    explain them; ``text`` says them, too.

    ``rule`` is the name of the rule that found it (``distwatch rules`` lists all). A number
    that decided is ``value``, and ``threshold`` what it was compared with; ``evidence`` has
    the numbers that the text rests on. ``confidence`` is "certain" where it follows from what
    was recorded, "likely" where it is the usual cause of that. ``advice`` is what to try, and
    ``faults`` names the kinds of fault that this is, of `FAULTS`; a note names none.
    """

    kind: str
    severity: str
    text: str
    signal: str | None = None
    step: int | None = None
    replica: int | None = None
    others: tuple[str, ...] = ()
    #: What it says without advice, as a part of the sentence of its cause.
    brief: str = ""
    #: Of which share of the signal it is true, where that is a number.
    share: float | None = None
    #: What follows from it.
    follows: tuple[Finding, ...] = ()
    rule: str = ""
    value: float | None = None
    threshold: float | None = None
    evidence: Mapping[str, float] = field(default_factory=dict, hash=False)
    confidence: str = LIKELY
    advice: str = ""
    faults: tuple[str, ...] = ()
    #: The last step of which it is true, where that is known.
    last_step: int | None = None

    @property
    def first_step(self) -> int | None:
        """The first step of which it is true, where that is known."""
        return self.step

    def __post_init__(self) -> None:
        # It contains names of signals, and a store may come from anybody.
        object.__setattr__(self, "text", printable(self.text))


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The extent first, then warnings, then notes; otherwise as they came."""
    return sorted(findings, key=lambda each: (each.kind != EXTENT, each.severity != WARNING))


def sentences(findings: Sequence[Finding]) -> list[str]:
    """The texts of the first findings, and how many there are more."""
    texts = [finding.text for finding in findings]
    if len(texts) <= _MOST:
        return texts
    return [*texts[: _MOST - 1], f"And {len(texts) - _MOST + 1} more findings."]


def and_more(others: Sequence[str]) -> str:
    """What follows the first of several signals."""
    return f" and {counted(len(others), 'more signal')}" if others else ""


def document(finding: Finding) -> dict[str, Any]:
    """A finding as JSON has it; numbers that it does not have are null."""
    return {
        "rule": named(finding),
        "kind": finding.kind,
        "severity": finding.severity,
        "confidence": finding.confidence,
        "text": finding.text,
        "advice": finding.advice,
        "faults": list(finding.faults),
        "signal": finding.signal,
        "others": list(finding.others),
        "replica": _whole(finding.replica),
        "first_step": _whole(finding.first_step),
        "last_step": _whole(finding.last_step),
        "value": _finite(finding.value),
        "threshold": _finite(finding.threshold),
        "evidence": {name: _finite(value) for name, value in finding.evidence.items()},
        "explains": [named(each) for each in finding.follows],
    }


def named(finding: Finding) -> str:
    """Its rule; what is known of the store itself comes from no rule."""
    return finding.rule or finding.kind


def _whole(value: int | None) -> int | None:
    """Also of NumPy's integers, which rules of one's own may give."""
    return None if value is None else int(value)


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
