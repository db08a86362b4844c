"""The command line: ``distwatch demo``, ``info``, ``tail``, ``verify`` and ``estimate``.

Exit codes: 0 all is well, 1 distwatch refused (the reason is one line on stderr),
2 the command line itself is wrong, 130 ``tail`` was ended by Ctrl-C.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from distwatch import __version__
from distwatch._text import printable
from distwatch.errors import ConfigError, DistwatchError, RunExistsError

if TYPE_CHECKING:
    from distwatch.store import StoredRun
    from distwatch.store.joining import ReadableTable

#: Where the demo writes when it is not told; this one may be replaced by the next demo.
DEMO_STORE = Path("distwatch-demo.zarr")

#: The exit code of everything that distwatch itself refuses.
REFUSED = 1

#: That of ``tail`` when Ctrl-C ended it and not the run: by this a script tells them apart.
INTERRUPTED = 130

_EXIT_CODES = "Exit codes: 0 all is well, 1 refused, with the reason on stderr, 2 bad usage."

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="See what changes inside a Keras model, batch by batch, on every replica.",
    epilog=_EXIT_CODES,
)


def main() -> None:
    """Run the command line; what distwatch refuses is one red line and exit code 1."""
    try:
        app(prog_name="distwatch")
    except DistwatchError as error:
        line = Text(f"error: {printable(str(error))}", style="red")
        Console(stderr=True).print(line, soft_wrap=True)
        raise SystemExit(REFUSED) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"distwatch {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Examples:\n\n  distwatch demo\n\n  distwatch demo --replicas 4 --store four.zarr"
)
def demo(
    store: Annotated[
        Path | None,
        typer.Option(help=f"Where the run is written; {DEMO_STORE} unless given."),
    ] = None,
    replicas: Annotated[
        int, typer.Option(min=1, max=16, help="Virtual CPU replicas that train together.")
    ] = 2,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the digits.")] = 5,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete a run that lies at --store.")
    ] = False,
) -> None:
    """Train a small CNN on handwritten digits, watched, and show what changed.

    The digits come with scikit-learn; nothing is downloaded.
    """
    # Only the demo's own path is replaced unasked, and even there only a run.
    replace = overwrite or store is None
    path = store or DEMO_STORE
    _check_demo_store(path, replace)
    from distwatch.demo import run_demo

    run_demo(path, replicas=replicas, epochs=epochs, overwrite=replace)


@app.command(
    epilog="Examples:\n\n  distwatch info run.zarr\n\n  distwatch info run.zarr --json"
    "\n\n  distwatch info run.zarr --phase test"
)
def info(
    run: Annotated[str, typer.Argument(help="The path or URL that was given to Watch.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, for programs.")
    ] = False,
    phase: Annotated[
        str | None,
        typer.Option(help="train, test, predict or train_on_batch; train if there is one."),
    ] = None,
) -> None:
    """Show what is in a run: signals, replicas, steps, versions, size."""
    from distwatch.store import StoredRun

    described = describe(StoredRun(run, phase))
    if as_json:
        typer.echo(json.dumps(described, indent=2))
    else:
        _show(described)


@app.command(
    epilog="Examples:\n\n  distwatch tail run.zarr"
    "\n\n  distwatch tail run.zarr --signals 'dense_*' --signals loss --statistic mean"
    "\n\n  distwatch tail run.zarr --wait --interval 10 >> run.log"
    "\n\n  distwatch tail run.zarr --once --json"
    "\n\nExit codes: 0 the run is ended, 1 refused, or it was deleted or overwritten "
    "meanwhile, 2 bad usage, 130 ended by Ctrl-C."
)
def tail(
    run: Annotated[str, typer.Argument(help="The path that was given to Watch.")],
    *,
    phase: Annotated[
        str | None,
        typer.Option(help="train, test, predict or train_on_batch; train if there is one."),
    ] = None,
    signals: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Only signals of this name, with or without its kind, as a glob; may be "
            "given several times.",
        ),
    ] = None,
    statistic: Annotated[
        str,
        typer.Option(
            help="What is shown of a step, over all replicas: l2 (how large the change was), "
            "l1, mean, std, min, max, zeros, spread, ..."
        ),
    ] = "l2",
    interval: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two looks at the run.")
    ] = 2.0,
    last: Annotated[
        int, typer.Option(min=1, help="How many steps are shown; no others are read.")
    ] = 512,
    once: Annotated[bool, typer.Option("--once", help="Look once, and exit.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object a line, for programs.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for a run or phase that is not there yet.")
    ] = False,
) -> None:
    """Follow a run that is being written, until it is closed.

    On a terminal: a sparkline for each signal, its last value, how far the replicas' means
    lie apart and which replica lies furthest out, NaN and Inf. Elsewhere: a line a look.
    """
    from distwatch.tail import Follower, Wanted, display_for, follow

    follower = Follower(run, Wanted(phase, tuple(signals or ()), statistic, last))
    display = display_for(once=once, as_json=as_json)
    try:
        follow(follower, display, interval=interval, once=once, wait=wait)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


@app.command(
    epilog="Examples:\n\n  distwatch verify run.zarr\n\n  distwatch verify run.zarr --json"
    "\n\nExit codes: 0 no chunk is damaged, 1 some are, or it cannot be read, 2 bad usage."
)
def verify(
    run: Annotated[str, typer.Argument(help="The path or URL that was given to Watch.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, for programs.")
    ] = False,
) -> None:
    """Read every chunk of a run against its checksum, and list what is damaged."""
    from distwatch.store import StoredRun

    stored = StoredRun(run)
    chunks, size, found = 0, 0, []
    total = stored.nbytes
    with Progress(console=Console(stderr=True), transient=True) as progress:
        reading = progress.add_task("reading", total=total)
        for nbytes, damage in stored.verify():
            chunks, size = chunks + 1, size + nbytes
            progress.update(reading, completed=size)
            if damage is not None:
                found.append(damage)
    if as_json:
        listed = [{**vars(damage), "file": str(damage.file)} for damage in found]
        typer.echo(json.dumps({"chunks": chunks, "bytes": size, "damaged": listed}, indent=2))
    else:
        for damage in found:
            typer.echo(printable(str(damage)))
        typer.echo(
            f"{chunks} chunks of {size / 1e6:,.2f} MB read, "
            + (f"{len(found)} damaged; the others can be read." if found else "none damaged.")
        )
    if found:
        raise typer.Exit(REFUSED)


@app.command(
    epilog="Examples:\n\n  distwatch estimate --steps 100000 --signals 40 --replicas 4"
    "\n\n  distwatch estimate --steps 1000000 --every 10 --histogram"
    "\n\n  distwatch estimate --steps 1000000 --like run.zarr"
)
def estimate(
    *,
    steps: Annotated[int, typer.Option(min=1, help="Training steps, in all epochs.")],
    signals: Annotated[int, typer.Option(min=1, help="Signals that are watched.")] = 10,
    replicas: Annotated[int, typer.Option(min=1, help="Replicas that train together.")] = 2,
    every: Annotated[int, typer.Option(min=1, help="Look at every k-th step.")] = 1,
    window: Annotated[int, typer.Option(min=1, help="Steps in a chunk.")] = 256,
    histogram: Annotated[
        bool, typer.Option("--histogram", help="With histograms of all signals.")
    ] = False,
    like: Annotated[
        str | None,
        typer.Option(help="A run of the same model: its own bytes a step, for more steps."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, for programs.")
    ] = False,
) -> None:
    """Tell how large a run will be, before it is begun.

    For a model that you have, [bold]watch.estimate(model, batch, steps=...)[/bold] knows its
    signals. What is told is within a fifth of what is written where deltas are like noise.
    """
    from distwatch.store import StoredRun, estimated_bytes, made_up_info

    if like is not None:
        stored = StoredRun(like)
        if not stored.steps:
            raise ConfigError(f"{like} has no steps yet, so nothing is known from it.")
        size = round(stored.nbytes / _trained(stored) * steps)
    else:
        info = made_up_info(signals, replicas, window=window, histogram=histogram)
        size = estimated_bytes(info, {info.tables[0].name: -(-steps // every)})
    if as_json:
        typer.echo(json.dumps({"steps": steps, "bytes": size}))
    else:
        typer.echo(f"{steps:,} steps take about {_size(size)}.")


def _trained(stored: StoredRun) -> int:
    """How many steps a run was watched for, whichever of them it looked at."""
    tables = [table for table in stored.tables.values() if table.steps]
    last = [table.coordinate("step", slice(table.steps - 1, table.steps)) for table in tables]
    return 1 + max(int(step[0]) for step in last)


def _size(nbytes: int) -> str:
    """Bytes in words."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if nbytes >= factor:
            return f"{nbytes / factor:,.1f} {unit}"
    return f"{nbytes / 1e3:,.1f} kB"


