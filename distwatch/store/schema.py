"""The layout of a run: names, dims, dtypes and attributes (see FORMAT.md)."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distwatch.records import TRAIN, RunInfo, Table, TensorLayout

FORMAT = 1

#: What a table says of its end that was closed in order.
CLOSED = "closed"

#: The one attribute that everything of ours stands under, at the root and in a segment.
ATTRIBUTE = "distwatch"


#: Inner chunks of ``rows`` and ``merged`` span at most this many signals, so that
#: one signal's history is read without the others.
SIGNALS_PER_CHUNK = 8


#: Chunks of the coordinates span this many windows, so that those of a long run, which every
#: reader needs whole, are few files.
COORDINATE_WINDOWS = 32


@dataclass(frozen=True)
class ArraySpec:
    """One array that grows along ``step``, its first dim.

    ``sizes`` are those of the other dims, ``shard`` and ``chunk`` of all dims.
    """

    name: str
    dims: tuple[str, ...]
    sizes: tuple[int, ...]
    shard: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str
    fill: float


def growing(info: RunInfo, table: Table) -> Iterator[ArraySpec]:
    """The arrays of a table that grow along ``step``, but for its raw tensors."""
    sizes = {
        "step": table.window,
        "replica": len(info.replicas),
        "signal": len(table.signals),
        "field": len(table.fields),
        "bucket": len(bucket_labels(table)),
    }

    def spec(name: str, dims: str, dtype: str, fill: float) -> ArraySpec:
        names = tuple(dims.split())
        shard = tuple(sizes[dim] for dim in names)
        chunk = tuple(
            divisor(size, SIGNALS_PER_CHUNK) if dim == "signal" else size
            for dim, size in zip(names, shard, strict=True)
        )
        return ArraySpec(name, names, shard[1:], shard, chunk, dtype, fill)

    long = (COORDINATE_WINDOWS * table.window,)
    for name in ("step", "epoch", "iteration"):
        yield ArraySpec(name, ("step",), (), long, long, "int64", -1)
    yield spec("rows", "step replica signal field", "float64", float("nan"))
    yield spec("merged", "step signal field", "float64", float("nan"))
    if sizes["bucket"]:
        yield spec("histogram", "step replica signal bucket", "int64", -1)
        yield spec("histogram_merged", "step signal bucket", "int64", -1)


def tensor_arrays(info: RunInfo, layout: TensorLayout, rows: int) -> Iterator[ArraySpec]:
    """The arrays of raw tensors: one chunk a step and replica."""
    replicas = 1 if layout.reduce else len(info.replicas)
    axis = "reduced" if layout.reduce else "replica"
    dims = tuple(f"dim_{i}" for i in range(1, 1 + len(layout.features)))
    chunk = (1, 1, rows, *layout.features)
    yield ArraySpec(
        "tensor",
        ("step", axis, "batch", *dims),
        (replicas, rows, *layout.features),
        chunk,
        chunk,
        layout.dtype,
        float("nan"),
    )
    valid = (1, replicas)
    yield ArraySpec("valid", ("step", axis), (replicas,), valid, valid, "int64", -1)


def label_sizes(info: RunInfo, table: Table) -> dict[str, tuple[int, str]]:
    """The arrays that label the other dims: name -> how many labels, and their dtype."""
    return {
        "replica": (len(info.replicas), "int64"),
        "signal": (len(table.signals), "string"),
        "field": (len(table.fields), "string"),
        "bucket": (len(bucket_labels(table)), "float64"),
    }


def bucket_labels(table: Table) -> Any:
    """The value that each bucket of the table's histogram stands for; none without one."""
    histogram = table.statistic.histogram
    return np.zeros(0) if histogram is None else histogram.centres


def divisor(size: int, most: int) -> int:
    """The largest divisor of ``size`` up to ``most``.

    Inner chunks have to divide a shard exactly, or every write reads it first.
    """
    return max(n for n in range(1, min(size, most) + 1) if size % n == 0)


