"""Reading arrays of a run that may come from anybody, without trusting their own metadata.

An array's metadata must say what this format says of it (see ``FORMAT.md``), and Zarr is given
not the metadata but the `layout`: so no codec or dtype is looked up by a name from a store,
nothing is unpickled, and a chunk has the size that the table's description gives it. Reading
is bounded, too: a file is a plain one within the run and not longer than such a chunk can be,
and the size of an unpacked chunk is known from its header before it is unpacked.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    ShardingCodec,
    TransposeCodec,
    VLenUTF8Codec,
)
from zarr.core.array_spec import ArraySpec as ChunkSpec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import StorePath, WrapperStore

from distwatch.errors import DamagedStoreError
from distwatch.store.documents import MOST_BYTES
from distwatch.store.layout import ArrayLayout
from distwatch.store.locations import Location
from distwatch.text import shortened

#: Bytes of the largest chunk that Blosc can hold. No shard that was ever written unpacks to
#: more, so that a run can be read in bounded steps.
MOST_UNPACKED = 2**31 - 17

#: LZ4 unpacks to less than so many times the packed bytes.
PACKS_TO = 256

#: Blosc puts this header before packed bytes; they are never longer than the unpacked ones.
_HEADER = struct.Struct("<BBBBIII")

#: The number of LZ4 in Blosc's header, in the upper bits of its flags.
_LZ4 = 1

#: Bytes of a checksum.
_CHECKSUM = 4

#: Settings of a codec that do not matter for unpacking.
_FREE = ("clevel", "blocksize")


class MissingChunkError(LookupError):
    """A chunk is not there that every writer writes."""


def check_layout(layout: ArrayLayout, said: Any, where: str) -> None:
    """Compare an array's metadata with its layout.

    Raises:
        DamagedStoreError: they differ, or its chunks are larger than any that was written.
    """
    if not isinstance(said, dict):
        raise DamagedStoreError(f"{where}: array {layout.name!r} is not there.")
    for key, value in layout.metadata().items():
        # What must be empty (storage transformers) may be left out.
        got = (said.get(key) or []) if value == [] else said.get(key)
        # Most are as this distwatch writes them, and need not be brought into one form.
        if key != "attributes" and got != value and _plain(got) != _plain(value):
            raise DamagedStoreError(
                f"{where}: array {layout.name!r} has {key} {shortened(got)}, expected "
                f"{shortened(_plain(value), 400)}; the store was changed by something else "
                "than distwatch."
            )
    unpacked = math.prod(layout.shard) * layout.itemsize
    if unpacked > MOST_UNPACKED:
        raise DamagedStoreError(
            f"{where}: a chunk of array {layout.name!r} would have {unpacked:,} bytes, and no "
            f"distwatch writes more than {MOST_UNPACKED:,}."
        )


def open_array(location: Location, path: str, layout: ArrayLayout) -> Any:
    """Open an array whose metadata were checked.

    Args:
        location: where its run is.
        path: the array's path there.
        layout: the array's.
    """
    metadata = layout.metadata()
    metadata["codecs"] = _decoders(metadata["codecs"])
    return zarr.Array.from_dict(StorePath(CheckedStore(location, layout), path), metadata)


class CheckedStore(WrapperStore[Store]):
    """The files of one array: plain ones, not longer than they can be.

    Args:
        location: where they are.
        layout: the array's.
    """

    def __init__(self, location: Location, layout: ArrayLayout) -> None:
        super().__init__(location.store)
        self._location = location
        self._layout = layout

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        layout, most = self._layout, _file_most(self._layout)
        asked = RangeByteRequest(0, most + 1) if byte_range is None else byte_range
        found = await self._location.get(key, prototype, asked)
        if found is None:
            if layout.sparse:
                return None
            raise MissingChunkError("a chunk is missing")
        if len(found) > most:
            raise ValueError(f"it has more than {most} bytes, the most that can be in it")
        if layout.is_sharded and not isinstance(byte_range, RangeByteRequest):
            _check_index(found[-_index_bytes(layout) :].to_bytes(), layout)
        if layout.is_text:
            # Before memory is taken for them.
            texts = int.from_bytes(found[:4].to_bytes(), "little")
            if texts != layout.chunk[0]:
                raise ValueError(f"it has {texts} texts, expected {layout.chunk[0]}")
        return found


def _packed_most(layout: ArrayLayout) -> int:
    """Bytes of the longest packed chunk."""
    if layout.is_text:
        # The names are in a document, too.
        return MOST_BYTES
    unpacked = math.prod(layout.chunk) * layout.itemsize
    return unpacked + _CHECKSUM + (_HEADER.size if layout.compressed else 0)


def _index_bytes(layout: ArrayLayout) -> int:
    """Bytes of the index at the end of a shard."""
    return 16 * layout.inner + _CHECKSUM if layout.is_sharded else 0


def _file_most(layout: ArrayLayout) -> int:
    """Bytes of the longest file."""
    return layout.inner * _packed_most(layout) + _index_bytes(layout)


def _decoders(codecs: list[dict[str, Any]]) -> list[Any]:
    """Zarr's codecs for those of a layout."""
    return [_decoder(codec["name"], codec.get("configuration", {})) for codec in codecs]


