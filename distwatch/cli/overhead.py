"""``distwatch overhead``."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distwatch.cli.conventions import (
    JsonOption,
    ModuleOption,
    ScriptArgument,
    ScriptsArguments,
    app,
    examples,
    listing,
    progress_bar,
    wide_console,
)
from distwatch.text import format_bytes, printable

if TYPE_CHECKING:
    from distwatch.training.measuring import Estimate
    from distwatch.training.scripts.measured_script import Costs

#: The budget that is aimed at, unless the configuration names one.
_BUDGET = 0.05

#: What a start measures, for people.
_STARTS = {
    "unwatched": "the first steps, unwatched",
    "watched": "the first steps, watched; then steps watched and unwatched by turns",
    "signals": "the cost of each selector's signals",
}

#: Names of signals in a row of the table.
_NAMED = 3


@app.command(
    # Options after the script are the script's own, also --json and --help.
    context_settings={"allow_interspersed_args": False},
    epilog=examples(
        "distwatch overhead train.py --epochs 3",
        "distwatch overhead --config watch.yaml --steps 500 train.py",
        "distwatch overhead --json -m package.train --lr 0.1",
    ),
)
def overhead(
    script: ScriptArgument,
    args: ScriptsArguments = None,
    *,
    is_module: ModuleOption = False,
    config: Annotated[
        Path | None,
        typer.Option(help="A YAML file with the arguments of a Watch.", show_default=False),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=100, help="Steps that each start of the script takes at most.")
    ] = 2000,
    starts: Annotated[
        int, typer.Option(min=1, help="Starts unwatched, and as many watched.")
    ] = 2,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep the runs of the watched starts in this folder; by default none is left.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what watching a script costs, before a long run.

    The script is started several times, and each start is ended in its first fit, at the
    latest after --steps steps: nothing behind that is done, such as saving the model. What it
    writes until then (checkpoints of its callbacks) it does write.

    A step is timed watched and unwatched by turns, in one training.
    """
    from distwatch.config import read_arguments
    from distwatch.training.scripts.launching import Script, prepare
    from distwatch.training.scripts.measured_script import Measurement, measure

    asked = Script(script, tuple(args or ()), is_module=is_module)
    with contextlib.ExitStack() as stack:
        # The place is checked as that of any run; each start writes into one of its own.
        folder = keep or stack.enter_context(tempfile.TemporaryDirectory())
        launch = prepare(asked, config=config, store=folder)
        chosen = read_arguments(config) if config else {}
        measurement = Measurement(steps, starts, chosen.get("max_overhead") or _BUDGET)
        report = stack.enter_context(_progress(measurement.order, steps))
        costs = measure(launch, measurement, name=script, keep=keep, report=report)
    if as_json:
        typer.echo(json.dumps(_as_json(costs)))
    else:
        _print(script, costs)


@contextlib.contextmanager
def _progress(order: Sequence[str], steps: int) -> Iterator[Callable[[int, str, int], None]]:
    """Show on stderr which start it is, and how far it is."""
    with progress_bar() as bar:
        tasks: dict[int, Any] = {}

        def report(start: int, what: str, done: int) -> None:
            if start not in tasks:
                line = f"start {start + 1} of {len(order)}: {_STARTS[what]}"
                if bar.disable:
                    typer.echo(f"distwatch: {line}", err=True)
                tasks[start] = bar.add_task(line, total=steps)
            bar.update(tasks[start], completed=done)

        yield report


def _print(script: str, costs: Costs) -> None:
    console = wide_console()
    for line in _described(printable(script), costs):
        typer.echo(line)
    if costs.signals:
        heading = f"within {_percent(costs.budget)}"
        table = listing(
            ("signals, the dearest first", "at present", "added to a step", heading),
            [
                (
                    _named(each.signals),
                    f"every({each.every})",
                    _percent_with_interval(each.cost),
                    f"every({each.fitting})" if costs.can_fit or costs.fits else "-",
                )
                for each in costs.signals
            ],
        )
        console.print(table)
    typer.echo(_advice(costs))