def describe(stored: StoredRun) -> dict[str, Any]:
    """What is known of a run, as plain data: what ``info --json`` prints.

    There are no tables where nothing is committed yet, and ``first_step`` and
    ``last_step`` are None in one without steps. ``committed_steps`` is that of the table
    that has most, ``lost_steps`` the sum.
    """
    from distwatch.store.schema import FORMAT

    about = stored.info
    return {
        "path": str(stored.path),
        "format": FORMAT,
        "created": stored.created,
        "strategy": about.strategy,
        "phase": about.phase,
        "phases": stored.phases,
        "workers": about.workers,
        "replicas": list(about.replicas),
        "tables": [_describe_table(table) for table in stored.tables.values()],
        "unwatched": about.unwatched,
        "committed_steps": stored.steps,
        "lost_steps": stored.lost,
        "thinned_steps": stored.thinned,
        "ended": stored.ended,
        "segments": [
            {
                "name": segment.name,
                "worker": segment.info.worker,
                "start": segment.info.origin.start,
                "first_step": segment.info.origin.step,
                "committed_steps": segment.steps,
            }
            for segment in stored.segments
        ],
        "bytes": stored.nbytes,
        "versions": about.versions,
    }


def _describe_table(stored: ReadableTable) -> dict[str, Any]:
    table = stored.table
    # Not all of them between: there may be a million.
    ends = slice(0, 1), slice(max(stored.steps - 1, 0), stored.steps)
    first, last = (stored.coordinate("step", end) for end in ends)
    return {
        "name": table.name,
        "signals": [vars(signal) for signal in table.signals],
        "statistics": [statistic.spec() for statistic in table.statistic.further],
        "tensor": vars(table.tensor) if table.tensor else None,
        "schedule": table.schedule,
        "window": table.window,
        "committed_steps": stored.steps,
        "lost_steps": stored.lost,
        "first_step": int(first[0]) if len(first) else None,
        "last_step": int(last[0]) if len(last) else None,
    }