def _decoder(name: str, settings: dict[str, Any]) -> Any:
    if name == "sharding_indexed":
        inner = {key: _decoders(settings[key]) for key in ("codecs", "index_codecs")}
        return ShardingCodec(**{**settings, **inner})
    return _CODECS[name](**settings)


class CheckedBlosc(BloscCodec):
    """Blosc that refuses what would unpack to something else than the chunk."""

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ChunkSpec) -> Buffer:
        _check_header(chunk_bytes, chunk_spec)
        return await super()._decode_single(chunk_bytes, chunk_spec)

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ChunkSpec) -> Buffer:
        _check_header(chunk_bytes, chunk_spec)
        return super()._decode_sync(chunk_bytes, chunk_spec)


def _check_header(packed: Buffer, spec: ChunkSpec) -> None:
    """Refuse, before it is unpacked, a chunk of another length than it says, or not of LZ4.

    LZ4 cannot pack to less than a 255th, so that unpacked chunks are in proportion to the
    files. And Blosc trusts the header: it would read past the end of a short chunk.
    """
    wanted = math.prod(spec.shape) * spec.dtype.to_native_dtype().itemsize
    header = packed.as_numpy_array()[: _HEADER.size].tobytes()
    if len(header) < _HEADER.size:
        raise ValueError(f"it has {len(header)} bytes, too few for Blosc")
    _, _, flags, _, unpacked, _, length = _HEADER.unpack(header)
    if (flags >> 5, unpacked, length) != (_LZ4, wanted, len(packed)):
        raise ValueError(
            f"it says that {length} bytes unpack to {unpacked} (by compressor {flags >> 5}), "
            f"expected {len(packed)} to {wanted} (by {_LZ4})"
        )


def _check_index(index: bytes, layout: ArrayLayout) -> None:
    """Refuse a shard whose chunks overlap, are missing, or are longer than they can be.

    Overlapping ones would unpack to many times the file. Zarr checks the checksum.
    """
    if len(index) < _index_bytes(layout):
        raise ValueError(f"it has {len(index)} bytes, fewer than its index")
    places = np.frombuffer(index[:-_CHECKSUM], "<u8").reshape(-1, 2)
    starts, lengths = places[np.argsort(places[:, 0])].T
    if starts[-1] >= _file_most(layout) or lengths.max() > _packed_most(layout):
        raise ValueError("a chunk in it is missing, or out of its bounds")
    if (starts[:-1] + lengths[:-1] > starts[1:]).any():
        raise ValueError("chunks in it overlap")


def _plain(value: Any) -> Any:
    """Metadata in one form, in which parts that may be left out are all there."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict) and "name" in value:
        return value["name"], _plain(value.get("configuration") or {})
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if key not in _FREE}
    return value


_CODECS: dict[str, Any] = {
    "transpose": TransposeCodec,
    "bytes": BytesCodec,
    "blosc": CheckedBlosc,
    "crc32c": Crc32cCodec,
    "vlen-utf8": VLenUTF8Codec,
}
