"""One table of a run on disk: its description is checked when it is opened, its chunks when
they are read. To name damaged chunks, each is read by itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from distwatch.errors import DamagedStoreError, RunChangedError, StoreError, UnreachableError
from distwatch.records import RunInfo, Table
from distwatch.statistics import ROW
from distwatch.store import layout as layouts
from distwatch.store.addresses import Address, inside
from distwatch.store.checked_arrays import (
    PACKS_TO,
    MissingChunkError,
    check_layout,
    open_array,
)
from distwatch.store.documents import path_of, read_group, understanding
from distwatch.store.layout import ArrayLayout
from distwatch.store.locations import Location
from distwatch.store.readable_tables import ALL, Array, ReadableTable, check_rises
from distwatch.store.schema import SegmentAttributes, TableAttributes
from distwatch.text import shortened

#: Whether so few chunks are there is only checked when they are read.
_FEW = 16

#: Bytes of raw deltas that memory is taken for, however small their files are.
_UNASKED = 2**28

#: What reading a damaged chunk raises: a wrong checksum, a codec that fails, a disk that
#: fails.
_UNREADABLE = (
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

_IMPOSSIBLE = "it holds impossible numbers of elements"

Region = tuple[slice, ...]


@dataclass(frozen=True)
class Damage:
    """A chunk that cannot be read, and the rows in it; or a description that is gone."""

    #: Empty where a group's description is gone, and with it all that is in the group.
    array: str
    #: The rows of the array that are in it: the first, and the one after the last.
    first: int
    stop: int
    #: Its path, or its URL.
    file: Address
    why: str

    def __str__(self) -> str:
        if not self.array:
            return f"{self.file} is damaged ({self.why}): nothing beside it can be read."
        return (
            f"{self.file} is damaged ({self.why}): it holds rows {self.first} to "
            f"{self.stop - 1} of {self.array!r}."
        )


class StoredTable(ReadableTable):
    """One table of a run on disk.

    Args:
        location: the run's.
        segment: the name of the segment's group.
        name: the table's.
        info: what the segment says.
        group: the name of the group that the table is in.

    Raises:
        FormatVersionError: a newer distwatch wrote it.
        DamagedStoreError: it contradicts its own description.
    """

    def __init__(
        self, location: Location, segment: str, name: str, info: RunInfo, group: str
    ) -> None:
        self._location = location
        self._segment = segment
        #: The path of its group within the run.
        self.path = f"{segment}/{group}"
        self._where = path_of(location, self.path)
        said, arrays = read_group(location, self.path, TableAttributes)
        #: How the writing ended; None while it goes on, or if the writer was killed.
        self.ended = said.ended
        #: How many steps were done at some of its commits, and when: see `TableAttributes`.
        self.reached: list[tuple[float, float]] = said.reached
        with understanding(self._where):
            table = said.table(name)
            found = _layouts(info, table, said.committed, arrays)
            for layout in found:
                check_layout(layout, arrays.get(layout.name), self._where)
        self._layouts = {layout.name: layout for layout in found}
        #: A coordinate and the number of its chunk, and that chunk: see `value_at`.
        self._latest: tuple[tuple[str, int], Array] | None = None
        super().__init__(
            table,
            info.replicas,
            said.committed,
            lost=said.lost,
            thinned=said.thinned,
            has_tensors="tensor" in self._layouts,
            broken=said.broken,
        )
        self._check_is_there("step", 0)
        if self.has_tensors:
            self._check_is_there("tensor", 2)

    def read(self, name: str, steps: slice = ALL, signals: slice = ALL) -> Array:
        """See `ReadableTable.read`."""
        if name == "present":
            start, stop, _ = steps.indices(self.steps)
            return np.ones((stop - start, len(self.replicas)), bool)
        if name not in self._layouts:
            raise self._wrong(f"array {name!r} is not there")
        if name == "tensor":
            self._check_tensors_fit()
        dims = self._layouts[name].dims
        asked = {"step": steps, "signal": signals}
        values = self._read(name, tuple(asked.get(dim, ALL) for dim in dims))
        if name == "step":
            check_rises(values, self._where)
        return values

    def value_at(self, coordinate: str, place: int) -> int:
        """See `ReadableTable.value_at`; the chunk that it is in is kept until the next one."""
        size = self._layouts[coordinate].shard[0]
        chunk, latest = (coordinate, place // size), self._latest
        if latest is None or latest[0] != chunk:
            first = place // size * size
            latest = chunk, self.read(coordinate, slice(first, first + size))
            self._latest = latest
        return int(latest[1][place % size])

    def verify(self) -> Iterator[tuple[int, Damage | None]]:
        """Read every chunk: how many bytes each has, and its damage.

        Raises:
            UnreachableError: the run's location does not answer.
        """
        for name in sorted(self._layouts):
            yield from self._checked(name)

    def grows(self, name: str) -> bool:
        """Whether an array has a row for each step; the others are labels."""
        return self._layouts[name].dims[0] == "step"

    def _checked(
        self, name: str, rows: slice | None = None
    ) -> Iterator[tuple[int, Damage | None]]:
        """Read an array chunk by chunk, or the chunks of some of its rows."""
        layout, array = self._layouts[name], self._array(name)
        for index, region in _chunks(layout):
            first, stop = region[0].start, region[0].stop
            if rows and not (first < rows.stop and stop > rows.start):
                continue
            key = f"{self.path}/{name}/{layout.key(index)}"
            size = self._location.size(key)
            # A chunk that is not there is damage only if something was to be written in it.
            if size is not None or not layout.sparse or self._has_rows_in(region):
                why = "it is missing" if size is None else _what_is_wrong(name, array, region)
                file = inside(self._location.address, key)
                yield size or 0, Damage(name, first, stop, file, why) if why else None

    def _has_rows_in(self, region: tuple[slice, ...]) -> bool:
        """Whether a batch reaches into a region of the raw deltas."""
        try:
            valid = np.asarray(self._array("valid")[region[:2]])
            return bool((valid > region[2].start).any())
        except _UNREADABLE:
            return True  # Which is damage of its own.

    def _check_is_there(self, name: str, axis: int) -> None:
        """Refuse an array of more chunks than files, before memory is taken for it."""
        layout = self._layouts[name]
        chunks = -(-layout.shape[axis] // layout.shard[axis])
        if chunks <= _FEW:
            return
        files = len(self._location.children(f"{self.path}/{name}"))
        # Of those that a run has, a few may be missing, which is damage to these alone.
        if files < chunks // 2:
            raise self._wrong(
                f"array {name!r} has {files:,} files, and its shape wants {chunks:,}"
            )

    def _check_tensors_fit(self) -> None:
        """Refuse raw deltas that are larger than anything that could be in their files.

        Their chunks may be absent, and absent ones are filled up.
        """
        layout = self._layouts["tensor"]
        unpacked = math.prod(layout.shape) * layout.itemsize
        if unpacked <= _UNASKED:
            return
        packed = self._location.size_below(f"{self.path}/tensor")
        if unpacked > PACKS_TO * packed:
            raise self._wrong(
                f"array 'tensor' would have {unpacked:,} bytes, and its files have {packed:,}"
            )

    def _wrong(self, why: str) -> StoreError:
        return self._changed() or DamagedStoreError(
            f"{self._where}: {why}; the store was changed by something else than distwatch."
        )

    def _array(self, name: str) -> Any:
        return open_array(self._location, f"{self.path}/{name}", self._layouts[name])

    def _read(self, name: str, where: tuple[slice, ...]) -> Array:
        try:
            values = np.asarray(self._array(name)[where])
        except StoreError:
            raise
        except MissingChunkError as error:
            raise self._damaged(name, where, "a chunk is missing") from error
        except MemoryError as error:
            raise StoreError(
                f"{self._where}: array {name!r} takes more memory than there is "
                f"({shortened(str(error), quoted=False)}); read a part of it: one signal, "
                "or chunks='auto'."
            ) from error
        except _UNREADABLE as error:
            raise self._damaged(name, where, f"{type(error).__name__}: {error}") from error
        if not _are_possible(name, values):
            raise self._damaged(name, where, _IMPOSSIBLE)
        return values

    def _damaged(self, name: str, where: tuple[slice, ...], why: str) -> StoreError:
        if changed := self._changed():
            return changed
        start, stop, _ = where[0].indices(self.steps)
        each = self._checked(name, slice(start, stop))
        files = "; ".join(str(damage) for _, damage in each if damage is not None)
        error = DamagedStoreError(
            f"{self._where}: array {name!r} cannot be read ({why}). {files or 'Try again.'} "
            "The rest of the run stays readable; 'distwatch verify' lists all damage."
        )
        error.in_chunks = True
        return error

    def _changed(self) -> RunChangedError | None:
        """The error of a table whose segment names another group by now."""
        said, _ = read_group(self._location, self._segment, SegmentAttributes)
        if self.path == f"{self._segment}/{said.table_groups.get(self.table.name)}":
            return None
        return RunChangedError(
            f"{self._where} was thinned out since it was opened, to keep the run within "
            "its max_bytes; call refresh(), or open the run anew."
        )


def _layouts(
    info: RunInfo, table: Table, steps: int, said: dict[str, Any]
) -> list[ArrayLayout]:
    """The arrays that are there, as the table's description requires them."""
    found = list(layouts.growing(info, table, steps))
    found += [
        layout for name, (layout, _) in layouts.labels(info, table).items() if name in said
    ]
    if table.tensor is not None and "tensor" in said:
        # Only the array itself says how many rows the batches have.
        rows = said["tensor"]["chunk_grid"]["configuration"]["chunk_shape"][2]
        most = said["tensor"]["shape"][2]
        if type(rows) is not int or type(most) is not int or not 0 < rows <= most:
            raise ValueError(
                f"{shortened(most)} rows of a batch in chunks of {shortened(rows)}"
            )
        found += layouts.tensor_arrays(info, table.tensor, rows, steps=steps, most=most)
    return found


def _are_possible(name: str, values: Any) -> bool:
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


def _chunks(layout: ArrayLayout) -> Iterator[tuple[tuple[int, ...], Region]]:
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


def _what_is_wrong(name: str, array: Any, region: Region) -> str | None:
    """Why a region of an array cannot be read; None if it can.

    Raises:
        UnreachableError: the location does not answer.
    """
    try:
        values = array[region]
    except UnreachableError:
        raise
    except _UNREADABLE as error:
        return f"{type(error).__name__}: {error}"
    return None if _are_possible(name, values) else _IMPOSSIBLE
