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

import json
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from distwatch.store.schema import sealed

_METADATA = "zarr.json"


class StagedStore(WrapperStore[Store]):
    """Lets chunks through and holds metadata back until it is committed."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._held: dict[str, Buffer] = {}
        self._arrays: dict[str, Any] = {}

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

    def commit(self, group: str, attributes: dict[str, Any], *, settle: bool) -> None:
        """Show what was written, by replacing the group's metadata.

        Args:
            group: the group's path.
            attributes: the group's attributes, whole.
            settle: bring the arrays' own documents up to date too. They may lag
                behind the group's, never lead it, and five more files would make
                a commit twice as dear.
        """
        self._held.pop(f"{group}/{_METADATA}", None)
        documents = {key: json.loads(value.to_bytes()) for key, value in self._held.items()}
        for key, document in documents.items():
            name = key.removeprefix(f"{group}/").removesuffix(f"/{_METADATA}")
            self._arrays[name] = document
        self._put(f"{group}/{_METADATA}", _group_document(attributes, self._arrays))
        if settle:
            for key, document in documents.items():
                self._put(key, document)
            self._held.clear()

    def _put(self, key: str, document: dict[str, Any]) -> None:
        text = json.dumps(document).encode()
        sync(self._store.set(key, default_buffer_prototype().buffer.from_bytes(text)))


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
