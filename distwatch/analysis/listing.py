"""Listing runs: what a folder holds, a row a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distwatch.analysis.run import Run
from distwatch.errors import NotARunError, StoreError
from distwatch.findings import WARNING
from distwatch.store import StoredRun, location_of
from distwatch.store.addresses import address_of
from distwatch.store.finding import is_missing, runs_at
from distwatch.store.listing import ListedRun, listed
from distwatch.store.new_runs import USUAL

if TYPE_CHECKING:
    import pandas as pd


def list_runs(
    where: str | Path = USUAL, *, size: bool = False, warnings: bool = False
) -> pd.DataFrame:
    """List the runs in a folder, the newest first: a row for each.

    >>> runs = list_runs("runs/")                       # doctest: +SKIP
    >>> runs[runs.ended == "closed"].sort_values("loss")    # doctest: +SKIP

    Only the descriptions of the runs are read, so a thousand of them take about a second.

    Args:
        where: a folder of runs, also of runs in folders within it; a pattern such as
            ``runs/*digits*``; or one run.
        size: also how many bytes each has on disk, which lists all of its files.
        warnings: also how many warnings `Run.findings` has, which reads all of its rows.

    Returns:
        A frame with the columns ``name`` (the run's place in the folder), ``created`` (a time
        in UTC), ``ended`` ("closed", "running", "not closed", or an error), ``phase``,
        ``steps``, ``replicas``, ``pace`` (steps a second between the first and the last rows
        of the latest start, NaN below a second and in runs of older versions), a column for
        each signal that is one number, such as ``loss`` (its mean at the last step, over all
        replicas), ``bytes`` and ``warnings`` if asked for, and ``path``, for `open_run`.

    Raises:
        NotARunError: there is no such folder.
        ConfigError: it is neither a path nor a URL.
    """
    rows = [as_row(run, size=size, warnings=warnings) for run in find_listed(where)]
    return as_frame(rows, size=size, warnings=warnings)


def as_frame(rows: list[dict[str, Any]], *, size: bool, warnings: bool) -> pd.DataFrame:
    """Rows of `as_row` as the frame that `list_runs` gives."""
    import pandas as pd

    usual = [*ListedRun(Path(), "", "", "").to_dict()]
    further = ["bytes"] * size + ["warnings"] * warnings
    metrics = [name for row in rows for name in row if name not in (*usual, *further, "path")]
    # Texts stay as they are: names of files may have bytes that pandas's own texts cannot.
    columns = [*usual, *dict.fromkeys(metrics), *further, "path"]
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    frame["created"] = pd.to_datetime(frame["created"], utc=True, errors="coerce")
    for name in ("steps", "replicas", *further):
        frame[name] = frame[name].astype("Int64")
    return frame.astype(dict.fromkeys(["pace", *dict.fromkeys(metrics)], "float64"))


def find_listed(where: str | Path) -> list[ListedRun]:
    """The runs at a place, the newest first. Arguments and errors are those of `list_runs`."""
    found = runs_at(where)
    if not found and is_missing(address_of(where)):
        raise NotARunError(f"{where}: there is no such folder, so there are no runs in it.")
    return [listed(run) for run in found]


def as_row(run: ListedRun, *, size: bool, warnings: bool) -> dict[str, Any]:
    """A run as plain data, with what takes longer if it is asked for."""
    row = run.to_dict()
    # First, since what was found is kept in the run, and counts among its bytes.
    number = {"warnings": _warnings_of(run)} if warnings else {}
    if size:
        row["bytes"] = location_of(run.address).size_below()
    return {**row, **number, "path": str(run.address)}


def _warnings_of(run: ListedRun) -> int | None:
    try:
        found = Run(StoredRun(run.address)).findings()
    except StoreError:
        return None
    return sum(each.severity == WARNING for each in found)
