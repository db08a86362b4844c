"""``distwatch ls``."""

from __future__ import annotations

import datetime
import json
import math
import operator
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer

from distwatch.cli.conventions import JsonOption, app, examples, listing, wide_console
from distwatch.cli.output_files import check_free, replacing
from distwatch.errors import ConfigError, NotWritableError
from distwatch.text import counted, format_bytes, printable, shortened

#: Column -> its heading.
_HEADINGS = {
    "name": "run",
    "created": "when",
    "pace": "steps/s",
    "bytes": "size",
}
_HIDDEN = ("path", "phase")

#: Columns that come after those of metrics.
_LAST = ("bytes", "warnings", "path")

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|!=|==?|<|>)\s*(.*?)\s*")


@app.command(
    epilog=examples(
        "distwatch ls",
        "distwatch ls runs/ --sort loss",
        "distwatch ls 'runs/*digits*' --where ended=closed --where 'loss<0.5'",
        "distwatch ls runs/ --json",
        "distwatch ls runs/ --warnings --parquet runs.parquet",
    )
)
def ls(
    where: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="A folder of runs, or a pattern such as 'runs/*digits*'."
        ),
    ] = "runs/",
    *,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Sort by a column, as the table or --json calls it: run, when, ended, steps, "
            "replicas, steps/s, or a metric such as loss. By default the newest run is first.",
        ),
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Sort the other way.")] = False,
    conditions: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Only runs of which this is true: a column, one of < <= > >= = != and a "
            "value; after = and != text is a glob. May be given several times.",
        ),
    ] = None,
    size: Annotated[
        bool, typer.Option("--size", help="Also how large each run is, which takes longer.")
    ] = False,
    warnings: Annotated[
        bool,
        typer.Option(
            "--warnings", help="Also how many warnings each has, which reads all its rows."
        ),
    ] = False,
    as_json: JsonOption = False,
    parquet: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write the list to one Parquet file, for DuckDB and others, instead of "
            "printing it.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a FILE that is there.")
    ] = False,
) -> None:
    """List runs: when they began, how they ended, steps, replicas, pace and last metrics."""
    from distwatch.analysis.listing import as_row, find_listed

    # What cannot be written is refused before anything is read.
    write = parquet and _parquet_writer(Path(parquet), overwrite=overwrite)
    rows = [as_row(run, size=size, warnings=warnings) for run in find_listed(where)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    # The first run may have none of the metrics that a later one has.
    columns.sort(key=lambda name: name in _LAST)
    for condition in conditions or ():
        test = _test_of(condition, columns)
        rows = [row for row in rows if test(row)]
    if sort is not None:
        sort = _column(sort, columns)
        known = [row for row in rows if row.get(sort) is not None]
        known.sort(key=lambda row: row[sort], reverse=reverse)
        # What is not known is last, whichever way the others are sorted.
        rows = [*known, *(row for row in rows if row.get(sort) is None)]
    elif reverse:
        rows.reverse()
    if write:
        write(rows, size=size, warnings=warnings)
    elif as_json:
        typer.echo(json.dumps({"runs": rows}, indent=2, allow_nan=False))
    elif not rows:
        typer.echo(f"No run in {where}." if not conditions else "No run is like that.")
    else:
        _print(rows, columns)


def _print(rows: list[dict[str, Any]], columns: list[str]) -> None:
    shown = [name for name in columns if name not in _HIDDEN]
    headings = tuple(_HEADINGS.get(name, name) for name in shown)
    cells = [tuple(_cell(name, row.get(name)) for name in shown) for row in rows]
    wide_console().print(listing(headings, cells))


def _parquet_writer(path: Path, *, overwrite: bool) -> Callable[..., None]:
    """What writes rows to a Parquet file.

    Raises:
        ConfigError: pyarrow is not installed, or something is there already.
    """
    from distwatch.analysis.listing import as_frame
    from distwatch.export import check_pyarrow, write_list

    check_pyarrow()
    check_free(path, overwrite=overwrite)

    def write(rows: list[dict[str, Any]], **asked: bool) -> None:
        try:
            with replacing(path) as unfinished:
                write_list(as_frame(rows, **asked), unfinished)
        except OSError as error:
            raise NotWritableError(f"{path} could not be written: {error}.") from error
        nbytes = format_bytes(path.stat().st_size)
        typer.echo(printable(f"{path}: {counted(len(rows), 'run')}, {nbytes}"))

    return write


def _test_of(condition: str, columns: list[str]) -> Callable[[dict[str, Any]], bool]:
    """A condition as a function of a row; what is not known meets none.

    Raises:
        ConfigError: it is none, or about no column.
    """
    found = _CONDITION.fullmatch(condition)
    if found is None:
        raise ConfigError(f"--where {condition!r}: write it as 'loss<0.5' or 'ended=closed'.")
    sign, wanted = found[2].replace("==", "="), found[3]
    column = _column(found[1], columns)
    try:
        number = float(wanted)
    except ValueError:
        number = math.nan

    def test(row: dict[str, Any]) -> bool:
        value = row.get(column)
        if value is None:
            return False
        if isinstance(value, str):
            if sign in ("=", "!="):
                return fnmatchcase(value, wanted) == (sign == "=")
            return _COMPARISONS[sign](value, wanted)
        return not math.isnan(number) and _COMPARISONS[sign](value, number)

    return test


def _column(name: str, columns: list[str]) -> str:
    """The column of a name, or of a heading that the table prints in its place.

    Raises:
        ConfigError: there is none.
    """
    headings = {heading: column for column, heading in _HEADINGS.items()}
    # A metric may be called like a heading. Without runs no column can be wrong.
    column = name if name in columns else headings.get(name, name)
    if columns and column not in columns:
        known = (
            f"{each} ({_HEADINGS[each]})" if each in _HEADINGS else each for each in columns
        )
        raise ConfigError(f"there is no column {name!r}; there are {', '.join(known)}.")
    return column


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "created":
        return _when(value)
    if name == "bytes":
        return format_bytes(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return shortened(value, 60, quoted=False) if name == "ended" else str(value)


def _when(created: str) -> str:
    try:
        moment = datetime.datetime.fromisoformat(created)
    except ValueError:
        return "-"
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
