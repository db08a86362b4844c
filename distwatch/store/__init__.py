"""Runs on disk: the only room that knows Zarr. ``FORMAT.md`` is the specification.

``locations`` finds folders, memory and buckets, ``writer`` commits blocks one by one,
``background`` does so on a thread of its own, ``reader`` opens what was committed,
``joining`` puts the parts of several starts and workers together, ``resuming`` finds where
a training is taken up again.
"""

from distwatch.store.background import MAX_WAIT, BackgroundWriter
from distwatch.store.reader import StoredRun
from distwatch.store.resuming import next_start, origin_of, steps_of, sweep
from distwatch.store.writer import StoreWriter, claim, disclaim, is_claimed, run_name

__all__ = [
    "MAX_WAIT",
    "BackgroundWriter",
    "StoreWriter",
    "StoredRun",
    "claim",
    "disclaim",
    "is_claimed",
    "next_start",
    "origin_of",
    "run_name",
    "steps_of",
    "sweep",
]
