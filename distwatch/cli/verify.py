"""``distwatch verify``."""

from __future__ import annotations

import json

import typer

from distwatch.cli.conventions import (
    REFUSED,
    JsonOption,
    RunArgument,
    app,
    examples,
    progress_bar,
)
from distwatch.text import format_bytes, printable


@app.command(
    epilog=examples(
        "distwatch verify run.zarr",
        "distwatch verify run.zarr --json",
        further="Exit codes: 0 no chunk is damaged, 1 some are, there are none, or the run "
        "cannot be read, 2 bad usage.",
    )
)
def verify(
    run: RunArgument,
    as_json: JsonOption = False,
) -> None:
    """Read every chunk of a run against its checksum, and list what is damaged."""
    from distwatch.store import StoredRun

    stored = StoredRun(run)
    chunks, size, found = 0, 0, []
    total = stored.nbytes
    with progress_bar() as progress:
        reading = progress.add_task("reading", total=total)
        for nbytes, damage in stored.verify():
            # A description that is gone is damage, but no chunk.
            chunks += damage is None or bool(damage.array)
            size += nbytes
            progress.update(reading, completed=size)
            if damage is not None:
                found.append(damage)
    if as_json:
        listed = [{**vars(damage), "file": str(damage.file)} for damage in found]
        typer.echo(json.dumps({"chunks": chunks, "bytes": size, "damaged": listed}, indent=2))
    else:
        for damage in found:
            typer.echo(printable(str(damage)))
        typer.echo(_conclusion(chunks, size, len(found)))
    if found or not chunks:
        raise typer.Exit(REFUSED)


def _conclusion(chunks: int, size: int, damaged: int) -> str:
    if not chunks:
        return (
            "There are no chunks, so nothing was checked: no row of this run was ever "
            "committed, or they are gone."
        )
    read = f"{chunks} chunks of {format_bytes(size)} read"
    return (
        f"{read}, {damaged} damaged; the others can be read."
        if damaged
        else (f"{read}, none damaged.")
    )
