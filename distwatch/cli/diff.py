"""``distwatch diff``."""

from __future__ import annotations

import json
import math
from typing import Annotated

import typer

from distwatch.cli.conventions import (
    REFUSED,
    JsonOption,
    PhaseOption,
    RunArgument,
    app,
    examples,
    progress_bar,
    runs_meant,
)
from distwatch.records import Amplification


@app.command(
    epilog=examples(
        "distwatch diff before.zarr after.zarr",
        "distwatch diff before.zarr after.zarr --tolerance 1e-6",
        "distwatch diff one-gpu.zarr two-gpus.zarr --json",
        further="Exit codes: 0 identical, or within what rounding explains or the tolerance, "
        "1 the runs part, or one of them cannot be read, 2 bad usage.",
    )
)
def diff(
    run: RunArgument,
    other: Annotated[
        str, typer.Argument(help="The run to compare it with.", callback=runs_meant)
    ],
    *,
    tolerance: Annotated[
        str | None,
        typer.Option(
            metavar="RTOL|FILE",
            help="The relative difference that is allowed at every step, instead of what "
            "rounding explains; 0 allows none. Or a file with what distwatch.amplification "
            "measured, for a tolerance by signal.",
        ),
    ] = None,
    phase: PhaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the first step, replica and signal at which two runs part.

    What differs in their descriptions is said first. Rows are joined by step; runs over other
    replicas are compared merged over them. Differences that grow gradually, as those of
    rounding do, are no parting.
    """
    from distwatch.analysis.diffs import diff as compare
    from distwatch.store import StoredRun

    # Also what cannot be opened is refused before anything is shown.
    total = sum(table.steps for table in StoredRun(run, phase).tables.values())
    with progress_bar() as bar:
        task = bar.add_task("comparing", total=total)
        found = compare(
            run,
            other,
            tolerance=_meant(tolerance),
            phase=phase,
            progress=lambda steps: bar.update(task, advance=steps),
        )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2, allow_nan=False))
    else:
        typer.echo(str(found))
    if found.verdict == "parted":
        raise typer.Exit(REFUSED)


def _meant(tolerance: str | None) -> float | Amplification | None:
    """A number, or the file of an amplification."""
    if tolerance is None:
        return None
    try:
        number = float(tolerance)
    except ValueError:
        return Amplification.load(tolerance)
    if not 0 <= number < math.inf:
        raise typer.BadParameter(
            f"{tolerance} is no number from 0 on", param_hint="--tolerance"
        )
    return number
