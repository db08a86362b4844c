"""Where event files go.

A folder for each replica and one for what is merged, so that TensorBoard takes them for
runs of their own and lays equal tags over each other in one chart::

    logs/merged/events.out.tfevents...       logs/replica-0/...       logs/replica-1/...
    logs/test/merged/...                     (phases other than train)
"""

from __future__ import annotations

import os
from pathlib import Path

from distwatch.errors import NotWritableError, RunExistsError
from distwatch.event_files.options import EventOptions
from distwatch.phases import in_files
from distwatch.records import PHASES, TRAIN

#: How the names of event files begin, and how those end that are ours to delete.
EVENTS = "events.out.tfevents."
OURS = ".distwatch"

#: The names of the folders that TensorBoard takes for runs.
MERGED = "merged"
REPLICA = "replica-"


def phase_folder(folder: Path, phase: str) -> Path:
    """The folder of a phase's runs."""
    return folder if phase == TRAIN else folder / in_files(phase)


def make_room(options: EventOptions, *, overwrite: bool) -> None:
    """Make the folder, and delete another run's event files where this one's go.

    Arguments and errors are those of `files_in_the_way`.
    """
    delete(files_in_the_way(options, overwrite=overwrite))


def files_in_the_way(options: EventOptions, *, overwrite: bool) -> list[Path]:
    """Make the folder, and find the event files of another run where this one's go.

    Args:
        options: what will be written, and where.
        overwrite: whether those that distwatch wrote there may be deleted.

    Raises:
        RunExistsError: there are some that may not be deleted.
        NotWritableError: the folder cannot be made, or written.
    """
    folder = options.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = _event_files(folder)
        foreign = [path for path in there if not path.name.endswith(OURS)]
        if foreign or (there and not overwrite):
            raise RunExistsError(_refusal(folder, (foreign or there)[0], bool(foreign)))
    except RunExistsError:
        raise
    except OSError as error:
        raise NotWritableError(
            f"{folder}: event files cannot be written there ({error}); give another folder."
        ) from error
    if not os.access(folder, os.W_OK):
        raise NotWritableError(f"{folder} cannot be written; give another folder.")
    return there


def delete(files: list[Path]) -> None:
    """Delete event files of another run.

    Raises:
        NotWritableError: one cannot be deleted.
    """
    try:
        for path in files:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise NotWritableError(f"{path} cannot be deleted ({error}).") from error


def _refusal(folder: Path, found: Path, foreign: bool) -> str:
    remedy = f"give this one a folder of its own, such as {folder / 'run-2'}"
    if foreign:
        return f"{found} was not written by distwatch: {remedy}."
    return (
        f"{folder} holds the event files of another run ({found.name}): {remedy}, which "
        "TensorBoard shows beside it, or overwrite what is there."
    )


def _event_files(folder: Path) -> list[Path]:
    """The event files where those of a run go."""
    phases = [phase_folder(folder, phase) for phase in PHASES]
    phases += sorted(folder.glob(f"{in_files('*')}"))  # of validation sets
    runs = [run for phase in phases for run in (phase / MERGED, *phase.glob(f"{REPLICA}*"))]
    return [path for run in runs for path in sorted(run.glob(f"{EVENTS}*"))]
