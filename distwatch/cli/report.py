"""``distwatch report``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from distwatch.cli.conventions import (
    PhaseOption,
    RunArgument,
    app,
    examples,
    progress_bar,
    runs_meant,
)
from distwatch.text import format_bytes, printable


@app.command(
    epilog=examples(
        "distwatch report run.zarr",
        "distwatch report run.zarr -o report.html --open",
        "distwatch report before.zarr after.zarr -o both.html",
        "distwatch report run.zarr --png figures/ --signals 'gradient/*'",
        further="A report that is at --output already is replaced. Exit codes: 0 written, "
        "1 refused, 2 bad usage.",
    )
)
def report(
    run: RunArgument,
    other: Annotated[
        str | None,
        typer.Argument(help="A second run, to be shown beside the first.", callback=runs_meant),
    ] = None,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file that is written.")
    ] = Path("report.html"),
    phase: PhaseOption = None,
    title: Annotated[str | None, typer.Option(help="Instead of the run's name.")] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write each figure as a PNG into this folder, too, for papers."
        ),
    ] = None,
    signals: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Of which signals --png draws curves, as a glob; may be given several "
            "times. Without it, of the first dozen.",
        ),
    ] = None,
    open_it: Annotated[
        bool, typer.Option("--open", help="Open the report in the browser.")
    ] = False,
) -> None:
    """Write a run as one HTML file that opens anywhere, without a network.

    In words first; then every signal at a glance, curves of each replica, where replicas
    differ, distributions and update ratios. The file stays below 10 MB however long the
    run is, and no spike of a single step is lost.
    """
    from distwatch.analysis.figures import require_plotly
    from distwatch.report import (
        check_page,
        check_patterns,
        read_runs,
        require_images,
        write_images,
        write_page,
    )

    # All that can be refused is, before a long run is read.
    require_plotly()
    check_page(output)
    if png is not None:
        require_images()
    paths = [run] if other is None else [run, other]
    check_patterns(paths, signals or (), phase)
    with progress_bar() as bar:
        reading = bar.add_task("reading", total=None)
        read = read_runs(paths, phase=phase, progress=_moves(bar, reading))
        size = write_page(read, output, title=title)
        images = []
        if png is not None:
            drawing = bar.add_task("drawing", total=None)
            images = write_images(
                read, png, signals=signals or (), progress=_moves(bar, drawing)
            )
    typer.echo(f"{printable(str(output))}: {format_bytes(size)}, opens without a network.")
    if png is not None:
        typer.echo(f"{printable(str(png))}: {len(images)} images.")
    if open_it:
        typer.launch(str(output.resolve()))


def _moves(bar: Progress, task: TaskID) -> Callable[[int, int], None]:
    return lambda done, total: bar.update(task, completed=done, total=total)
