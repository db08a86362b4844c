"""Runs on disk: the only package that uses Zarr. ``FORMAT.md`` is the specification.

What is stored is declared: `schema` has a model for the attributes of each group, and `entries`
for single things in them, made of `value_types`; `layout` has the arrays of a table.

- Where: `locations` (memory and buckets, and `folders`), `addresses`.
- Writing: `writer` passes blocks to the `table_writer` of each table, whose chunks `encoding`
  encodes; within a budget, `thinning` takes old steps out; `background` does all this on a
  thread.
- Reading: `reader` opens what was committed, in `segments`, one a worker and start;
  `readable_tables` says what can be read of a table. `tables` reads one on disk, from
  `documents` and `checked_arrays`, and finds damage; `joining` combines several starts and
  workers, `parts` gives some of their steps, or merges these; `times` tells when steps were
  done. `digests` keep what is known of a phase, so that its rows need not be read again;
  `finding` and `listing` are for folders of runs.
- Before a training: `estimating` the size of a run; `claims` on a path, by `locking`, whose
  files are in `lock_files`; `resuming` tells what is there, and where a run is resumed, by
  rows and by the `tallies` that starts leave, which are `appended_files`.
- During a training: `requests` from outside of it, the `changes` that were made, and the
  `plans` of several workers.
"""

from distwatch.store.background import MAX_WAIT, BackgroundWriter
from distwatch.store.changes import Change, changes_name
from distwatch.store.claims import Claim, claim, claim_again, claim_new, claim_with, delete_run
from distwatch.store.epochs import EpochLine, epochs_name
from distwatch.store.estimating import estimated_bytes, made_up_block, made_up_info
from distwatch.store.locations import location_of
from distwatch.store.reader import StoredRun
from distwatch.store.requests import Request, Requests, ask, request
from distwatch.store.resuming import (
    is_run,
    next_start,
    now,
    origin_of,
    run_name,
    steps_of,
    sweep,
)
from distwatch.store.tallies import Note, Tally
from distwatch.store.times import Times, times_of
from distwatch.store.writer import Budget, StoreWriter

__all__ = [
    "MAX_WAIT",
    "BackgroundWriter",
    "Budget",
    "Change",
    "Claim",
    "EpochLine",
    "Note",
    "Request",
    "Requests",
    "StoreWriter",
    "StoredRun",
    "Tally",
    "Times",
    "ask",
    "changes_name",
    "claim",
    "claim_again",
    "claim_new",
    "claim_with",
    "delete_run",
    "epochs_name",
    "estimated_bytes",
    "is_run",
    "location_of",
    "made_up_block",
    "made_up_info",
    "next_start",
    "now",
    "origin_of",
    "request",
    "run_name",
    "steps_of",
    "sweep",
    "times_of",
]
