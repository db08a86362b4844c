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
from distwatch.errors import ConfigError, RunExistsError
from distwatch.text import format_bytes, printable


@app.command(
    epilog=examples(
        "distwatch report run.zarr",
        "distwatch report runs/ --open",
        "distwatch report run.zarr -o report.html",
        "distwatch report before.zarr after.zarr -o both.html",
        "distwatch report runs/lr-*.zarr -o learning-rates.html",
        "distwatch report run.zarr --png figures/ --signals 'gradient/*'",
        further="An existing report is replaced, which is said if it is of another run. Exit "
        "codes: 0 written, 1 refused, 2 bad usage.",
    )
)
def report(
    run: RunArgument,
    others: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Up to seven further runs, to compare with the first.",
            callback=runs_meant,
            show_default=False,
        ),
    ] = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file that is written: by default run.html beside run.zarr.",
            show_default=False,
        ),
    ] = None,
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

    The diagnosis first, whose findings open their charts; then curves of each replica, all
    signals as small charts and as a heat map, how the replicas differ, distributions and update
    ratios. Of two to eight runs it shows what differs. The file stays below 10 MB however long
    the runs are, and no spike of a single step is lost.
    """
    from distwatch.analysis.figures import LETTERS
    from distwatch.analysis.figures.style import require_plotly
    from distwatch.report import (
        check_page,
        check_patterns,
        page_beside,
        read_runs,
        require_images,
        write_images,
        write_page,
    )

    # Everything that can be refused is refused before a long run is read.
    require_plotly()
    paths = [run, *(others or ())]
    if len(paths) > len(LETTERS):
        raise ConfigError(f"{len(paths)} runs: at most {len(LETTERS)} can be compared.")
    page = output or page_beside(paths)
    check_page(page)
    if png is not None:
        require_images()
    check_patterns(paths, signals or (), phase)
    with progress_bar() as bar:
        read = read_runs(paths, phase=phase, progress=_shown(bar, "reading"))
        _say_what_is_replaced(page, [each.identity for each in read], named=output is not None)
        size = write_page(read, page, title=title)
        images = []
        if png is not None:
            images = write_images(
                read, png, signals=signals or (), progress=_shown(bar, "drawing")
            )
    typer.echo(f"{printable(str(page))}: {format_bytes(size)}, opens without a network.")
    if png is not None:
        typer.echo(f"{printable(str(png))}: {len(images)} images.")
    if open_it:
        typer.launch(str(page.resolve()))


def _say_what_is_replaced(page: Path, identities: list[str], *, named: bool) -> None:
    from distwatch.report import replaced_by

    what, is_ours = replaced_by(page, identities)
    if not (is_ours or named):
        raise RunExistsError(f"{page} is {what}, so it is left alone; name a file with -o.")
    if what:
        typer.echo(f"distwatch: {printable(f'{page} was {what}, and is replaced')}", err=True)


def _shown(bar: Progress, what: str) -> Callable[[int, int], None]:
    task = bar.add_task(what, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)
