"""Figures as PNG, for papers and slides."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distwatch.analysis.figures import (
    LETTERS,
    RUN_FIGURES,
    Compared,
    comparison,
    curves,
    heatmap,
    ridgeline,
    side_by_side,
)
from distwatch.analysis.figures.style import Figure
from distwatch.errors import NotWritableError, SetupError
from distwatch.report.browsers import browser
from distwatch.report.reading import Progress, ReadRun
from distwatch.signals.patterns import names_matching

WIDTH = 1000
_SCALE = 2

#: Curves and distributions of this many signals are drawn unless patterns choose others.
MOST_SIGNALS = 12


def require_images() -> None:
    """Refuse where no image can be made.

    Raises:
        SetupError: kaleido is not installed, or there is no Chromium.
    """
    if importlib.util.find_spec("kaleido") is None:
        raise SetupError(
            'images need kaleido, which is not installed: pip install "distwatch[png]".'
        )
    if browser() is None:
        named = os.environ.get("BROWSER_PATH")
        found = f"BROWSER_PATH={named} is no file" if named else "none is on the PATH"
        raise SetupError(
            f"images need Chromium or Chrome, and {found}: install one (on Debian: apt "
            "install chromium), or say in BROWSER_PATH where it is."
        )


def images_of(runs: list[ReadRun], signals: list[str]) -> dict[str, Figure]:
    """The figures to write, by the names of their files without a suffix.

    Args:
        runs: one run, or several that are compared.
        signals: names of those whose curves and distributions are drawn.
    """
    found: dict[str, Figure] = {}
    for place, run in enumerate(runs):
        overview = run.overview
        letter = f"-{LETTERS[place].lower()}" if len(runs) > 1 else ""
        if not overview.histories:
            continue
        found[f"heatmap{letter}"] = heatmap(overview)
        for figure in RUN_FIGURES:
            if figure.applies(overview):
                found[f"{figure.name}{letter}"] = figure.draw(overview)
        for each in run.distributions:
            if each.name in signals:
                found[file_name(f"ridgeline{letter}", each.name, found)] = ridgeline(each)
    overviews = [run.overview for run in runs]
    for name in signals:
        drawn = [overview.history(name) for overview in overviews]
        drawing = side_by_side if len(drawn) > 1 else curves
        found[file_name("curves", name, found)] = drawing(*drawn)
    if len(runs) > 1 and Compared(overviews).common:
        found["comparison"] = comparison(Compared(overviews))
    return found


def file_name(kind: str, signal: str, taken: Any = ()) -> str:
    """A file name that is valid anywhere, for a signal of any name."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", signal).strip("-")[:80] or "signal"
    name, number = f"{kind}-{plain}", 2
    while name in taken:
        name, number = f"{kind}-{plain}-{number}", number + 1
    return name


def write_images(
    runs: list[ReadRun],
    folder: Path,
    *,
    signals: Sequence[str] = (),
    progress: Progress = lambda done, total: None,
) -> list[Path]:
    """Write the figures as PNGs on white; files of the same names are replaced.

    Args:
        runs: one run, or several that are compared.
        folder: it is made if it does not exist.
        signals: patterns of those whose curves and distributions are drawn; if there are
            none, the first dozen.
        progress: called with how many are written, and how many there are.

    Returns:
        The files.

    Raises:
        UnknownSignalError: a pattern matches no signal.
        SetupError: kaleido or a browser is missing, or the browser makes no image.
        NotWritableError: the folder cannot be made.
    """
    require_images()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritableError(f"{folder} cannot be made: {error}.") from error
    figures = images_of(runs, _chosen(runs, signals))
    import kaleido
    from kaleido import PageGenerator

    def asked() -> Iterator[dict[str, Any]]:
        for done, (name, figure) in enumerate(figures.items()):
            yield {
                "fig": figure,
                "path": folder / f"{name}.png",
                "opts": {
                    "format": "png",
                    "width": WIDTH,
                    "height": figure.layout.height,
                    "scale": _SCALE,
                },
            }
            progress(done + 1, len(figures))

    # MathJax would be loaded from the network.
    how = {"page_generator": PageGenerator(mathjax=False), "path": browser()}
    try:
        kaleido.write_fig_from_object_sync(asked(), kopts=how)
    except Exception as error:  # A browser fails in more ways than have names.
        raise SetupError(
            f"{browser()} made no image ({type(error).__name__}: {error}); see that it "
            "starts with --headless."
        ) from error
    return [folder / f"{name}.png" for name in figures]


def _chosen(runs: list[ReadRun], patterns: Sequence[str]) -> list[str]:
    if len(runs) > 1:
        names = Compared([run.overview for run in runs]).common
    else:
        names = [signal.name for signal in runs[0].overview.signals]
    if patterns:
        return names_matching(patterns, names, str(runs[0].described["path"]))
    return names[:MOST_SIGNALS]
