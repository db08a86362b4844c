"""One table of a run on disk: its description is checked as it is opened, its chunks as they
are read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from distwatch.errors import DamagedStoreError, RunChangedError, StoreError
from distwatch.records import Floats, Ints, RunInfo, TensorLayout, Tensors
from distwatch.statistics import ROW
from distwatch.store import descriptions, schema
from distwatch.store.checked_arrays import (
    PACKS_TO,
    Layout,
    MissingChunkError,
    check_layout,
    label_layout,
    layout_of,
    open_array,
)
from distwatch.store.damage import UNREADABLE, Damage, are_counts, checked, is_missing
from distwatch.store.documents import read_document
from distwatch.store.joining import check_rises
from distwatch.store.locations import Location
from distwatch.text import shortened

#: So few chunks are looked for when they are read, and not before.
_FEW = 16

#: The fields that count elements.
_COUNTS = slice(0, ROW.fields.index("n") + 1)

#: So many bytes of raw deltas are made room for, whatever their files have.
_UNASKED = 2**28


class StoredTable:
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
        self._path = f"{segment}/{group}"
        self._where = f"{location.address}/{self._path}"
        self._info = info
        document = read_document(location, self._path)
        said = descriptions.check_format(document["attributes"], self._where)
        self.table = descriptions.table_info(said, name, self._where)
        self.replicas = info.replicas
        self.steps, self.lost, self.thinned = descriptions.progress(said, self._where)
        #: How the writing ended; None while it goes on, or if it was killed.
        self.ended = descriptions.ended(said, self._where)
        self._layouts = self._checked_layouts(_arrays_of(document))
        self._check_is_there("step", -(-self.steps // self._layouts["step"].shard[0]))

    def present(self, steps: slice = slice(None)) -> npt.NDArray[np.bool_]:
        """Whether a replica's row is there, which they all are: shape (step, replica)."""
        start, stop, _ = steps.indices(self.steps)
        return np.ones((stop - start, len(self.replicas)), bool)

    def coordinate(self, name: str, steps: slice = slice(None)) -> Ints:
        """``step``, ``epoch`` or ``iteration``: shape (step,)."""
        values = np.asarray(self._read(name, (steps,)), np.int64)
        if name == "step":
            check_rises(values, self._where)
        return values

    def rows(self, steps: slice = slice(None), signals: slice = slice(None)) -> Floats:
        """Per-replica states of scalar fields: shape (step, replica, signal, field)."""
        return np.asarray(self._read("rows", (steps, slice(None), signals)), np.float64)

    def merged(self, steps: slice = slice(None), signals: slice = slice(None)) -> Floats:
        """The same merged over replicas: shape (step, signal, field)."""
        return np.asarray(self._read("merged", (steps, signals)), np.float64)

    def histogram(self, steps: slice = slice(None), signals: slice = slice(None)) -> Ints:
        """Bucket counts on each replica: shape (step, replica, signal, bucket)."""
        return np.asarray(self._read("histogram", (steps, slice(None), signals)), np.int64)

    def histogram_merged(
        self, steps: slice = slice(None), signals: slice = slice(None)
    ) -> Ints:
        """The same merged over replicas: shape (step, signal, bucket)."""
        return np.asarray(self._read("histogram_merged", (steps, signals)), np.int64)

    def tensors(self, steps: slice = slice(None)) -> Tensors | None:
        """Raw deltas, where the table keeps them and a step was looked at."""
        if "tensor" not in self._layouts:
            return None
        self._check_tensors_fit()
        return Tensors(self._read("tensor", (steps,)), self._read("valid", (steps,)))

    def verify(self) -> Iterator[tuple[int, Damage | None]]:
        """Read every chunk: how many bytes each has, and what is damaged."""
        for name in sorted(self._layouts):
            with self._location.reached():
                yield from self._checked(name)

    def _checked(
        self, name: str, rows: slice | None = None
    ) -> Iterator[tuple[int, Damage | None]]:
        array, path = self._array(name), f"{self._path}/{name}"
        if name != "tensor":
            return checked(array, self._location, path, rows=rows)
        return checked(array, self._location, path, rows=rows, holds=self._has_rows_in)

    def _has_rows_in(self, region: tuple[slice, ...]) -> bool:
        """Whether a batch reaches into a region of the raw deltas."""
        try:
            valid = np.asarray(self._array("valid")[region[:2]])
            return bool((valid > region[2].start).any())
        except UNREADABLE:
            return True  # Which is damage of its own.

    def _is_in_place(self) -> bool:
        """Whether the segment still says that the table is here."""
        said = read_document(self._location, self._segment)["attributes"]
        where = f"{self._location.address}/{self._segment}"
        groups = descriptions.table_groups(descriptions.check_format(said, where), where)
        return self._path == f"{self._segment}/{groups.get(self.table.name)}"

    def _checked_layouts(self, said: dict[str, Any]) -> dict[str, Layout]:
        """The arrays that are there, each as the table's description wants it."""
        info, table = self._info, self.table
        layouts = [layout_of(spec, self.steps) for spec in schema.growing(info, table)]
        labels = schema.label_sizes(info, table)
        layouts += [label_layout(n, *about) for n, about in labels.items() if n in said]
        try:
            if table.tensor is not None and "tensor" in said:
                layouts += _tensor_layouts(info, table.tensor, self.steps, said["tensor"])
            for layout in layouts:
                check_layout(layout, said.get(layout.name), self._where)
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, DamagedStoreError):
                raise
            raise descriptions.damaged(self._where, error) from error
        return {layout.name: layout for layout in layouts}

    def _check_is_there(self, name: str, chunks: int) -> None:
        """Refuse an array of more chunks than there are files, before there is room for it."""
        if chunks <= _FEW:
            return
        files = len(self._location.children(f"{self._path}/{name}"))
        if files < chunks:
            raise self._wrong(
                f"array {name!r} has {files:,} files, and its shape wants {chunks:,}"
            )

    def _check_tensors_fit(self) -> None:
        """Refuse raw deltas that are larger than anything that could be in their files.

        Their chunks may be absent, and what is absent is filled up.
        """
        layout = self._layouts["tensor"]
        self._check_is_there("tensor", -(-layout.shape[2] // layout.shard[2]))
        unpacked = math.prod(layout.shape) * layout.itemsize
        if unpacked <= _UNASKED:
            return
        packed = self._location.size_below(f"{self._path}/tensor")
        if unpacked > PACKS_TO * packed:
            raise self._wrong(
                f"array 'tensor' would have {unpacked:,} bytes, and its files have {packed:,}"
            )

    def _wrong(self, why: str) -> StoreError:
        if not self._is_in_place():
            return self._changed()
        return DamagedStoreError(
            f"{self._where}: {why}; the store was changed by something else than distwatch."
        )

    def _array(self, name: str) -> Any:
        return open_array(self._location, f"{self._path}/{name}", self._layouts[name])

    def _read(self, name: str, where: tuple[slice, ...]) -> Any:
        try:
            with self._location.reached():
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
        except UNREADABLE as error:
            raise self._damaged(name, where, f"{type(error).__name__}: {error}") from error
        if is_missing(name, values):
            raise self._damaged(name, where, "a chunk is missing")
        if name in ("rows", "merged") and not are_counts(values[..., _COUNTS]):
            raise self._damaged(name, where, "it holds numbers of elements that are none")
        return values

    def _damaged(self, name: str, where: tuple[slice, ...], why: str) -> StoreError:
        if not self._is_in_place():
            return self._changed()
        start, stop, _ = where[0].indices(self.steps)
        each = self._checked(name, slice(start, stop))
        found = [damage for _, damage in each if damage is not None]
        files = "; ".join(str(damage) for damage in found)
        return DamagedStoreError(
            f"{self._where}: array {name!r} cannot be read ({why}). {files or 'Try again.'} "
            "The rest of the run stays readable; 'distwatch verify' lists all damage."
        )

    def _changed(self) -> RunChangedError:
        return RunChangedError(
            f"{self._where} was thinned out since it was opened, to keep the run within "
            "its max_bytes; call refresh(), or open the run anew."
        )


def _arrays_of(document: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a table's arrays, whatever they say."""
    consolidated = document.get("consolidated_metadata")
    arrays = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    return arrays if isinstance(arrays, dict) else {}


def _tensor_layouts(
    info: RunInfo, tensor: TensorLayout, steps: int, said: Any
) -> Iterator[Layout]:
    """Those of raw deltas: only the rows of a batch are known from the arrays alone."""
    rows = said["chunk_grid"]["configuration"]["chunk_shape"][2]
    most = said["shape"][2]
    if type(rows) is not int or type(most) is not int or not 0 < rows <= most:
        raise ValueError(f"{shortened(most)} rows of a batch in chunks of {shortened(rows)}")
    for spec in schema.tensor_arrays(info, tensor, rows):
        layout = layout_of(spec, steps, sparse=spec.name == "tensor")
        if layout.sparse:
            axis, _, *features = spec.sizes
            layout = replace(layout, shape=(steps, axis, most, *features))
        yield layout
