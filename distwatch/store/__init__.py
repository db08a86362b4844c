"""Runs on disk: the only room that knows Zarr. ``FORMAT.md`` is the specification.

``writer`` commits blocks one by one, ``background`` does so on a thread of its
own, ``reader`` opens what was committed, ``joining`` puts the
parts of several workers side by side.
"""

from distwatch.store.background import BackgroundWriter
from distwatch.store.reader import StoredRun
from distwatch.store.writer import StoreWriter, claim, disclaim, is_claimed

__all__ = ["BackgroundWriter", "StoreWriter", "StoredRun", "claim", "disclaim", "is_claimed"]
