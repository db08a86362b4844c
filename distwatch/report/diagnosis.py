"""What the page says first: what stands out, where to see it, and what was looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from distwatch.findings import EXTENT, RULES, WARNING, Finding
from distwatch.report.epochs import has_epochs
from distwatch.report.reading import ReadRun
from distwatch.text import counted, listed, printable

#: What shows best what a finding says, where that is not the size.
_SHOWN_BY = {"dead": "zero_units", "replicas_apart": "mean", "update_ratio": "ratio"}

#: Findings that the metrics of epochs show, and the heading of these on the page.
_OF_EPOCHS = ("overfitting", "stopped_early")
EPOCHS = "epochs-heading"

#: What one signal of a kind is called, and what several are, where these have a word.
_KINDS = {
    "activation": ("the activation", "activations"),
    "gradient": ("the gradient", "gradients"),
    "gradient_local": ("the gradient of single replicas", "gradients of single replicas"),
    "log": ("the logged number", "logged numbers"),
    "update": ("the update", "updates"),
    "weight": ("the weight", "weights"),
}

#: What is said to be missing where it is.
_MAIN = ("activation", "gradient", "update", "weight")


@dataclass(frozen=True)
class Said:
    """A finding as the page shows it: its text, and the fragment that opens its chart."""

    text: str
    #: Such as "#run=0&signal=3&step=180"; "" where there is no chart of it.
    link: str


@dataclass(frozen=True)
class Diagnosis:
    """What the page says of one run before everything else."""

    warnings: tuple[Said, ...]
    notes: tuple[Said, ...]
    #: What is said where nothing is warned of.
    all_clear: str
    #: How much was looked at, and what of it.
    looked_at: str


def diagnosis(run: ReadRun, place: int, drawn: Collection[str]) -> Diagnosis:
    """The diagnosis of a run.

    Args:
        run: the run.
        place: which of the runs of the page it is.
        drawn: the names of the signals that the page has charts of.
    """

    def said(*, warns: bool) -> tuple[Said, ...]:
        # How large the run is, ``looked_at`` says.
        return tuple(
            Said(printable(each.text), link_to(each, run, place, drawn))
            for each in run.findings
            if (each.severity == WARNING) == warns and each.kind != EXTENT
        )

    return Diagnosis(
        warnings=said(warns=True),
        notes=said(warns=False),
        # Of a run without rows nothing is known.
        all_clear="Nothing unusual."
        if run.described["committed_steps"]
        else "No step was recorded.",
        looked_at=_looked_at(run),
    )


def looked_for() -> list[str]:
    """What the rules look for: a sentence each."""
    return [rule.says for rule in RULES if rule.says]


def link_to(finding: Finding, run: ReadRun, place: int, drawn: Collection[str]) -> str:
    """The fragment of the page's address that opens the chart of a finding, or ""."""
    if finding.kind in _OF_EPOCHS:
        return f"#{EPOCHS}" if has_epochs(run) else ""
    names = [signal.name for signal in run.overview.signals]
    if finding.signal is None or finding.signal not in names or finding.signal not in drawn:
        return ""
    history, _ = run.overview.find(finding.signal)
    shown_by = _SHOWN_BY.get(finding.kind)
    parts = {
        "run": place,
        "signal": names.index(finding.signal),
        "statistic": shown_by if shown_by in history.kept else None,
        "step": finding.step,
        "replica": finding.replica,
    }
    return "#" + "&".join(
        f"{name}={value}" for name, value in parts.items() if value is not None
    )


def _looked_at(run: ReadRun) -> str:
    described, overview = run.described, run.overview
    kinds = Counter(signal.name.partition("/")[0] for signal in overview.signals)
    watched = []
    for kind, number in kinds.items():
        one, several = _KINDS.get(kind, (f"the {kind}", f"{kind} signals"))
        watched.append(one if number == 1 else f"{number} {several}")
    steps = counted(described["committed_steps"], "step")
    on = counted(len(described["replicas"]), "replica")
    looked = f"Looked at: {steps} on {on}" + (f", of {listed(watched)}." if watched else ".")
    missing = [_KINDS[kind][1] for kind in _MAIN if kind not in kinds]
    return f"{looked} Not watched: {listed(missing)}." if watched and missing else looked
