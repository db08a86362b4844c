"""A Zarr store on which metadata waits until it is committed.

Zarr writes an array's new shape before the chunks that fill it, so a reader (or a
crash) in between meets steps that are not there. Here chunks go through at once,
under names that no metadata mentions yet, while every ``zarr.json`` is held back;
``commit`` then replaces one document, the group's, in one atomic rename. It
carries the metadata of all its arrays inline (``consolidated_metadata``), so that
one replace is the commit.

Rejected: plain ``Array.append`` (after 116 of 150 kills it showed rows that were
never written), and a file format of our own (nobody else could read it).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from distwatch.store.schema import sealed

_METADATA = "zarr.json"

#: How much is encoded before it is written.
_BATCH_BYTES = 16 * 2**20


class StagedStore(WrapperStore[Store]):
    """Lets chunks through and holds metadata back until it is committed."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._held: dict[str, Buffer] = {}
        #: The documents of the group's arrays, as the next commit shows them.
        self._arrays: dict[str, dict[str, Any]] = {}
        #: Those whose own files say something else.
        self._unsettled: set[str] = set()

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        if key in self._held and byte_range is None:
            return self._held[key]
        return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        if key.endswith(_METADATA):
            self._held[key] = value
        else:
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if key not in self._held and not await self.exists(key):
            await self.set(key, value)

    def put(self, items: Iterable[tuple[str, bytes]]) -> None:
        """Write what stands under some keys, metadata too; returns when all is written.

        Raises:
            OSError: or whatever else the store raised first. Nothing is being written
                any more then.
        """
        for batch in _batches(items):
            sync(self._put_all(batch))

    async def _put_all(self, items: list[tuple[str, bytes]]) -> None:
        room = asyncio.Semaphore(zarr.config.get("async.concurrency"))
        buffer = default_buffer_prototype().buffer

        async def put(key: str, content: bytes) -> None:
            async with room:
                await self._store.set(key, buffer.from_bytes(content))

        # All of them are waited for: a commit must not race with a chunk of a failed block.
        ends = await asyncio.gather(*(put(*item) for item in items), return_exceptions=True)
        for error in filter(None, ends):
            raise error

    def commit(
        self,
        group: str,
        attributes: dict[str, Any],
        shapes: dict[str, tuple[int, ...]],
        *,
        settle: bool,
    ) -> None:
        """Show what was written, by replacing the group's metadata.

        Args:
            group: the group's path.
            attributes: the group's attributes, whole.
            shapes: the shapes that its growing arrays have from now on, by their names.
            settle: bring the arrays' own documents up to date too. They may lag
                behind the group's, never lead it, and five more files would make
                a commit twice as dear.
        """
        self._take_over(group)
        for name, shape in shapes.items():
            self._arrays[name]["shape"] = list(shape)
        self._unsettled.update(shapes)
        self.put([_item(group, _group_document(attributes, self._arrays))])
        if settle:
            changed = sorted(self._unsettled)
            self.put(_item(f"{group}/{name}", self._arrays[name]) for name in changed)
            self._unsettled.clear()

    def _take_over(self, group: str) -> None:
        """Put what Zarr wrote of new arrays among the documents that are committed."""
        self._held.pop(f"{group}/{_METADATA}", None)
        for key, value in self._held.items():
            name = key.removeprefix(f"{group}/").removesuffix(f"/{_METADATA}")
            self._arrays[name] = json.loads(value.to_bytes())
            self._unsettled.add(name)
        self._held.clear()


def _item(path: str, document: dict[str, Any]) -> tuple[str, bytes]:
    return f"{path}/{_METADATA}", json.dumps(document).encode()


def _batches(items: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Items together, as many as may wait in memory: they are made one by one."""
    batch: list[tuple[str, bytes]] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item[1])
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _group_document(attributes: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    return sealed(
        {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": attributes,
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": arrays,
            },
        }
    )
