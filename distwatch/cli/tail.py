"""``distwatch tail``."""

from __future__ import annotations

from typing import Annotated

import typer

from distwatch.cli.conventions import (
    INTERRUPTED,
    PhaseOption,
    RunArgument,
    SignalsOption,
    app,
    examples,
)


@app.command(
    epilog=examples(
        "distwatch tail run.zarr",
        "distwatch tail run.zarr --signals 'dense_*' --signals loss --statistic mean",
        "distwatch tail run.zarr --wait --interval 10 >> run.log",
        "distwatch tail run.zarr --once --json",
        further="Exit codes: 0 the run has ended, 1 refused, or it was deleted or overwritten "
        "meanwhile, 2 bad usage, 130 ended by Ctrl-C.",
    )
)
def tail(
    run: RunArgument,
    *,
    phase: PhaseOption = None,
    signals: SignalsOption = None,
    statistic: Annotated[
        str,
        typer.Option(
            help="What is shown of a step, over all replicas: l2 (how large the change was), "
            "l1, mean, std, min, max, zeros, spread, ..."
        ),
    ] = "l2",
    interval: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two updates.")
    ] = 2.0,
    last: Annotated[int, typer.Option(min=1, help="How many steps are read and shown.")] = 512,
    once: Annotated[bool, typer.Option("--once", help="Show the run once, and exit.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, for programs.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for a run or phase that does not exist yet.")
    ] = False,
) -> None:
    """Follow a run that is being written, until it is closed.

    On a terminal: a sparkline for each signal, its last value, how far the replicas' means
    lie apart and which replica is furthest from the others, NaN and Inf. Elsewhere: one line
    per update.

    To have the training look at signals more or less often, or not at all, while it runs:
    [bold]distwatch set RUN 'gradient*' --every 100[/bold], which writes a line into
    RUN/requests.jsonl.
    """
    from distwatch.cli.following import Follower, Wanted, display, follow

    follower = Follower(run, Wanted(phase, tuple(signals or ()), statistic, last))
    looks = follow(follower, interval=interval, once=once, wait=wait)
    try:
        display(looks, run, once=once, as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
