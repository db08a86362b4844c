"""Arrays of a run that may be anybody's, read without believing what they say of themselves.

An array's metadata must say what this format says of it (see ``FORMAT.md``), and Zarr is given
not these, but what the format says: so no codec or dtype is looked up by a name from a store,
nothing is unpickled, and a chunk has the size that the table's description gives it. What is
read of it is bounded, too: a file is a plain one within the run and not longer than such a
chunk can be, and what it unpacks to is known from its header before it is unpacked.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
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
from distwatch.store.locations import Location
from distwatch.store.schema import ArraySpec
from distwatch.text import shortened

#: What Blosc can hold: no chunk and, so that a run is read in bounded steps, no shard that
#: was ever written unpacks to more.
MOST_UNPACKED = 2**31 - 17

#: LZ4 unpacks to less than so many times what lies there.
PACKS_TO = 256

#: Blosc puts this before what it packs; it is never longer otherwise.
_HEADER = struct.Struct("<BBBBIII")

#: How Blosc's header tells of LZ4, in the upper bits of its flags.
_LZ4 = 1

_CHECKSUM = 4

#: What says nothing of how a chunk is unpacked.
_FREE = ("clevel", "blocksize")


class MissingChunkError(LookupError):
    """A chunk is not there that every writer writes."""


@dataclass(frozen=True)
class Layout:
    """What an array's metadata have to say.

    ``sparse``: whether chunks may be absent.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    #: The shape of a chunk that is a file, and of those in it; equal where it is no shard.
    shard: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str
    fill: Any
    compressed: bool = True
    sparse: bool = False

    @property
    def is_text(self) -> bool:
        """Whether it holds names."""
        return self.dtype == "string"

    @property
    def itemsize(self) -> int:
        """Bytes of an element; of text, none that could be known."""
        return 0 if self.is_text else np.dtype(self.dtype).itemsize

    @property
    def chunk_bytes(self) -> int:
        """What a chunk unpacks to."""
        return math.prod(self.chunk) * self.itemsize

    @property
    def inner(self) -> int:
        """How many chunks a shard has; 0 where it is none."""
        return math.prod(self.shard) // math.prod(self.chunk) if self.is_sharded else 0

    @property
    def is_sharded(self) -> bool:
        """Whether files hold several chunks."""
        return self.shard != self.chunk

    @property
    def packed_most(self) -> int:
        """No chunk is packed to more bytes."""
        if self.is_text:
            # The names stand in a document, too.
            return MOST_BYTES
        return self.chunk_bytes + _CHECKSUM + (_HEADER.size if self.compressed else 0)

    @property
    def index_bytes(self) -> int:
        """What stands at the end of a shard."""
        return 16 * self.inner + _CHECKSUM if self.is_sharded else 0

    @property
    def file_most(self) -> int:
        """No file has more bytes."""
        return max(self.inner, 1) * self.packed_most + self.index_bytes

    def metadata(self, codecs: Iterable[Any]) -> dict[str, Any]:
        """What Zarr is told of it."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": _named("regular", chunk_shape=list(self.shard)),
            "chunk_key_encoding": _named("default", separator="." if self.compressed else "/"),
            "fill_value": "NaN" if self.fill != self.fill else self.fill,
            "codecs": list(codecs),
            "dimension_names": list(self.dims),
        }

    def codecs(self) -> tuple[Any, ...]:
        """How its chunks are unpacked."""
        last = (Crc32cCodec(),)
        if not self.compressed:
            return (VLenUTF8Codec() if self.is_text else BytesCodec(endian="little"), *last)
        rank = len(self.shape)
        first = [TransposeCodec(order=(*range(1, rank), 0))] if rank > 1 else []
        blosc = CheckedBlosc(typesize=self.itemsize, cname="lz4", shuffle="shuffle")
        codecs: tuple[Any, ...] = (*first, BytesCodec(endian="little"), blosc, *last)
        if not self.is_sharded:
            return codecs
        index = (BytesCodec(endian="little"), Crc32cCodec())
        return (ShardingCodec(chunk_shape=self.chunk, codecs=codecs, index_codecs=index),)


def layout_of(spec: ArraySpec, steps: int, *, sparse: bool = False) -> Layout:
    """That of an array that grows along ``step``."""
    shape = (steps, *spec.sizes)
    return Layout(
        spec.name,
        spec.dims,
        shape,
        spec.shard,
        spec.chunk,
        spec.dtype,
        spec.fill,
        sparse=sparse,
    )


def label_layout(name: str, size: int, dtype: str) -> Layout:
    """That of the labels of a dim."""
    one = (max(1, size),)
    fill = {"string": "", "int64": 0, "float64": 0.0}[dtype]
    return Layout(name, (name,), (size,), one, one, dtype, fill, compressed=False)


def check_layout(layout: Layout, said: Any, where: str) -> None:
    """Compare an array's metadata with what they have to be.

    Raises:
        DamagedStoreError: they are others, or its chunks larger than any that was written.
    """
    wanted = layout.metadata(codec.to_dict() for codec in layout.codecs())
    if not isinstance(said, dict):
        raise DamagedStoreError(f"{where}: array {layout.name!r} is not there.")
    for key, value in wanted.items():
        got = said.get(key)
        if _plain(got) != _plain(value):
            raise DamagedStoreError(
                f"{where}: array {layout.name!r} has {key} {shortened(got)}, expected "
                f"{shortened(_plain(value), 400)}; the store was changed by something else "
                "than distwatch."
            )
    if said.get("storage_transformers"):
        raise DamagedStoreError(
            f"{where}: array {layout.name!r} has storage_transformers, expected none."
        )
    unpacked = math.prod(layout.shard) * layout.itemsize
    if unpacked > MOST_UNPACKED:
        raise DamagedStoreError(
            f"{where}: a chunk of array {layout.name!r} would have {unpacked:,} bytes, and no "
            f"distwatch writes more than {MOST_UNPACKED:,}."
        )


def open_array(location: Location, path: str, layout: Layout) -> Any:
    """Open an array whose metadata were checked.

    Args:
        location: where its run is.
        path: where it is there.
        layout: what it is.
    """
    store = GuardedStore(location.store(read_only=True), location, layout)
    return zarr.Array.from_dict(StorePath(store, path), layout.metadata(layout.codecs()))


class GuardedStore(WrapperStore[Store]):
    """What is read of one array: plain files, not longer than they can be.

    Args:
        store: what reaches them.
        location: where they are.
        layout: what the array is.
    """

    def __init__(self, store: Store, location: Location, layout: Layout) -> None:
        super().__init__(store)
        self._location = location
        self._layout = layout

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        layout = self._layout
        most = layout.file_most
        asked = RangeByteRequest(0, most + 1) if byte_range is None else byte_range
        found = None
        if self._location.may_be_read(key):
            found = await super().get(key, prototype, asked)
        if found is None:
            if layout.sparse:
                return None
            raise MissingChunkError("a chunk is missing")
        if len(found) > most:
            raise ValueError(f"it has more than {most} bytes, the most that can be in it")
        if layout.is_sharded and not isinstance(byte_range, RangeByteRequest):
            _check_index(found[-layout.index_bytes :].to_bytes(), layout)
        if layout.is_text:
            _check_number(found[:4].to_bytes(), layout)
        return found


class CheckedBlosc(BloscCodec):
    """Blosc, but for what would unpack to something else than the chunk."""

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ChunkSpec) -> Buffer:
        _check_header(chunk_bytes, chunk_spec)
        return await super()._decode_single(chunk_bytes, chunk_spec)

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ChunkSpec) -> Buffer:
        _check_header(chunk_bytes, chunk_spec)
        return super()._decode_sync(chunk_bytes, chunk_spec)


def _check_header(packed: Buffer, spec: ChunkSpec) -> None:
    """Refuse before it is unpacked what is not as long as it says, or not LZ4.

    LZ4 cannot pack to less than a 255th, so that what is unpacked is in proportion to what
    lies there. And Blosc believes the header: it would read past the end of a short chunk.
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


