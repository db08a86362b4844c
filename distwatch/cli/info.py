"""``distwatch info``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from distwatch.cli.conventions import (
    WIDEST,
    JsonOption,
    PhaseOption,
    RunArgument,
    app,
    examples,
    listing,
    wide_console,
)
from distwatch.statistics import SignalCounts
from distwatch.text import counted, printable

#: The columns of the signals.
_SIGNALS = ("signal", "measured against", "place", "steps", "schedule", "further")

#: The columns of what was changed while a run was written.
_CHANGED = ("from step", "signals", "looked at since", "why")


@app.command(
    epilog=examples(
        "distwatch info run.zarr",
        "distwatch info run.zarr --json",
        "distwatch info run.zarr --phase test",
    )
)
def info(
    run: RunArgument,
    as_json: JsonOption = False,
    phase: PhaseOption = None,
) -> None:
    """Show what is in a run: signals, replicas, steps, versions, size."""
    from distwatch.analysis.facts import describe
    from distwatch.store import StoredRun

    described = describe(StoredRun(run, phase))
    if as_json:
        typer.echo(json.dumps(described, indent=2))
    else:
        _show(described)


def _show(described: dict[str, Any]) -> None:
    from distwatch.analysis.facts import changes_in, facts_of, taken_at

    console = wide_console()
    columns = Column(style="bold", no_wrap=True), Column(overflow="fold")
    facts = Table.grid(*columns, padding=(0, 2))
    for name, value in facts_of(described):
        facts.add_row(name, Text(printable(value)))
    console.print(facts)
    if described["tables"]:
        rows = [
            (signal["name"], signal["reference"], taken_at(signal), *_how(table))
            for table in described["tables"]
            for signal in table["signals"]
        ]
        _show_signals(console, rows)
    if changed := changes_in(described):
        console.print(listing(_CHANGED, changed))
    if described["unwatched"]:
        console.print(listing(("not watched", "why"), list(described["unwatched"].items())))


def _show_signals(console: Console, rows: Sequence[tuple[str, ...]]) -> None:
    """As a table; where that is too wide, so that names stay whole, by what they share."""
    table = listing(_SIGNALS, rows)
    unbounded = console.options.update(max_width=WIDEST)
    if Measurement.get(console, unbounded, table).maximum <= console.width:
        console.print(table)
        return
    alike: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for name, reference, place, *how in rows:
        alike.setdefault((reference, *how), []).append((name, place))
    for (reference, steps, schedule, further), signals in alike.items():
        console.print()
        shared = f"reference {reference}; {schedule}; {counted(int(steps), 'step')}"
        console.print(Text(printable(f"{shared}; {further}" if further else shared), "bold"))
        for name, place in signals:
            line = Text(printable(f"{name} ({place})" if place else name), overflow="fold")
            console.print(Padding(line, (0, 0, 0, 2), expand=False))


def _how(table: dict[str, Any]) -> tuple[str, str, str]:
    tensor = ["tensor"] if table["tensor"] else []
    names = [statistic["name"] for statistic in table["statistics"]]
    further = [*(name for name in names if name != SignalCounts.name), *tensor]
    return str(table["committed_steps"]), table["schedule"], ", ".join(further)
