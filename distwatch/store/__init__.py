"""Runs on disk: the only room that knows Zarr. ``FORMAT.md`` is the specification.

``locations`` finds folders, memory and buckets, ``claiming`` takes one for a run. ``writer``
gives blocks to the ``table_writer`` of each table, which commits them one by one, within a
``budget`` for which ``thinning`` takes old steps out; ``background`` does so on a thread of
its own. ``reader`` opens what was committed, ``joining`` puts the parts of several starts
and workers together, ``resuming`` finds where a training is taken up again, ``estimating``
weighs runs that are not there yet.
"""

from distwatch.store.background import MAX_WAIT, BackgroundWriter
from distwatch.store.budget import Budget
from distwatch.store.claiming import claim, disclaim, is_claimed, is_run, now, run_name
from distwatch.store.estimating import estimated_bytes, made_up_block, made_up_info
from distwatch.store.locations import location_of
from distwatch.store.reader import StoredRun
from distwatch.store.resuming import next_start, origin_of, steps_of, sweep
from distwatch.store.writer import StoreWriter

__all__ = [
    "MAX_WAIT",
    "BackgroundWriter",
    "Budget",
    "StoreWriter",
    "StoredRun",
    "claim",
    "disclaim",
    "estimated_bytes",
    "is_claimed",
    "is_run",
    "location_of",
    "made_up_block",
    "made_up_info",
    "next_start",
    "now",
    "origin_of",
    "run_name",
    "steps_of",
    "sweep",
]
