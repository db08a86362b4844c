"""``distwatch export``."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
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
from distwatch.errors import ConfigError, NotWritableError
from distwatch.text import format_bytes, printable

if TYPE_CHECKING:
    from distwatch.event_files.options import EventOptions
    from distwatch.export import Wanted
    from distwatch.store import StoredRun

    Progress = Callable[[int], None]

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
            "'merged'. Of all phases, unless --phase says which.",
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
            help="Only these, such as mean,std,l2. By default all of them as rows, and "
            "mean, std, l2, ratio and spread for TensorBoard.",
        ),
    ] = None,
    merged: Annotated[
        bool | None,
        typer.Option(
            "--merged/--per-replica",
            help="Only what is merged over the replicas, or only each of them; by default "
            "both.",
        ),
    ] = None,
    every: Annotated[
        int,
        typer.Option(min=1, help="Of every so many steps only the first that there is."),
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what was exported there before.")
    ] = False,
) -> None:
    """Write a run as TensorBoard event files, Parquet or CSV.

    A tidy row is one signal at one step on one replica, or merged over all: step, epoch,
    iteration, replica (a number, or "merged"), signal, then a column for each statistic.
    What is not known (a change without a step before it, the spread on one replica) is null
    in Parquet and empty in CSV; infinite is inf. CSV is safe to open in a spreadsheet: a
    name that begins with = + - or @ gets a ' before it. TensorBoard's wall time is that of
    the run's creation, since steps have none of their own.
    """
    from distwatch.export import Wanted, check_pyarrow, check_wanted
    from distwatch.store import StoredRun

    if not (tensorboard or parquet or csv):
        raise ConfigError("say where to: --tensorboard DIR, --parquet FILE or --csv FILE.")
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
    # What is wrong is said before the first of several is written.
    check_wanted(stored, wanted)
    if parquet:
        check_pyarrow()
    options = _event_options(tensorboard, wanted) if tensorboard else None
    for file in (parquet, csv):
        _check_free(file, overwrite=overwrite)
    # Where the rows go to stdout, what is said of the others is in nobody's way on stderr.
    say = functools.partial(_say, err=csv == _STDOUT)
    if options:
        say(_to_tensorboard(stored, phase, options, overwrite=overwrite))
    if parquet:
        say(_to_parquet(stored, wanted, Path(parquet)))
    if csv == _STDOUT:
        _to_stdout(stored, wanted)
    elif csv:
        say(_to_csv(stored, wanted, Path(csv)))


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


def _to_parquet(stored: StoredRun, wanted: Wanted, path: Path) -> str:
    from distwatch.export import write_parquet

    with _written(stored, str(path)) as progress, _replacing(path) as partial:
        rows = write_parquet(stored, wanted, partial, progress=progress)
    return f"{path}: {rows:,} rows, {format_bytes(path.stat().st_size)}"


def _to_csv(stored: StoredRun, wanted: Wanted, path: Path) -> str:
    from distwatch.export import write_csv

    with (
        _written(stored, str(path)) as progress,
        _replacing(path) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        rows = write_csv(stored, wanted, file, progress=progress)
    return f"{path}: {rows:,} rows, {format_bytes(path.stat().st_size)}"


def _to_stdout(stored: StoredRun, wanted: Wanted) -> None:
    from distwatch.export import write_csv

    try:
        with _written(stored, "CSV") as progress:
            write_csv(stored, wanted, sys.stdout, progress=progress)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough; what is buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_free(target: str | None, *, overwrite: bool) -> None:
    if target is None or target == _STDOUT:
        return
    path = Path(target)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give the name of a file.")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} is there already; give another name, or --overwrite.")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file that takes the place of another one when it is whole, and never before."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _written(stored: StoredRun, target: str) -> Iterator[Progress]:
    """A bar over the steps of all tables; a disk that fails is a refusal."""
    steps = sum(table.steps for table in stored.tables.values())
    try:
        with progress_bar() as bar:
            task = bar.add_task(f"writing {printable(target)}", total=steps)
            yield lambda done: bar.advance(task, done)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise NotWritableError(f"{target} could not be written: {error}.") from error


def _say(line: str, *, err: bool) -> None:
    typer.echo(printable(line), err=err)
