"""Finding damaged chunks: each is read by itself, so that it can be named."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from distwatch.errors import UnreachableError
from distwatch.statistics import ROW
from distwatch.store.addresses import Address
from distwatch.store.layout import ArrayLayout

#: What reading a damaged chunk raises: a wrong checksum, a codec that fails, a disk that
#: fails.
UNREADABLE = (
    ValueError,
    RuntimeError,
    OSError,
    LookupError,
    TypeError,
    EOFError,
    MemoryError,
)

#: Arrays that hold nothing but numbers of elements or of rows.
_NUMBERS = ("histogram", "histogram_merged", "valid")

#: The fields of states that count elements.
_COUNTS = slice(0, ROW.fields.index("n") + 1)

#: Elements of any number of batches: sums of so many of these are finite, and fit int64.
_MOST_ELEMENTS = np.float64(2**53)

Region = tuple[slice, ...]


@dataclass(frozen=True)
class Damage:
    """A chunk that cannot be read, and the rows in it."""

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


def are_possible(name: str, values: Any) -> bool:
    """Whether values can be those of an array: no number of elements is below zero."""
    if name in ("rows", "merged"):
        return _are_counts(values[..., _COUNTS])
    return name not in _NUMBERS or not (values < 0).any()


def _are_counts(values: Any) -> bool:
    """Whether values can be numbers of elements: finite, and not below zero."""
    # As unsigned integers, the bits of floats from 0 on keep their order, and NaN and
    # negative numbers come after them: one comparison instead of two, for all but -0.0.
    if (values.view(np.uint64) <= _MOST_ELEMENTS.view(np.uint64)).all():
        return True
    return bool(((values >= 0) & (values <= _MOST_ELEMENTS)).all())


def chunks(layout: ArrayLayout) -> Iterator[tuple[tuple[int, ...], Region]]:
    """Every chunk (shard) of an array: its index, and its region within the array."""
    shape, sizes = layout.shape, layout.shard
    counts = [-(-extent // size) for extent, size in zip(shape, sizes, strict=True)]
    for index in itertools.product(*map(range, counts)):
        yield (
            index,
            tuple(
                slice(i * size, min((i + 1) * size, extent))
                for i, size, extent in zip(index, sizes, shape, strict=True)
            ),
        )


def what_is_wrong(array: Any, region: Region) -> str | None:
    """Why a region of an array cannot be read; None if it can.

    Raises:
        UnreachableError: the location does not answer.
    """
    try:
        array[region]
    except UnreachableError:
        raise
    except UNREADABLE as error:
        return f"{type(error).__name__}: {error}"
    return None
