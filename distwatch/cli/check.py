"""``distwatch check``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import typer

from distwatch.cli.conventions import (
    REFUSED,
    JsonOption,
    PhaseOption,
    RulesOption,
    RunArgument,
    app,
    examples,
    rules_in,
)
from distwatch.text import counted, printable


@app.command(
    epilog=examples(
        "distwatch check run.zarr",
        "distwatch check run.zarr --json",
        "distwatch check run.zarr --rule Desync --rule NonFinite",
        "distwatch check run.zarr --notes --fail-on never",
        "distwatch check run.zarr --rules rules.yaml",
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
    rules: RulesOption = None,
    notes: Annotated[
        bool, typer.Option("--notes", help="Also say what is worth knowing, and no fault.")
    ] = False,
    as_json: JsonOption = False,
    phase: PhaseOption = None,
) -> None:
    """Say what is wrong with a training: the cause, the evidence, what to try."""
    from distwatch.analysis import open_run
    from distwatch.findings import EXTENT, NOTE, WARNING, document

    own = rules_in(rules)
    _check_names(rule or (), own)
    opened = open_run(run, phase=phase)
    found = [
        each
        for each in opened.findings(rules=own)
        if each.kind != EXTENT and (not rule or each.rule in rule)
    ]
    counts = {"warning": (WARNING,), "note": (WARNING, NOTE), "never": ()}[fail_on]
    failed = any(each.severity in counts and each.kind != "sound" for each in found)
    if as_json:
        verdict = {
            "failed": failed,
            "steps": len(opened),
            "findings": list(map(document, found)),
        }
        typer.echo(json.dumps(verdict, indent=2, allow_nan=False))
    else:
        for line in _lines(found, len(opened), notes=notes):
            typer.echo(printable(line))
    if failed:
        raise typer.Exit(REFUSED)


def _check_names(names: Iterable[str], own: Iterable[Any]) -> None:
    from distwatch.errors import ConfigError, nearest
    from distwatch.findings import RULES

    known = [rule.name for rule in (*RULES, *own)]
    for name in names:
        if name not in known:
            raise ConfigError(f"no rule {name!r}; nearest: {nearest(name, known)}.")


def _lines(found: list[Any], steps: int, *, notes: bool) -> Iterable[str]:
    from distwatch.findings import WARNING, named

    warnings = [each for each in found if each.severity == WARNING]
    others = [each for each in found if each.severity != WARNING]
    if not steps:
        yield "No step was recorded, so nothing is known."
    elif not warnings:
        yield f"Nothing unusual in {counted(steps, 'step')}."
    for each in warnings:
        faults = f" [{', '.join(each.faults)}]" if each.faults else ""
        yield f"{named(each)}, {each.confidence}{faults}: {each.text}"
    for each in others if notes else ():
        yield f"{named(each)}, note: {each.text}"
    if others and not notes:
        yield f"{counted(len(others), 'note')}: --notes shows them."
