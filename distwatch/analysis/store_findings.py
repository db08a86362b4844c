"""What stands out in how a run was kept, rather than in its rows."""

from __future__ import annotations

import itertools

from distwatch.findings import NOTE, WARNING, Finding
from distwatch.records import TRAIN, TRAIN_ON_BATCH
from distwatch.store.reader import StoredRun
from distwatch.text import counted


def unseen(store: StoredRun) -> list[Finding]:
    """Steps of which nothing is known, so that no all-clear can be given."""
    return [*_damaged(store), *_uncounted(store)]


def kept_of(store: StoredRun) -> list[Finding]:
    """Workers that wrote less than others, and steps that were removed."""
    return [*_stopped(store), *_thinned_out(store)]


def _damaged(store: StoredRun) -> list[Finding]:
    damaged = store.damaged
    text = (
        f"{counted(damaged, 'step')} cannot be read, because chunks of them are damaged: "
        "'distwatch verify' names the files. All that is said here is about the others."
    )
    return [Finding("damaged", WARNING, text)] if damaged else []


def _uncounted(store: StoredRun) -> list[Finding]:
    """Rows whose number nobody knows: those of a phase that counts its own steps."""
    if store.info.phase in (TRAIN, TRAIN_ON_BATCH):
        return []
    killed = any(
        table.ended is None and not later.info.origin.counted
        for segment, later in itertools.pairwise(store.segments)
        if segment.info.worker == later.info.worker
        for table in segment.tables.values()
    )
    text = (
        f"A start of this run was killed. Steps of the phase {store.info.phase} that it had "
        "not written are missing and are not counted, and the steps of later starts "
        "have lower numbers than they would have."
    )
    return [Finding("uncounted", NOTE, text)] if killed else []


def _thinned_out(store: StoredRun) -> list[Finding]:
    text = (
        f"{store.thinned} steps of the old part were removed to stay within max_bytes; "
        "all that is said here is about the others."
    )
    return [Finding("thinned", NOTE, text)] if store.thinned else []


def _stopped(store: StoredRun) -> list[Finding]:
    """Which workers wrote rows of fewer steps than others, or none."""
    ends = [(worker.info, worker.steps) for worker in store.workers]
    lines = [
        f"Worker {info.worker} (replica{'s' * (len(info.replicas) != 1)} "
        f"{', '.join(map(str, info.replicas))}) wrote only {steps} of {store.steps} steps; "
        "from there on, rows are merged without it."
        for info, steps in ends
        if steps < store.steps
    ]
    if ends and len(ends) < store.info.workers:
        lines.append(
            f"{store.info.workers - len(ends)} of {store.info.workers} workers wrote no rows."
        )
    return [Finding("worker_stopped", WARNING, line) for line in lines]
