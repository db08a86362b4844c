"""``distwatch report``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

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
        further="An existing report at --output is replaced. Exit codes: 0 written, "
        "1 refused, 2 bad usage.",
    )
)
def report(
    run: RunArgument,
    other: Annotated[
        str | None,
        typer.Argument(help="A second run, to compare with the first.", callback=runs_meant),
    ] = None,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file that is written.")
    ] = Path("report.html"),
    phase: PhaseOption = None,
    title: Annotated[
        str | None, typer.Option(help="The title, instead of the run's name.")
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Also write each figure as a PNG into this folder, for papers."
        ),
    ] = None,
    signals: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="The signals whose curves --png draws, as a glob; may be given several "
            "times. By default the first twelve.",
        ),
    ] = None,
    open_it: Annotated[
        bool, typer.Option("--open", help="Open the report in the browser.")
    ] = False,
) -> None:
    """Write a run as one HTML file that opens anywhere, without a network.

    Findings in words first; then all signals as a heat map, curves of each replica, how the
    replicas differ, distributions and update ratios. The file stays below 10 MB however long
    the run is, and no spike of a single step is lost.
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

    # Everything that can be refused is refused before a long run is read.
    require_plotly()
    check_page(output)
    if png is not None:
        require_images()
    paths = [run] if other is None else [run, other]
    check_patterns(paths, signals or (), phase)
    with progress_bar() as bar:
        read = read_runs(paths, phase=phase, progress=_shown(bar, "reading"))
        size = write_page(read, output, title=title)
        images = []
        if png is not None:
            images = write_images(
                read, png, signals=signals or (), progress=_shown(bar, "drawing")
            )
    typer.echo(f"{printable(str(output))}: {format_bytes(size)}, opens without a network.")
    if png is not None:
        typer.echo(f"{printable(str(png))}: {len(images)} images.")
    if open_it:
        typer.launch(str(output.resolve()))


def _shown(bar: Progress, what: str) -> Callable[[int, int], None]:
    task = bar.add_task(what, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)
