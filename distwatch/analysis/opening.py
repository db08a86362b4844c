"""Opening a run by its path; where there is none, saying what could be opened instead."""

from __future__ import annotations

from pathlib import Path

from distwatch.analysis.run import Run
from distwatch.errors import DistwatchError, NotARunError
from distwatch.store.addresses import address_of
from distwatch.store.finding import runs_at
from distwatch.store.reader import StoredRun
from distwatch.text import counted, printable


def open_run(path: str | Path, *, phase: str | None = None) -> Run:
    """Open a run for analysis; this never imports TensorFlow.

    Args:
        path: what was given to Watch.
        phase: "train", "test", "predict", "train_on_batch", or the name of a validation set
            (see ``Watch.validate``); None for "train", or for the only phase that was
            recorded. Phases are never mixed.

    Raises:
        NotARunError: there is no run; of a folder with runs in it, the newest is named.
        FormatVersionError: a newer distwatch wrote it.
        ConfigError: the run has no such phase.
    """
    try:
        return Run(StoredRun(path, phase))
    except NotARunError as error:
        if (hint := _runs_in(path)) is None:
            raise
        raise NotARunError(hint) from error


def _runs_in(path: str | Path) -> str | None:
    """What to open in place of a folder of runs; None where it is none.

    Only on this machine: to look through a bucket may take minutes.
    """
    try:
        folder = address_of(path)
        found = runs_at(path) if isinstance(folder, Path) and folder.is_dir() else []
    except (DistwatchError, OSError):
        return None
    if not found:
        return None
    newest = printable(repr(str(found[0].address)))
    return (
        f"{printable(str(path))} is a folder with {counted(len(found), 'run')} in it, and no "
        f"run itself; open the newest with distwatch.open_run({newest}), or list them with "
        f"distwatch.list_runs({printable(repr(str(path)))})."
    )
