"""``distwatch check``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import typer

from distwatch.cli.conventions import (
    REFUSED,
    JsonOption,
    PhaseOption,
    RunArgument,
    app,
    examples,
)
from distwatch.text import counted, printable


@app.command(
    epilog=examples(
        "distwatch check run.zarr",
        "distwatch check run.zarr --json",
        "distwatch check run.zarr --rule Desync --rule NonFinite",
        "distwatch check run.zarr --notes --fail-on never",
        further="Exit codes: 0 nothing is found of that severity, 1 something is, or the run "
        "cannot be read, 2 bad usage.",
    )
)
def check(  # noqa: PLR0917 - typer gives them by name
    run: RunArgument,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only this rule, as 'distwatch rules' names it; may be given several times.",
        ),
    ] = None,
    fail_on: Annotated[
        Literal["warning", "note", "never"],
        typer.Option(help="From which severity on the exit code is 1."),
    ] = "warning",
    notes: Annotated[
        bool, typer.Option("--notes", help="Also say what is worth knowing, and no fault.")
    ] = False,
    as_json: JsonOption = False,
    phase: PhaseOption = None,
) -> None:
    """Say what is wrong with a training: the cause, the evidence, what to try."""
    from distwatch.analysis import open_run
    from distwatch.findings import EXTENT, NOTE, WARNING

    _check_names(rule or ())
    opened = open_run(run, phase=phase)
    found = [
        each
        for each in opened.findings()
        if each.kind != EXTENT and (not rule or each.rule in rule)
    ]
    counts = {"warning": (WARNING,), "note": (WARNING, NOTE), "never": ()}[fail_on]
    failed = any(each.severity in counts and each.kind != "sound" for each in found)
    if as_json:
        verdict = {
            "failed": failed,
            "steps": len(opened),
            "findings": list(map(_document, found)),
        }
        typer.echo(json.dumps(verdict, indent=2, allow_nan=False))
    else:
        for line in _lines(found, len(opened), notes=notes):
            typer.echo(printable(line))
    if failed:
        raise typer.Exit(REFUSED)


def _check_names(names: Iterable[str]) -> None:
    from distwatch.errors import ConfigError, nearest
    from distwatch.findings import RULES

    known = [rule.name for rule in RULES]
    for name in names:
        if name not in known:
            raise ConfigError(f"no rule {name!r}; nearest: {nearest(name, known)}.")


def _lines(found: list[Any], steps: int, *, notes: bool) -> Iterable[str]:
    from distwatch.findings import WARNING

    warnings = [each for each in found if each.severity == WARNING]
    others = [each for each in found if each.severity != WARNING]
    if not steps:
        yield "No step was recorded, so nothing is known."
    elif not warnings:
        yield f"Nothing unusual in {counted(steps, 'step')}."
    for each in warnings:
        faults = f" [{', '.join(each.faults)}]" if each.faults else ""
        yield f"{_name(each)}, {each.confidence}{faults}: {each.text}"
    for each in others if notes else ():
        yield f"{_name(each)}, note: {each.text}"
    if others and not notes:
        yield f"{counted(len(others), 'note')}: --notes shows them."


def _name(finding: Any) -> str:
    """Its rule; what is known of the store itself comes from no rule."""
    return str(finding.rule or finding.kind)


def _document(finding: Any) -> dict[str, Any]:
    """A finding as JSON has it; numbers that it does not have are null."""
    return {
        "rule": _name(finding),
        "kind": finding.kind,
        "severity": finding.severity,
        "confidence": finding.confidence,
        "text": finding.text,
        "advice": finding.advice,
        "faults": list(finding.faults),
        "signal": finding.signal,
        "others": list(finding.others),
        "replica": finding.replica,
        "first_step": finding.first_step,
        "last_step": finding.last_step,
        "value": _finite(finding.value),
        "threshold": _finite(finding.threshold),
        "evidence": {name: _finite(value) for name, value in finding.evidence.items()},
        "explains": [_name(each) for each in finding.follows],
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
