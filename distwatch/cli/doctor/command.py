"""``distwatch doctor``."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from distwatch.cli.conventions import (
    REFUSED,
    JsonOption,
    app,
    examples,
    progress_bar,
    safe,
)
from distwatch.cli.doctor.findings import Finding
from distwatch.cli.doctor.trainings import TIMEOUT

_STYLES = {"ok": "green", "note": "dim", "warning": "yellow", "problem": "red"}


@app.command(
    epilog=examples(
        "distwatch doctor",
        "distwatch doctor --store s3://bucket/runs",
        "distwatch doctor --quick --json",
        further="Exit codes: 0 no problem, 1 at least one, 2 bad usage.",
    )
)
def doctor(
    *,
    store: Annotated[
        str,
        typer.Option(
            help="Where runs will be written: a folder, or what Watch would be given. A test "
            "run is written next to it, and removed.",
            show_default="the folder you are in",
        ),
    ] = ".",
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not train, so that TensorFlow is not loaded.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that a training may take.")
    ] = TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Check what this machine can do, and say what to fix.

    Checks what is installed; whether TensorFlow trains under MirroredStrategy, on virtual
    CPUs and on GPUs, with every row right; how fast runs are written to --store.
    """
    from distwatch.cli.doctor.checks import checks, findings_of

    planned = checks(store, quick=quick, timeout=timeout)
    found: dict[str, list[Finding]] = {}
    with progress_bar() as progress:
        looking = progress.add_task("", total=len(planned))
        for topic, look in planned.items():
            progress.update(looking, description=topic)
            found[topic] = findings_of(topic, look)
            progress.advance(looking)
    verdicts = [each.verdict for findings in found.values() for each in findings]
    problems, warnings = verdicts.count("problem"), verdicts.count("warning")
    if as_json:
        listed = [
            {"topic": topic, **vars(each)}
            for topic, each_of in found.items()
            for each in each_of
        ]
        counted = {"problems": problems, "warnings": warnings, "findings": listed}
        typer.echo(json.dumps(counted, indent=2))
    else:
        _show(found)
        typer.echo(_in_all(problems, warnings))
    if problems:
        raise typer.Exit(REFUSED)


def _show(found: dict[str, list[Finding]]) -> None:
    kept_whole = [Column(no_wrap=True), Column(no_wrap=True)]
    lines = Table.grid(*kept_whole, Column(overflow="fold"), padding=(0, 2, 0, 0))
    for topic, findings in found.items():
        lines.add_row(f"[bold]{topic}[/bold]")
        for each in findings:
            style = _STYLES[each.verdict]
            lines.add_row(f"[{style}]{each.verdict}[/]", safe(each.name), safe(each.text))
            if each.remedy:
                lines.add_row("", "", f"[bold]{safe(each.remedy)}[/bold]")
    Console().print(lines, highlight=False)


def _in_all(problems: int, warnings: int) -> str:
    if problems:
        return f"Problems: {problems}, warnings: {warnings}."
    if warnings:
        return f"No problems; warnings: {warnings}."
    return "No problems."
