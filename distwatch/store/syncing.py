"""A local Zarr store whose files are on the disk itself before it goes on.

Zarr's own store renames but never syncs, so that after a power cut a name may stand for a
file without its content.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore


class SyncedStore(LocalStore):
    """Syncs each file before it gets its name, and then the folder that holds the name."""

    async def set(self, key: str, value: Buffer) -> None:
        await asyncio.to_thread(_put, self.root / key, value.to_bytes())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not (self.root / key).exists():
            await self.set(key, value)


def _put(path: Path, content: bytes) -> None:
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name that zarr gives its own, which is swept when a run is resumed.
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    for folder in {path.parent, *(each.parent for each in made)}:
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows opens no folders, and needs none synced.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
