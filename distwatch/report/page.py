"""Rendering a page from its template, its style, its script and the runs, and writing it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from distwatch import __version__
from distwatch.analysis.facts import facts_of, taken_at
from distwatch.analysis.figures import (
    LETTERS,
    RUN_FIGURES,
    Compared,
    RunFigure,
    comparison,
    curves,
    heatmap,
    ridgeline,
    side_by_side,
)
from distwatch.analysis.figures.style import Figure
from distwatch.errors import NotWritableError, RunExistsError, SetupError
from distwatch.report.cards import cards
from distwatch.report.contents import as_script, contents, drawn_replicas
from distwatch.report.diagnosis import diagnosis, looked_for
from distwatch.report.epochs import epoch_charts
from distwatch.report.reading import ReadRun
from distwatch.text import listed, printable

#: The parts of the page's script, in order.
SCRIPTS = ("series.js", "charts.js", "times.js", "small.js", "page.js")


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


def page(runs: list[ReadRun], title: str | None = None) -> str:
    """The whole page, which loads nothing from anywhere.

    Raises:
        SetupError: plotly or jinja2 is not installed.
    """
    template = _template()
    from plotly.offline import get_plotlyjs

    data = as_script({**contents(runs), "figures": figures_of(runs)})
    scripts = {"plotly": get_plotlyjs(), "script": "".join(map(_part, SCRIPTS))}
    made: str = template.render(
        title=title or listed(_names_of(runs)),
        identities=" ".join(run.identity for run in runs),
        runs=[_shown(runs, place) for place in range(len(runs))],
        compared=_compared(runs),
        cards=cards(runs),
        looked_for=looked_for(),
        has=_sections(runs),
        run_figures=_run_figures(runs),
        epoch_charts=epoch_charts(runs),
        style=_part("page.css"),
        data=data,
        policy=_policy(list(scripts.values())),
        version=__version__,
        **scripts,
    )
    return made


def figures_of(runs: list[ReadRun]) -> dict[str, Any]:
    """The figures of the page, in plotly's JSON."""
    overviews = [run.overview for run in runs]
    found: dict[str, Any] = {
        "heat": [_empty(heatmap(each)) if each.histories else None for each in overviews],
        "whole": {
            figure.name: [
                _plain(figure.draw(each)) if figure.applies(each) else None
                for each in overviews
            ]
            for figure in _run_figures(runs)
        },
        "ridge": [
            _plain(ridgeline(run.distributions[0])) if run.distributions else None
            for run in runs
        ],
        "curves": None,
        "comparison": None,
    }
    if len(runs) == 1 and overviews[0].histories:
        first = overviews[0].history(overviews[0].signals[0].name)
        found["curves"] = _empty(curves(first.only(drawn_replicas(overviews[0]))))
    if len(runs) > 1 and (common := Compared(overviews).common):
        each = (overview.history(common[0]) for overview in overviews)
        found["curves"] = _empty(side_by_side(*each))
        found["comparison"] = _plain(comparison(Compared(overviews)))
    return found


def _empty(figure: Figure) -> dict[str, Any]:
    """A figure without its numbers, which the page fills in."""
    made = _plain(figure)
    for trace in made["data"]:
        trace |= {name: [] for name in ("x", "y", "z", "customdata") if name in trace}
    return made


def _plain(figure: Figure) -> dict[str, Any]:
    """A figure as plain data; NaN, which JSON does not have, is null."""
    made: dict[str, Any] = json.loads(figure.to_json())
    # The template only sets defaults for kinds of traces that are not used here.
    made["layout"].pop("template", None)
    made["layout"] |= {"paper_bgcolor": "transparent", "plot_bgcolor": "transparent"}
    return made


def _template() -> Any:
    try:
        import jinja2
        import plotly.offline  # noqa: F401
    except ModuleNotFoundError as error:
        raise SetupError(
            f"a report needs {error.name}, which is not installed: "
            'pip install "distwatch[report]".'
        ) from error
    return jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(_part("page.html"))


def _part(name: str) -> str:
    return (resources.files("distwatch.report") / name).read_text("utf-8")


def _policy(scripts: list[str]) -> str:
    """The content security policy: run these scripts, load nothing."""
    sums = [hashlib.sha256(script.encode()).digest() for script in scripts]
    allowed = " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in sums)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _names_of(runs: Sequence[ReadRun]) -> list[str]:
    """The last part of each path, and the folder's name where several end alike."""
    paths = [printable(str(run.described["path"])).rstrip("/") for run in runs]
    parts = [path.replace("\\", "/").rsplit("/", 2) for path in paths]
    last = [each[-1] or path for each, path in zip(parts, paths, strict=True)]
    return last if len(set(last)) == len(last) else ["/".join(each[-2:]) for each in parts]


def _shown(runs: list[ReadRun], place: int) -> dict[str, Any]:
    """A run as the template shows it."""
    run = runs[place]
    described = run.described
    # Charts of several runs are of the signals that all of them have.
    drawn = Compared([each.overview for each in runs]).common
    return {
        "letter": LETTERS[place] if len(runs) > 1 else "",
        "name": _names_of(runs)[place],
        "facts": [(name, printable(text)) for name, text in facts_of(described)],
        "diagnosis": diagnosis(run, place, drawn),
        "signals": [
            (
                printable(signal["name"]),
                printable(signal["reference"]),
                printable(taken_at(signal)),
                printable(table["schedule"]),
            )
            for table in described["tables"]
            for signal in table["signals"]
        ],
        "unwatched": [
            (printable(k), printable(str(v))) for k, v in described["unwatched"].items()
        ],
        "notes": list(_notes(run)),
    }


def _notes(run: ReadRun) -> Iterator[str]:
    """Notes on what the page leaves out."""
    overview = run.overview
    thinned = [history.bins for history in overview.histories if not history.bins.are_steps]
    if thinned:
        yield (
            f"{overview.steps:,} steps are drawn in {max(map(len, thinned))} bins. A line is "
            "the mean of a bin's steps; its band reaches from the smallest step to the "
            "largest, so a single step that stands out has its full height."
        )
    replicas, drawn = overview.info.replicas, drawn_replicas(overview)
    if len(drawn) < len(replicas):
        yield (
            f"Of {len(replicas)} replicas the {len(drawn)} furthest from the others have "
            "curves here; merged values are over all of them."
        )
    if run.left_out:
        yield (
            f"Distributions of {run.left_out} more signals are left out; "
            "run.plot.ridgeline(signal) draws them."
        )


def _run_figures(runs: list[ReadRun]) -> list[RunFigure]:
    """The figures that at least one of the runs has."""
    return [each for each in RUN_FIGURES if any(each.applies(run.overview) for run in runs)]


def _sections(runs: list[ReadRun]) -> dict[str, bool]:
    return {
        "rows": any(run.overview.histories for run in runs),
        "replicas": any(len(run.overview.info.replicas) > 1 for run in runs),
        "ridges": any(run.distributions for run in runs),
    }


def _compared(runs: list[ReadRun]) -> dict[str, Any] | None:
    if len(runs) < 2:
        return None
    compared = Compared([run.overview for run in runs])
    return {
        "common": len(compared.common),
        "only": [[printable(name) for name in names] for names in compared.not_in_all],
        "otherwise": [printable(name) for name in compared.otherwise_measured],
    }
