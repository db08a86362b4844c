"""Finding damaged chunks: each is read by itself, so that it can be named."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from distwatch.store.addresses import Address, inside
from distwatch.store.locations import Location

#: What reading a chunk raises that is not what was written: a checksum that is wrong, a
#: codec that stumbles, a disk that fails.
UNREADABLE = (
    ValueError,
    RuntimeError,
    OSError,
    LookupError,
    TypeError,
    EOFError,
    MemoryError,
)

#: Arrays in which no written element can equal the fill value, which a missing chunk gives.
_NEVER_FILL = ("step", "epoch", "histogram", "histogram_merged", "valid")

#: Elements of any number of batches: sums of so many of these are finite, and fit int64.
_MOST_ELEMENTS = np.float64(2**53)

Region = tuple[slice, ...]


@dataclass(frozen=True)
class Damage:
    """A chunk that cannot be read, and what is in it."""

    array: str
    #: The rows of the array that are in it: the first, and the one after the last.
    first: int
    stop: int
    #: Its path, or its URL.
    file: Address
    why: str

    def __str__(self) -> str:
        return (
            f"{self.file} is damaged ({self.why}): it holds rows {self.first} to "
            f"{self.stop - 1} of {self.array!r}."
        )


def is_missing(name: str, values: Any) -> bool:
    """Whether values that were read come from a chunk that is not there.

    Zarr gives the fill value for it, without a word.
    """
    if not values.size:
        return False
    if name in ("rows", "merged"):
        return bool(np.isnan(values[..., 0]).any())  # a count, never NaN
    return name in _NEVER_FILL and bool((values == -1).any())


def are_counts(values: Any) -> bool:
    """Whether values can be numbers of elements: finite, and not below zero."""
    # Floats from 0 on are in the order of their bits, behind which are NaN and what is below
    # zero: one comparison in the place of two, for all but -0.0.
    if (values.view(np.uint64) <= _MOST_ELEMENTS.view(np.uint64)).all():
        return True
    return bool(((values >= 0) & (values <= _MOST_ELEMENTS)).all())


def checked(
    array: Any,
    location: Location,
    path: str,
    *,
    rows: slice | None = None,
    holds: Callable[[Region], bool] = lambda region: True,
) -> Iterator[tuple[int, Damage | None]]:
    """Read an array chunk by chunk: the bytes of each, and what is wrong with it.

    Args:
        array: what is read.
        location: where its run is.
        path: where it is there.
        rows: some of its rows; all without it.
        holds: whether anything was to be written in a region: a chunk that is not there is
            damage only then.
    """
    for index, region in _chunks(array):
        if rows and not (region[0].start < rows.stop and region[0].stop > rows.start):
            continue
        key = f"{path}/{_key(array, index)}"
        size = location.size(key)
        if size is not None or holds(region):
            yield size or 0, _damage(array, location, key, region)


def _chunks(array: Any) -> Iterator[tuple[tuple[int, ...], Region]]:
    """Every chunk (shard) of an array: its index, and its region without what is past."""
    sizes = array.shards or array.chunks
    counts = [-(-extent // size) for extent, size in zip(array.shape, sizes, strict=True)]
    for index in itertools.product(*map(range, counts)):
        yield (
            index,
            tuple(
                slice(i * size, min((i + 1) * size, extent))
                for i, size, extent in zip(index, sizes, array.shape, strict=True)
            ),
        )


def _key(array: Any, index: tuple[int, ...]) -> str:
    return str(array.metadata.encode_chunk_key(index))


def _damage(
    array: Any, location: Location, key: str, region: tuple[slice, ...]
) -> Damage | None:
    why = _what_is_wrong(array, location.size(key), region)
    if why is None:
        return None
    name = array.basename
    return Damage(name, region[0].start, region[0].stop, inside(location.address, key), why)


def _what_is_wrong(array: Any, size: int | None, region: tuple[slice, ...]) -> str | None:
    if size is None:
        return "it is missing"
    try:
        array[region]
    except UNREADABLE as error:
        return f"{type(error).__name__}: {error}"
    return None
