"""How much was recorded, what was lost, and what was looked for and not found."""

from __future__ import annotations

from distwatch.findings.changes import largest_change
from distwatch.findings.desync import in_step
from distwatch.findings.findings import EXTENT, NOTE, WARNING, Finding
from distwatch.findings.origins import kind_of
from distwatch.findings.rules import AT_ONCE, rule
from distwatch.findings.tables import Recorded, TableDigest
from distwatch.records import CLOSED
from distwatch.text import counted

#: Signals in which NaN shows that went through a layer unseen.
_OF_WEIGHTS = {"weight", "update", "gradient", "gradient_local"}


@rule("Extent")
def extent(run: Recorded) -> list[Finding]:
    """How many steps of how many signals on how many replicas."""
    if not run.tables:
        return [Finding(EXTENT, NOTE, _of_copies(run) or "No step was recorded.")]
    steps = max(table.steps for table in run.tables)
    text = (
        f"{counted(steps, 'step')}, {counted(len(run.info.signals), 'signal')} on "
        f"{counted(len(run.info.replicas), 'replica')}"
    )
    compared = bool(largest_change(run))
    text += "." if compared else ": no two batches could be compared."
    return [Finding(EXTENT, NOTE, text)]


def _of_copies(run: Recorded) -> str:
    """The same of a run that only compared copies of variables."""
    held = [copies.steps for copies in run.copies if not copies.table.of_canary]
    if not held and run.copies:
        steps = max(copies.steps for copies in run.copies)
        return f"{counted(steps, 'step')} at which what replicas compute was compared."
    steps = max(held, default=0)
    return f"{counted(steps, 'step')} of which copies were compared." if steps else ""


@rule("StepsLost", asked=AT_ONCE)
def losses(run: Recorded) -> list[Finding]:
    """How many steps were lost."""
    several = len(run.tables) + len(run.copies) > 1
    each = ", counted in each table that looks at them" if several else ""
    text = f"{counted(run.lost, 'step')} lost{each}: see the gaps in `step`."
    return [Finding("lost", WARNING, text)] if run.lost else []


@rule("Unclosed")
def unclosed(run: Recorded) -> list[Finding]:
    """What may be missing of a run that was not closed."""
    extents = [*(each.extent for each in run.tables), *(each.extent for each in run.copies)]
    last = max((end for _, end in extents), default=None)
    after = "no step" if last is None else f"no step after {last}"
    if run.ended is None:
        text = (
            "The run was not closed: it is still being written, or its training was killed. "
            f"It holds {after}; later ones may be missing, and are not counted as lost."
        )
        return [Finding("unclosed", NOTE, text, step=last)]
    if run.ended != CLOSED:
        text = f"An error ended the watching; the run holds {after}: {run.ended}"
        return [Finding("ended_by_error", WARNING, text, step=last)]
    return []


@rule("Sound")
def sound(run: Recorded) -> list[Finding]:
    """Which faults there are not, so that nobody has to infer it from silence.

    Nothing is said of what was not seen.
    """
    seen = [table.broken for table in run.tables]
    said = []
    if seen and not any(each.any or each.of_change for each in seen):
        said.append(f"No NaN and no Inf{_seen(run)}.")
    if equal := in_step(run):
        said.append(equal)
    if not run.lost and run.ended == CLOSED:
        said.append("No row was lost.")
    return [Finding("sound", NOTE, " ".join(said))] if said else []


def _seen(run: Recorded) -> str:
    """Where was looked for NaN, unless everywhere."""
    if any(table.broken.unseen for table in run.tables):
        return " in the changes that were measured (a first batch has none)"
    # What is looked at more rarely than the rest is given to, or put out by, what is not.
    watched = [table for table in run.tables if not table.of_data] or run.tables
    last = max(table.extent[1] for table in run.tables)
    if run.ended != CLOSED or run.lost or any(_has_gaps(each, last) for each in watched):
        return " at the steps that are recorded"
    # ReLU makes a 0 of NaN, so that they may be seen in what is trained alone.
    kinds = {kind_of(name) for table in run.tables for name in table.table.names}
    return "" if kinds & _OF_WEIGHTS else " in what is recorded"


def _has_gaps(table: TableDigest, last: int) -> bool:
    """Whether it has not all steps up to the last one of the run."""
    return last - table.extent[0] + 1 > table.steps
