"""The arrays of a table, declared once: their dims, types, chunks, codecs and values.

The writer and the encoder, the reader and its checks, and ``verify`` all derive from here
what an array is (see ``FORMAT.md``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distwatch.records import Block, RunInfo, Table, TensorLayout
from distwatch.store.schema import COORDINATES

Array = npt.NDArray[Any]

#: Inner chunks of ``rows`` and ``merged`` span at most this many signals, so that
#: one signal's history is read without the others.
SIGNALS_PER_CHUNK = 8

#: Chunks of the coordinates span this many windows: readers need all coordinates of a run,
#: so they are kept in few files.
COORDINATE_WINDOWS = 32

#: Dtype and fill value of each array that grows along ``step``; ``tensor`` has its own dtype.
_TYPES: dict[str, tuple[str, float]] = {
    "step": ("int64", -1),
    "epoch": ("int64", -1),
    "iteration": ("int64", -1),
    "rows": ("float64", math.nan),
    "merged": ("float64", math.nan),
    "histogram": ("int64", -1),
    "histogram_merged": ("int64", -1),
    "valid": ("int64", -1),
}

_LABEL_FILLS = {"string": "", "int64": 0, "float64": 0.0}


@dataclass(frozen=True)
class ArrayLayout:
    """One array: what its metadata say.

    ``shard`` is the shape of the chunks that are files, ``chunk`` that of the chunks in them;
    they are equal where the array is not sharded. Labels are not ``compressed``. Chunks of a
    ``sparse`` array may be absent.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
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
    def is_sharded(self) -> bool:
        """Whether its files hold several chunks."""
        return self.shard != self.chunk

    @property
    def itemsize(self) -> int:
        """Bytes of an element; 0 for text, whose size is not known."""
        return 0 if self.is_text else np.dtype(self.dtype).itemsize

    @property
    def inner(self) -> int:
        """Chunks in a file."""
        return math.prod(self.shard) // math.prod(self.chunk)

    def key(self, index: tuple[int, ...]) -> str:
        """The key of the chunk (or shard) with this index, below the array's path."""
        return ("." if self.compressed else "/").join(["c", *map(str, index)])

    def metadata(self) -> dict[str, Any]:
        """The array's ``zarr.json``."""
        return {
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": _named("regular", chunk_shape=list(self.shard)),
            "chunk_key_encoding": _named("default", separator="." if self.compressed else "/"),
            "fill_value": "NaN" if self.fill != self.fill else self.fill,
            "codecs": self._codecs(),
            "attributes": {},
            "dimension_names": list(self.dims),
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }

    def _codecs(self) -> list[dict[str, Any]]:
        little, checksum = _named("bytes", endian="little"), {"name": "crc32c"}
        if not self.compressed:
            return [_named("vlen-utf8") if self.is_text else little, checksum]
        rank = len(self.shape)
        # Time runs fastest, so that neighbouring values are alike and compress.
        turned = [_named("transpose", order=[*range(1, rank), 0])] if rank > 1 else []
        blosc = _named(
            "blosc",
            typesize=self.itemsize,
            cname="lz4",
            clevel=5,
            shuffle="shuffle",
            blocksize=0,
        )
        codecs = [*turned, little, blosc, checksum]
        if not self.is_sharded:
            return codecs
        return [
            _named(
                "sharding_indexed",
                chunk_shape=list(self.chunk),
                codecs=codecs,
                index_codecs=[little, checksum],
                index_location="end",
            )
        ]


def growing(info: RunInfo, table: Table, steps: int = 0) -> Iterator[ArrayLayout]:
    """The arrays of a table that grow along ``step``, but for its raw deltas."""
    sizes = {
        "step": table.window,
        "replica": len(info.replicas),
        "signal": len(table.signals),
        "field": len(table.fields),
        "bucket": len(bucket_labels(table)),
    }

    def layout(name: str, dims: str) -> ArrayLayout:
        names = tuple(dims.split())
        shard = tuple(sizes[dim] for dim in names)
        few = divisor(sizes["signal"], SIGNALS_PER_CHUNK)
        chunk = tuple(few if dim == "signal" else sizes[dim] for dim in names)
        return ArrayLayout(name, names, (steps, *shard[1:]), shard, chunk, *_TYPES[name])

    long = (COORDINATE_WINDOWS * table.window,)
    for name in COORDINATES:
        yield ArrayLayout(name, ("step",), (steps,), long, long, *_TYPES[name])
    yield layout("rows", "step replica signal field")
    yield layout("merged", "step signal field")
    if sizes["bucket"]:
        yield layout("histogram", "step replica signal bucket")
        yield layout("histogram_merged", "step signal bucket")


def tensor_arrays(
    info: RunInfo, tensor: TensorLayout, rows: int, *, steps: int = 0, most: int | None = None
) -> Iterator[ArrayLayout]:
    """The arrays of raw deltas: one chunk a step and replica.

    Args:
        info: what the run holds.
        tensor: what is kept of the deltas.
        rows: rows of a batch in a chunk.
        steps: how many steps there are.
        most: rows of the largest batch; as many as in a chunk without it.
    """
    replicas = 1 if tensor.reduce else len(info.replicas)
    axis = "reduced" if tensor.reduce else "replica"
    dims = ("step", axis, "batch", *(f"dim_{i + 1}" for i in range(len(tensor.features))))
    shape = (steps, replicas, rows if most is None else most, *tensor.features)
    chunk = (1, 1, rows, *tensor.features)
    yield ArrayLayout("tensor", dims, shape, chunk, chunk, tensor.dtype, math.nan, sparse=True)
    one = (1, replicas)
    yield ArrayLayout("valid", dims[:2], shape[:2], one, one, *_TYPES["valid"])


def labels(info: RunInfo, table: Table) -> dict[str, tuple[ArrayLayout, Array]]:
    """The arrays that label the other dims, each with its values."""
    values: dict[str, Array] = {
        "replica": np.asarray(info.replicas, np.int64),
        "signal": np.asarray(table.names, object),
        "field": np.asarray(table.fields, object),
        "bucket": bucket_labels(table),
    }
    return {name: (_label(name, each), each) for name, each in values.items() if len(each)}


def _label(name: str, values: Array) -> ArrayLayout:
    dtype = "string" if values.dtype == object else str(values.dtype)
    return ArrayLayout(
        name, (name,), *3 * (values.shape,), dtype, _LABEL_FILLS[dtype], compressed=False
    )


def bucket_labels(table: Table) -> Array:
    """The value that each bucket of the table's histogram stands for; none without one."""
    histogram = table.statistic.histogram
    return np.zeros(0) if histogram is None else np.asarray(histogram.centres)


def values_of(table: Table, block: Block) -> dict[str, Array]:
    """What a block puts into each array of its table."""
    scalars = len(table.fields)
    values = {
        "step": block.step,
        "epoch": block.epoch,
        "iteration": block.iteration,
        "rows": block.rows[..., :scalars],
        "merged": block.merged[..., :scalars],
    }
    if table.statistic.histogram is not None:
        values["histogram"] = block.rows[..., scalars:].astype(np.int64)
        values["histogram_merged"] = block.merged[..., scalars:].astype(np.int64)
    if table.tensor is not None and block.tensors is not None:
        values |= {"tensor": block.tensors.values, "valid": block.tensors.valid}
    return values


def divisor(size: int, most: int) -> int:
    """The largest divisor of ``size`` up to ``most``.

    Inner chunks have to divide a shard exactly, or every write reads it first.
    """
    return max(n for n in range(1, min(size, most) + 1) if size % n == 0)


def _named(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}