def _check_number(texts: bytes, layout: Layout) -> None:
    """Refuse another number of texts than there are labels, before there is room for them."""
    number = int.from_bytes(texts[:4], "little")
    if number != layout.chunk[0]:
        raise ValueError(f"it has {number} texts, expected {layout.chunk[0]}")


def _check_index(index: bytes, layout: Layout) -> None:
    """Refuse a shard whose chunks overlap, are missing, or are longer than they can be.

    Overlapping ones would unpack to many times what lies there. A checksum is another's task.
    """
    if len(index) < layout.index_bytes:
        raise ValueError(f"it has {len(index)} bytes, fewer than its index")
    places = np.frombuffer(index[:-_CHECKSUM], "<u8").reshape(-1, 2)
    starts, lengths = places[np.argsort(places[:, 0])].T
    if starts[-1] >= layout.file_most or lengths.max() > layout.packed_most:
        raise ValueError("a chunk in it is missing, or out of its bounds")
    if (starts[:-1] + lengths[:-1] > starts[1:]).any():
        raise ValueError("chunks in it overlap")


def _named(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


def _plain(value: Any) -> Any:
    """Metadata in one form: what may be left out, and tuples, are as JSON that says all."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, dict) and "name" in value:
        settings = value.get("configuration") or {}
        return (value["name"], _settings(settings))
    return value


def _settings(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    return {name: _plain(value) for name, value in settings.items() if name not in _FREE}
