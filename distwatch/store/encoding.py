"""Encoding values as the bytes of standard Zarr chunks, without zarr-python.

Chunks are encoded as `layout` says, by the same compressor and checksum that zarr-python
itself calls, and read by zarr-python. Any reader of Zarr v3 opens the result.

Chosen by ``tests/benchmarks/store_formats.py``, on two cores that were busy with other
things: blocks of 256 steps, 4 replicas, 100 signals and 11 fields, 11 MB each, in one run:

    ==============  ===========  ==================  ============
    written by      bytes/value  million values / s  CPU ms/block
    ==============  ===========  ==================  ============
    this encoder           2.68                  37            27
    zarr-python            2.68                  12            89
    ``np.save``            8.00                  46             8
    HDF5 (LZF)             4.57                   6           163
    Parquet (LZ4)          2.78                  20            38
    event files              81               0.001       725,000
    ==============  ===========  ==================  ============

Event files keep float32, and their CPU time is scaled from one step. A training step of
0.9 ms took 1.02 times as long with a writer thread that uses this encoder, and 1.28 times with
zarr-python (medians of 11 turns on a busy machine; single turns ranged from 0.7 to 1.9). At
9 ms neither differed from no writer: both medians were below 1.

Rejected: assigning to zarr-python's arrays, which costs three times the CPU during training,
reads a chunk back before it writes a part of it, and resizes an array before its chunks are
there, so that a run that failed half way could not be opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import replace
from typing import Any, Final

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc

from distwatch.store.layout import Array, ArrayLayout

# As the layout says. It takes the size of an element from the array that it is given.
_BLOSC: Final = Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE)


class ChunkEncoder:
    """Encodes what is written to one growing array, in the order of its steps.

    What fills no chunk yet is kept, so that a chunk is always encoded whole and nothing
    is ever read back.

    Args:
        layout: the array's; its first dim is ``step``.
    """

    def __init__(self, layout: ArrayLayout) -> None:
        self._layout = layout
        self._sizes = layout.shape[1:]
        #: Values from the start of the last chunk on, and the place of that start.
        self._kept = np.empty((0, *self._sizes), _stored(layout.dtype))
        self._from = 0

    def metadata(self, steps: int) -> dict[str, Any]:
        """The array's ``zarr.json`` with so many steps, with room for all encoded values."""
        return replace(self._layout, shape=(steps, *self._sizes)).metadata()

    def chunks(self, start: int, values: Array) -> Iterator[tuple[str, bytes]]:
        """Encode the chunks that hold some values, each whole: its key, and its bytes.

        Args:
            start: the place of the first value along ``step``. What was encoded from
                there on before is replaced.
            values: shape (n, ...), of the array's rank. The other dims may be shorter
                than the array, whose rest is fill, or longer: then it grows.

        Raises:
            ValueError: there is a gap between the values before and these.
        """
        place = start // self._layout.shard[0]
        whole = self._whole(place, start, np.asarray(values, _stored(self._layout.dtype)))
        self._sizes = tuple(map(max, self._sizes, whole.shape[1:]))
        return self._encoded(place, whole)

    def _whole(self, place: int, start: int, values: Array) -> Array:
        """The values, with those before them in their first chunk."""
        began, length = place * self._layout.shard[0], self._layout.shard[0]
        before = self._kept[: start - began]
        if start > began:
            if self._from != began or len(before) < start - began:
                raise ValueError(
                    f"array {self._layout.name!r}: values for place {start} came after those "
                    f"up to {self._from + len(self._kept)}; write them in order."
                )
            values = np.concatenate([before, values])
        rest = len(values) // length * length
        self._kept, self._from = values[rest:].copy(), began + rest
        return values

    def _encoded(self, place: int, values: Array) -> Iterator[tuple[str, bytes]]:
        shard = self._layout.shard
        for cell in _grid(values.shape, shard):
            content = _filled_up(values[_within(cell, shard)], shard, self._layout.fill)
            key = self._layout.key((place + cell[0], *cell[1:]))
            if self._layout.chunk == shard:
                yield key, encode_chunk(content)
            else:
                yield key, encode_shard(content, self._layout.chunk)


def encode_shard(values: Array, chunk: tuple[int, ...]) -> bytes:
    """What the codec ``sharding_indexed`` gives: inner chunks, then where each of them is.

    Args:
        values: the whole shard, little-endian.
        chunk: the shape of the inner chunks, which divides that of the shard.
    """
    parts, index, end = [], [], 0
    # The index is in this order; the chunks before it might be in any.
    for cell in _grid(values.shape, chunk):
        parts.append(encode_chunk(values[_within(cell, chunk)]))
        index += [end, len(parts[-1])]
        end += len(parts[-1])
    return b"".join([*parts, _checksummed(np.array(index, "<u8").tobytes())])


def encode_chunk(values: Array) -> bytes:
    """What ``transpose`` with ``step`` last, ``bytes``, ``blosc`` and ``crc32c`` give.

    Args:
        values: the whole chunk, little-endian.
    """
    return _checksummed(_BLOSC.encode(np.ascontiguousarray(np.moveaxis(values, 0, -1))))


def encode_labels(layout: ArrayLayout, values: Array) -> bytes:
    """The one chunk of an array of labels: ``bytes`` or ``vlen-utf8``, then ``crc32c``.

    Args:
        layout: the array's.
        values: all labels, of shape (n,).
    """
    if not layout.is_text:
        return _checksummed(values.astype(_stored(layout.dtype)).tobytes())
    texts = [str(value).encode() for value in values]
    parts = [_length(texts), *(part for text in texts for part in (_length(text), text))]
    return _checksummed(b"".join(parts))


def _length(of: Sized) -> bytes:
    return len(of).to_bytes(4, "little")


def _checksummed(content: bytes) -> bytes:
    return content + int(google_crc32c.value(content)).to_bytes(4, "little")


def _stored(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _grid(shape: tuple[int, ...], cell: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return np.ndindex(*(-(-size // each) for size, each in zip(shape, cell, strict=True)))


def _within(place: tuple[int, ...], cell: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(i * n, (i + 1) * n) for i, n in zip(place, cell, strict=True))


def _filled_up(values: Array, shape: tuple[int, ...], fill: float) -> Array:
    if values.shape == shape:
        return values
    missing = [(0, want - have) for want, have in zip(shape, values.shape, strict=True)]
    return np.pad(values, missing, constant_values=fill)
