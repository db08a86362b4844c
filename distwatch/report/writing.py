"""Writing pages and images, without leaving partial files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from distwatch.analysis.figures import Compared
from distwatch.errors import NotWritableError, RunExistsError
from distwatch.report.images import MOST_SIGNALS, images_of, write_images_to
from distwatch.report.page import page
from distwatch.report.reading import ReadRun
from distwatch.signals.patterns import names_matching


def write_page(runs: list[ReadRun], path: Path, *, title: str | None = None) -> int:
    """Write a report, and return its size in bytes.

    It is written to a temporary file and renamed when it is complete; an existing report is
    replaced.

    Raises:
        RunExistsError: something else than a file is there.
        NotWritableError: it cannot be written.
        SetupError: plotly or jinja2 is not installed.
    """
    check_page(path)
    made = page(runs, title).encode()
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(made)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise NotWritableError(f"{path} cannot be written: {error}.") from error
    return len(made)


def check_page(path: Path) -> None:
    """Refuse a path where something else than a file is, before runs are read.

    Raises:
        RunExistsError: something else than a file is there.
    """
    if path.is_dir():
        raise RunExistsError(f"{path} is a folder; name a file, such as {path}/report.html.")


def write_images(
    runs: list[ReadRun],
    folder: Path,
    *,
    signals: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write the figures as PNGs into a folder; files of the same names are replaced.

    Args:
        runs: one run or two.
        folder: it is made if it does not exist.
        signals: patterns of those whose curves and distributions are drawn; if there are
            none, the first dozen.
        progress: called with how many are written, and how many there are.

    Raises:
        UnknownSignalError: a pattern matches no signal.
        SetupError: kaleido or a browser is missing.
        NotWritableError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritableError(f"{folder} cannot be made: {error}.") from error
    return write_images_to(folder, images_of(runs, _chosen(runs, signals)), progress)


def _chosen(runs: list[ReadRun], patterns: Sequence[str]) -> list[str]:
    if len(runs) > 1:
        names = Compared(runs[0].overview, runs[1].overview).common
    else:
        names = [signal.name for signal in runs[0].overview.signals]
    if patterns:
        return names_matching(patterns, names, str(runs[0].described["path"]))
    return names[:MOST_SIGNALS]
