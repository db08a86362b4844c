"""How much was recorded, what was lost, and what was looked for and not found."""

from __future__ import annotations

from distwatch.findings.changes import largest_change
from distwatch.findings.findings import EXTENT, NOTE, WARNING, Finding
from distwatch.findings.tables import Recorded
from distwatch.text import counted


def extent(run: Recorded) -> list[Finding]:
    """How many steps of how many signals on how many replicas."""
    if not run.tables:
        return [Finding(EXTENT, NOTE, "No step was recorded.")]
    steps = max(table.steps for table in run.tables)
    text = (
        f"{counted(steps, 'step')}, {counted(len(run.info.signals), 'signal')} on "
        f"{counted(len(run.info.replicas), 'replica')}"
    )
    compared = bool(largest_change(run))
    text += "." if compared else ": no two batches could be compared."
    return [Finding(EXTENT, NOTE, text)]


def losses(run: Recorded) -> list[Finding]:
    """How many steps were lost."""
    text = f"{counted(run.lost, 'step')} lost: see the gaps in `step`."
    return [Finding("lost", WARNING, text)] if run.lost else []


def sound(run: Recorded) -> list[Finding]:
    """Which faults there are not, so that nobody has to infer it from silence."""
    broken = any(table.broken.first is not None for table in run.tables)
    said = ["No NaN and no Inf."] * (not broken) + ["No row was lost."] * (not run.lost)
    return [Finding("sound", NOTE, " ".join(said))] if said else []