def _check_demo_store(store: Path, replace: bool) -> None:
    """Say before TensorFlow is loaded, in this command's words, what Watch would say."""
    from distwatch.store import is_run

    if not store.exists() or (store.is_dir() and not any(store.iterdir())):
        return
    if not is_run(store):
        raise RunExistsError(
            f"{store} exists and is no distwatch run, so it is left alone; "
            "choose another path with --store, or remove it yourself."
        )
    if not replace:
        raise RunExistsError(
            f"{store} holds a run already; choose another path, or pass --overwrite "
            "to delete that run first."
        )


def _show(described: dict[str, Any]) -> None:
    console = Console()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(described):
        facts.add_row(name, _safe(value))
    console.print(facts)
    if described["tables"]:
        rows = [
            (signal["name"], signal["reference"], *_how(table))
            for table in described["tables"]
            for signal in table["signals"]
        ]
        headings = ("signal", "measured against", "steps", "schedule", "further")
        console.print(_listing(headings, rows))
    if described["unwatched"]:
        console.print(_listing(("not watched", "why"), list(described["unwatched"].items())))


def _facts(described: dict[str, Any]) -> list[tuple[str, str]]:
    steps, lost = described["committed_steps"], described["lost_steps"]
    extent = f"{steps} committed"
    if steps:
        tables = [table for table in described["tables"] if table["committed_steps"]]
        first = min(table["first_step"] for table in tables)
        extent += f", from {first} to {max(table['last_step'] for table in tables)}"
    replicas = ", ".join(map(str, described["replicas"]))
    versions = ", ".join(f"{name} {is_}" for name, is_ in described["versions"].items())
    return [
        ("run", described["path"]),
        ("created", described["created"] or "unknown"),
        ("strategy", described["strategy"]),
        ("phase", _phase(described)),
        ("replicas", replicas or "none has committed a row yet"),
        ("steps", extent),
        ("lost", f"{lost} steps" if lost else "none"),
        *_thinned(described),
        ("written", _written(described)),
        ("size", f"{described['bytes'] / 1e6:,.2f} MB"),
        ("versions", f"{versions}; store format {described['format']}"),
    ]


def _thinned(described: dict[str, Any]) -> list[tuple[str, str]]:
    thinned = described["thinned_steps"]
    if not thinned:
        return []
    return [("thinned out", f"{thinned} steps of the old part, to keep within max_bytes")]


def _written(described: dict[str, Any]) -> str:
    ended = described["ended"]
    if ended is None:
        state = "still going on, or ended without a close (a kill, a crash)"
    else:
        state = "to its end" if ended == "closed" else f"until an error ended it: {ended}"
    starts = 1 + max((each["start"] for each in described["segments"]), default=0)
    return f"{state}, in {starts} starts" if starts > 1 else state


def _phase(described: dict[str, Any]) -> str:
    others = [phase for phase in described["phases"] if phase != described["phase"]]
    more = f" (also recorded, see --phase: {', '.join(others)})" if others else ""
    return f"{described['phase']}{more}"


def _how(table: dict[str, Any]) -> tuple[str, str, str]:
    further = [statistic["name"] for statistic in table["statistics"]]
    further += ["tensor"] if table["tensor"] else []
    return str(table["committed_steps"]), table["schedule"], ", ".join(further)


def _listing(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*map(_safe, row))
    return table


def _safe(text: str) -> str:
    return escape(printable(text))
