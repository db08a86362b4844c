"""Tidy rows as CSV, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
from typing import Any, TextIO

import numpy as np

from distwatch.export.rows import WHOLE, Progress, Wanted, statistics_of, tidy_rows
from distwatch.store import StoredRun
from distwatch.store.schema import COORDINATES
from distwatch.text import printable

#: A spreadsheet takes text that starts with these for a formula.
_FORMULA = ("=", "+", "-", "@")


def write_csv(
    stored: StoredRun, wanted: Wanted, file: TextIO, *, progress: Progress = lambda _: None
) -> int:
    """Write a run's tidy rows, a block at a time; returns how many.

    Numbers are written so that reading them gives the same float64 again; infinite ones as
    ``inf`` and ``-inf``. Unknown values are empty. Names may come from anybody: control
    characters in them are escaped, and one that a spreadsheet would take for a formula gets
    a ``'`` before it.

    Args:
        stored: the run.
        wanted: which part of it.
        file: opened for text with ``newline=""``.
        progress: called with how many more steps are written.

    Raises:
        ConfigError, UnknownSignalError: it does not have what is wanted.
    """
    names = statistics_of(stored, wanted)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*COORDINATES, "replica", "signal", *names])
    rows = 0
    for columns in tidy_rows(stored, wanted, progress):
        signals = {name: _inert(name) for name in set(columns["signal"])}
        written = [
            *(columns[name].tolist() for name in COORDINATES),
            columns["replica"],
            [signals[name] for name in columns["signal"]],
            *(_written(columns[name], whole=name in WHOLE) for name in names),
        ]
        writer.writerows(zip(*written, strict=True))
        rows += len(columns["step"])
    return rows


def _inert(name: str) -> str:
    shown = printable(name)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def _written(values: Any, *, whole: bool) -> Any:
    """Numbers as Python's own, which are written as the shortest exact text."""
    unknown = np.isnan(values)
    numbers = np.where(unknown, 0, values).astype(np.int64) if whole else values
    return np.where(unknown, "", numbers.astype(object))
