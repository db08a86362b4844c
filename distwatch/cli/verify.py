"""``distwatch verify``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from distwatch.store import StoredRun


@app.command(
    epilog=examples(
        "distwatch verify run.zarr",
        "distwatch verify run.zarr --json",
        further="Exit codes: 0 no chunk is damaged, 1 some are, there are none, the kept "
        "findings are not those of the rows, or the run cannot be read, 2 bad usage.",
    )
)
def verify(
    run: RunArgument,
    as_json: JsonOption = False,
) -> None:
    """Read every chunk of a run against its checksum, and list what is damaged.

    Findings that are kept beside the rows are derived from them once more, and compared.
    """
    from distwatch.store import StoredRun
    from distwatch.store.digests import digest_name

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
    # Of damaged rows findings are others; those that are kept are of all rows.
    false = {} if found else _false_findings(stored)
    if as_json:
        listed = [{**vars(damage), "file": str(damage.file)} for damage in found]
        said = {"chunks": chunks, "bytes": size, "damaged": listed, "findings": false}
        typer.echo(json.dumps(said, indent=2))
    else:
        for phase, sentences in false.items():
            typer.echo(
                f"The kept findings of the phase {phase} are not those of its rows; delete "
                f"{digest_name(phase)}, and they are made anew:"
            )
            for sentence in sentences:
                typer.echo(printable(f"  {sentence}"))
        for damage in found:
            typer.echo(printable(str(damage)))
        typer.echo(_conclusion(chunks, size, len(found)))
    if found or false or not chunks:
        raise typer.Exit(REFUSED)


def _false_findings(stored: StoredRun) -> dict[str, list[str]]:
    """Phase -> where its kept findings differ from what its rows say."""
    from distwatch.analysis import open_run

    said = {
        phase: open_run(stored.path, phase=phase).verify_findings() for phase in stored.phases
    }
    return {phase: sentences for phase, sentences in said.items() if sentences}


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
