"""``distwatch estimate``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from distwatch.cli.conventions import JsonOption, app, examples
from distwatch.errors import ConfigError
from distwatch.text import format_bytes


@app.command(
    epilog=examples(
        "distwatch estimate --steps 100000 --signals 40 --replicas 4",
        "distwatch estimate --steps 1000000 --every 10 --histogram",
        "distwatch estimate --steps 1000000 --like run.zarr",
    )
)
def estimate(
    *,
    steps: Annotated[int, typer.Option(min=1, help="Training steps, over all epochs.")],
    signals: Annotated[int, typer.Option(min=1, help="Signals that are watched.")] = 10,
    replicas: Annotated[int, typer.Option(min=1, help="Replicas that train together.")] = 2,
    every: Annotated[int, typer.Option(min=1, help="Record every k-th step.")] = 1,
    window: Annotated[int, typer.Option(min=1, help="Steps in a chunk.")] = 256,
    histogram: Annotated[
        bool, typer.Option("--histogram", help="With histograms of all signals.")
    ] = False,
    like: Annotated[
        str | None,
        typer.Option(help="An existing run of the same model, whose bytes per step are used."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate how large a run will be, before it starts.

    For a given model, [bold]watch.estimate(model, batch, steps=...)[/bold] knows its signals.
    The estimate is within a fifth of what is written if deltas resemble noise.
    """
    from distwatch.store import StoredRun, estimated_bytes, made_up_info

    if like is not None:
        stored = StoredRun(like)
        if stored.last_step is None:
            raise ConfigError(f"{like} has no steps yet, so nothing can be estimated from it.")
        # Also those steps count that the run did not record.
        size = round(stored.nbytes / (1 + stored.last_step) * steps)
    else:
        info = made_up_info(signals, replicas, window=window, histogram=histogram)
        size = estimated_bytes(info, {info.tables[0].name: -(-steps // every)})
    if as_json:
        typer.echo(json.dumps({"steps": steps, "bytes": size}))
    else:
        typer.echo(f"{steps:,} steps take about {format_bytes(size)}.")