def segment_name(info: RunInfo) -> str:
    """The group of one worker's rows of one phase since one start."""
    name = f"worker-{info.worker:04d}-start-{info.origin.start:04d}"
    return name if info.phase == TRAIN else f"{name}-{info.phase}"


def start_of(segment: str) -> int | None:
    """The start that a segment's name tells of; None if it is no segment's name."""
    named = re.match(r"worker-[0-9]{4,}-start-([0-9]{4,})", segment)
    return int(named[1]) if named else None


def root_attributes(info: RunInfo, created: str, run: str = "") -> dict[str, Any]:
    """What the root group says of a run before its first row.

    ``run`` is a name of its own for each run, by which workers know that they write
    to the same one.
    """
    return _sealed(
        {
            "format": FORMAT,
            "run": run,
            "created": created,
            "strategy": info.strategy,
            "workers": info.workers,
            "versions": info.versions,
        }
    )


def segment_attributes(info: RunInfo, groups: dict[str, str]) -> dict[str, Any]:
    """What a segment's group says; its tables say the rest.

    ``groups`` says in which group each table is: in another one after it was thinned out.
    """
    return _sealed(
        {
            "format": FORMAT,
            "tables": [table.name for table in info.tables],
            "groups": groups,
            "phase": info.phase,
            "worker": info.worker,
            "workers": info.workers,
            "start": info.origin.start,
            "first_step": info.origin.step,
            "first_iteration": info.origin.iteration,
            "replicas": list(info.replicas),
            "strategy": info.strategy,
            "versions": info.versions,
            "unwatched": info.unwatched,
        }
    )


def _sealed(ours: dict[str, Any]) -> dict[str, Any]:
    attributes: dict[str, Any] = sealed({"attributes": {ATTRIBUTE: ours}})["attributes"]
    return attributes


def table_attributes(
    table: Table, committed: int, lost: int, ended: str | None = None, thinned: int = 0
) -> dict[str, Any]:
    """What a table's group says; replacing it commits ``committed`` steps.

    ``thinned`` steps were committed once and taken out again.

    ``ended`` is None while the table is written, `CLOSED`, or what ended the writing.
    """
    return {
        ATTRIBUTE: {
            "format": FORMAT,
            "committed": committed,
            "lost": lost,
            "thinned": thinned,
            "ended": ended,
            "window": table.window,
            "schedule": table.schedule,
            "signals": [asdict(signal) for signal in table.signals],
            "fields": list(table.fields),
            "statistics": [statistic.spec() for statistic in table.statistic.further],
            "tensor": asdict(table.tensor) if table.tensor else None,
        },
        # Where xarray finds the coordinates that are no dims.
        "coordinates": "epoch iteration",
    }


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """A group's document with a checksum of what it says, among our attributes."""
    ours = {**document["attributes"][ATTRIBUTE], _SEAL: None}
    whole = {**document, "attributes": {**document["attributes"], ATTRIBUTE: ours}}
    ours[_SEAL] = _checksum(whole)
    return whole


def is_whole(document: Any) -> bool:
    """Whether a group's document is as it was written, as far as it has a checksum."""
    try:
        ours = document["attributes"][ATTRIBUTE]
        seal, known = ours[_SEAL], ours["format"] == FORMAT
    except (KeyError, TypeError):
        return True
    return seal is None or not known or seal == _checksum(document)


def _checksum(document: dict[str, Any]) -> int:
    """Of our attributes and of the arrays' metadata, whatever else stands there."""
    ours = {k: v for k, v in document["attributes"][ATTRIBUTE].items() if k != _SEAL}
    arrays = (document.get("consolidated_metadata") or {}).get("metadata", {})
    return zlib.crc32(json.dumps([ours, arrays], sort_keys=True).encode())


_SEAL = "crc32"
