"""``distwatch export``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distwatch.cli.conventions import (
    PhaseOption,
    RunArgument,
    SignalsOption,
    app,
    examples,
    progress_bar,
)
from distwatch.cli.output_files import check_free, replacing
from distwatch.errors import ConfigError, NotWritableError
from distwatch.text import format_bytes, printable

if TYPE_CHECKING:
    from distwatch.event_files.options import EventOptions
    from distwatch.export import Wanted
    from distwatch.store import StoredRun

_STDOUT = "-"


@app.command(
    epilog=examples(
        "distwatch export run.zarr --tensorboard logs/",
        "distwatch export run.zarr --tensorboard logs/ --every 100 --statistics mean,std,max",
        "distwatch export run.zarr --parquet run.parquet --signals 'activation/*'",
        "distwatch export run.zarr --csv - --merged --statistics l2 | head",
    )
)
def export(
    run: RunArgument,
    *,
    tensorboard: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Write TensorBoard's event files: a folder in DIR for each replica, and "
            "'merged'. All phases are written unless --phase names one.",
        ),
    ] = None,
    parquet: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write tidy rows as Parquet.")
    ] = None,
    csv: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write tidy rows as CSV; - writes to stdout."),
    ] = None,
    phase: PhaseOption = None,
    signals: SignalsOption = None,
    statistics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Only these, such as mean,std,l2. By default rows have all of them, and "
            "TensorBoard's event files a few: mean, std, l2, ...",
        ),
    ] = None,
    merged: Annotated[
        bool | None,
        typer.Option(
            "--merged/--per-replica",
            help="Only rows merged over the replicas, or only those of each replica; by "
            "default both.",
        ),
    ] = None,
    every: Annotated[
        int,
        typer.Option(min=1, help="Keep only the first recorded one of every so many steps."),
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing files.")
    ] = False,
) -> None:
    """Write a run as TensorBoard event files, Parquet or CSV.

    A tidy row is one signal at one step on one replica, or merged over all: step, epoch,
    iteration, replica (a number, or "merged"), signal, then a column for each statistic.
    Unknown values (a change without a step before it, the spread on one replica) are null
    in Parquet and empty in CSV; infinity is inf. CSV is safe to open in a spreadsheet: a
    name that begins with = + - or @ gets a ' before it. TensorBoard's wall time is that of
    the run's creation, since steps have none of their own.
    """
    from distwatch.export import Wanted, check_pyarrow, statistics_of, write_parquet
    from distwatch.store import StoredRun

    if not (tensorboard or parquet or csv):
        raise ConfigError("choose an output: --tensorboard DIR, --parquet FILE or --csv FILE.")
    wanted = Wanted(
        signals=tuple(signals or ()),
        statistics=tuple(name for given in statistics or () for name in given.split(",")),
        replicas=merged is not True,
        merged=merged is not False,
        every=every,
    )
    stored = StoredRun(run, phase)
    if not stored.steps:
        raise ConfigError(
            f"{stored.path} has no committed step yet, so there is nothing to export."
        )
    # What cannot be exported is refused before the first of several files is written.
    statistics_of(stored, wanted)
    if parquet:
        check_pyarrow()
    options = _event_options(tensorboard, wanted) if tensorboard else None
    for file in (parquet, csv):
        if file and file != _STDOUT:
            check_free(Path(file), overwrite=overwrite)

    def say(line: str) -> None:
        # Messages must not mix with rows on stdout.
        typer.echo(printable(line), err=csv == _STDOUT)

    if options:
        say(_to_tensorboard(stored, phase, options, overwrite=overwrite))
    if parquet:
        say(_to_file(stored, Path(parquet), partial(write_parquet, stored, wanted)))
    if csv == _STDOUT:
        _to_stdout(stored, wanted)
    elif csv:
        say(_to_file(stored, Path(csv), partial(_write_csv_file, stored, wanted)))


def _event_options(folder: str, wanted: Wanted) -> EventOptions:
    from distwatch.event_files.options import STATISTICS, event_options

    return event_options(
        {
            "folder": folder,
            "statistics": wanted.statistics or STATISTICS,
            "signals": wanted.signals,
            "every": wanted.every,
            "replicas": wanted.replicas,
            "merged": wanted.merged,
        }
    )


def _to_tensorboard(
    stored: StoredRun, phase: str | None, options: EventOptions, *, overwrite: bool
) -> str:
    from distwatch.event_files.folders import make_room
    from distwatch.export import write_events
    from distwatch.store import StoredRun

    phases = [stored] if phase else [StoredRun(stored.path, each) for each in stored.phases]
    make_room(options, overwrite=overwrite)
    nbytes = 0
    for each in phases:
        with _written(each, str(options.folder)) as progress:
            nbytes += write_events(each, options, progress=progress)
    return (
        f"{options.folder}: {format_bytes(nbytes)} of event files; "
        f"see them by: tensorboard --logdir {options.folder}"
    )


def _to_file(stored: StoredRun, path: Path, write: Callable[..., int]) -> str:
    with _written(stored, str(path)) as progress, replacing(path) as unfinished:
        rows = write(unfinished, progress=progress)
    return f"{path}: {rows:,} rows, {format_bytes(path.stat().st_size)}"


def _write_csv_file(
    stored: StoredRun, wanted: Wanted, path: Path, *, progress: Callable[[int], None]
) -> int:
    from distwatch.export import write_csv

    with path.open("w", encoding="utf-8", newline="") as file:
        return write_csv(stored, wanted, file, progress=progress)


def _to_stdout(stored: StoredRun, wanted: Wanted) -> None:
    from distwatch.export import write_csv

    try:
        with _written(stored, "CSV") as progress:
            write_csv(stored, wanted, sys.stdout, progress=progress)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe; what is still buffered is discarded.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _written(stored: StoredRun, target: str) -> Iterator[Callable[[int], None]]:
    """A progress bar over the steps of all tables; disk errors become a NotWritableError."""
    steps = sum(table.steps for table in stored.tables.values())
    try:
        with progress_bar() as bar:
            task = bar.add_task(f"writing {printable(target)}", total=steps)
            yield lambda done: bar.advance(task, done)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise NotWritableError(f"{target} could not be written: {error}.") from error
