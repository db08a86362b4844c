"""What a report needs of its runs, read once each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distwatch.analysis import Run
from distwatch.analysis.facts import describe
from distwatch.analysis.overview import (
    Distribution,
    Overview,
    extent_within,
    read_distribution,
    read_overview,
)
from distwatch.findings import Finding
from distwatch.phases import is_validation
from distwatch.records import Epoch
from distwatch.signals.patterns import names_matching
from distwatch.store import StoredRun, Times, times_of

#: Bytes of a page without plotly itself, so that all of it stays below 10 MB. Base64 takes
#: a third more than what it encodes.
BUDGET = 4_400_000
_AS_TEXT = 3 / 4

#: How many distributions are on the page: reading them takes longer than everything else.
MOST_DISTRIBUTIONS = 60

#: How many replicas have curves on the page; merged values are over all of them.
MOST_REPLICAS = 16

#: Called with how much is done, and how much there is.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ReadRun:
    """What a report needs of a run."""

    #: Its facts: see `distwatch.analysis.facts.describe`.
    described: dict[str, Any]
    overview: Overview
    distributions: tuple[Distribution, ...]
    #: Signals with a histogram that is not among them.
    left_out: int
    #: What stands out.
    findings: tuple[Finding, ...]
    #: Which run it is, wherever it is moved.
    identity: str
    #: When its steps were done, as far as it says.
    times: Times
    #: What its epochs came to.
    epochs: tuple[Epoch, ...]
    #: The names of its further validation sets.
    sets: tuple[str, ...] = ()


def read_runs(
    runs: Sequence[str | Path],
    *,
    phase: str | None = None,
    budget: int = BUDGET,
    progress: Progress = lambda done, total: None,
) -> list[ReadRun]:
    """Read one run, or several that are compared.

    Args:
        runs: their paths or URLs.
        phase: the phase to read; see `open_run`.
        budget: how many bytes all of them may take in the page.
        progress: called with how many rows are read, and how many there are.

    Raises:
        NotARunError: there is no run.
        FormatVersionError, DamagedStoreError: it cannot be read.
        ConfigError: a run has no such phase.
    """
    opened = [StoredRun(run, phase) for run in runs]
    total = sum(map(_rows_to_read, opened))
    done = 0

    def more(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, total)

    return [_read(stored, int(budget * _AS_TEXT) // len(opened), more) for stored in opened]


def identity_of(stored: StoredRun) -> str:
    """Which run it is: without spaces, and the same wherever it is moved."""
    return "-".join("-".join(filter(None, stored.identity)).split())


def check_patterns(
    runs: Sequence[str | Path], patterns: Sequence[str], phase: str | None = None
) -> None:
    """Refuse patterns that match no signal of all runs, before they are read.

    Raises:
        UnknownSignalError: one matches none; the nearest are named.
        NotARunError, FormatVersionError, DamagedStoreError, ConfigError: see `read_runs`.
    """
    names = [StoredRun(run, phase).info.names for run in runs]
    common = [name for name in names[0] if all(name in each for each in names)]
    names_matching(patterns, common, " and ".join(map(str, runs)))


def _with_histogram(stored: StoredRun) -> list[str]:
    tables = [t for t in stored.tables.values() if t.steps and t.table.statistic.histogram]
    return [name for table in tables for name in table.table.names]


def _rows_to_read(stored: StoredRun) -> int:
    shown = set(_with_histogram(stored)[:MOST_DISTRIBUTIONS])
    tables = stored.tables.values()
    return sum(t.steps * (1 + len(shown.intersection(t.table.names))) for t in tables)


def _read(stored: StoredRun, budget: int, more: Callable[[int], None]) -> ReadRun:
    names = _with_histogram(stored)
    shown = names[:MOST_DISTRIBUTIONS]
    # Each has about 14 parts of 96 numbers.
    left = max(budget - 6_000 * len(shown), budget // 4)
    overview = read_overview(stored, extent=extent_within(stored, left), progress=more)
    return ReadRun(
        described=describe(stored),
        overview=overview,
        distributions=tuple(read_distribution(stored, n, progress=more) for n in shown),
        left_out=len(names) - len(shown),
        findings=tuple(Run(stored).findings(overview.digest)),
        identity=identity_of(stored),
        times=times_of(stored),
        epochs=stored.epochs,
        sets=tuple(each for each in stored.phases if is_validation(each)),
    )