def _described(script: str, costs: Costs) -> Iterator[str]:
    added, ratio = costs.added, costs.ratio
    replicas = "1 replica" if costs.replicas == 1 else f"{costs.replicas} replicas"
    yield f"What watching costs the first fit of {script}, on {replicas}:"
    yield (
        f"  a step          {_milliseconds(costs.step)} unwatched, "
        f"{_signed(1e3 * added.value)} ms watched ({_signed(1e3 * added.low)} to "
        f"{_signed(1e3 * added.high)}): {_percent_with_interval(ratio)}, of {costs.steps} steps"
    )
    yield f"  of that         {_percent_with_interval(costs.fixed)} however rarely is looked"
    yield f"  the first step  {_compared(costs.first_steps, lambda x: f'{x:.1f} s')}"
    yield f"  memory          {_compared(costs.memory, format_bytes)}, the process at its peak"
    yield (
        f"  disk            {format_bytes(costs.bytes_per_step)} a step, "
        f"{format_bytes(costs.bytes_per_hour)} an hour"
    )


def _advice(costs: Costs) -> str:
    budget = _percent(costs.budget)
    if costs.fits:
        return f"It is within {budget} as it is."
    if not costs.signals:
        return (
            f"Which signals are dearest, and what would be within {budget}, could not be "
            "measured in so few steps; give more --steps, or let the script train for longer."
        )
    if not costs.can_fit:
        return (
            f"No schedule of these signals comes within {budget}: "
            f"{_percent_with_interval(costs.fixed)} is added however rarely is looked. Watch "
            "fewer signals."
        )
    return (
        f"Within {budget}: the schedules in the last column, or Watch(..., "
        f"max_overhead={costs.budget:g}), which finds such by itself while training runs."
    )


def _compared(values: tuple[list[Any], list[Any]], form: Callable[[Any], str]) -> str:
    """Unwatched and watched, with all starts where they are several."""
    parts = []
    for name, each in zip(("unwatched", "watched"), values, strict=True):
        if not each:
            return "unknown on this system"
        low, high = form(min(each)), form(max(each))
        parts.append(f"{low if low == high else f'{low} to {high}'} {name}")
    return ", ".join(parts)


def _as_json(costs: Costs) -> dict[str, Any]:
    unwatched, watched = costs.first_steps
    return {
        "replicas": costs.replicas,
        "steps": costs.steps,
        "step_seconds": costs.step,
        "added_seconds": costs.added._asdict(),
        "ratio_added": costs.ratio._asdict(),
        "first_step_seconds": {"unwatched": unwatched, "watched": watched},
        "memory_bytes": {"unwatched": costs.memory[0], "watched": costs.memory[1]},
        "bytes_per_step": costs.bytes_per_step,
        "bytes_per_hour": costs.bytes_per_hour,
        "budget": costs.budget,
        "fits": costs.fits,
        "can_fit": costs.fits or costs.can_fit,
        "added_however_rarely": costs.fixed._asdict(),
        "signals": [
            {
                "signals": list(each.signals),
                "every": each.every,
                "every_to_fit": each.fitting,
                "added": each.cost._asdict(),
            }
            for each in costs.signals
        ],
    }


def _named(signals: Sequence[str]) -> str:
    more = f" and {len(signals) - _NAMED} more" if len(signals) > _NAMED else ""
    return ", ".join(signals[:_NAMED]) + more


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def _signed(number: float) -> str:
    return f"{number:+.2g}"


def _percent(part: float) -> str:
    return f"{100 * part:.3g} %"


def _percent_with_interval(part: Estimate) -> str:
    value, low, high = (f"{100 * each:+.1f} %" for each in part)
    return f"{value} ({low} to {high})"
