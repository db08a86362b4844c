"""The layout of a run: names, dims, dtypes and attributes (see FORMAT.md)."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distwatch.errors import DamagedStoreError, FormatVersionError, NotARunError
from distwatch.records import TRAIN, Origin, RunInfo, Table, TensorLayout
from distwatch.signals import Signal
from distwatch.statistics import from_spec

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
    named = re.match(r"worker-\d{4,}-start-(\d{4,})", segment)
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


def check_format(attributes: dict[str, Any], where: str) -> dict[str, Any]:
    """Return our attributes of a group.

    Raises:
        NotARunError: they are not there.
        FormatVersionError: another distwatch wrote them.
    """
    ours = attributes.get(ATTRIBUTE)
    if not isinstance(ours, dict) or type(ours.get("format")) is not int:
        raise NotARunError(
            f"{where} is no distwatch run: it has no {ATTRIBUTE!r} attribute with a "
            "format number. Give the path that was given to Watch."
        )
    if ours["format"] != FORMAT:
        raise FormatVersionError(
            f"{where} is of store format {ours['format']}, this distwatch reads format "
            f"{FORMAT}; "
            + (
                "update it: pip install -U distwatch."
                if ours["format"] > FORMAT
                else _NO_FORMAT
            )
        )
    return ours


_NO_FORMAT = "there is no such format, so the store is damaged or not from distwatch."


def segment_info(attributes: dict[str, Any], where: str) -> RunInfo:
    """Read what a segment's group says; its tables are read one by one.

    Raises:
        DamagedStoreError: something is missing or of the wrong kind.
    """
    try:
        return RunInfo(
            tables=(),
            replicas=_numbers(attributes["replicas"]),
            strategy=str(attributes["strategy"]),
            versions=dict(attributes["versions"]),
            unwatched=dict(attributes["unwatched"]),
            phase=str(attributes["phase"]),
            worker=int(attributes["worker"]),
            workers=int(attributes["workers"]),
            origin=Origin(
                int(attributes["start"]),
                int(attributes["first_step"]),
                int(attributes["first_iteration"]),
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(where, error) from error


def _numbers(written: Any) -> tuple[int, ...]:
    numbers = tuple(int(number) for number in written)
    known = all(0 <= number < 2**31 for number in numbers)
    if not numbers or not known or len(set(numbers)) < len(numbers):
        raise ValueError(f"replicas={written!r}")
    return numbers


def table_groups(attributes: dict[str, Any], where: str) -> dict[str, str]:
    """The names of a segment's tables, and of the group that each is in.

    Raises:
        DamagedStoreError: they are missing, or no names of groups.
    """
    names = attributes.get("tables")
    # Runs that were written before tables could be thinned out say nothing of groups.
    groups = attributes.get("groups", {})
    if not isinstance(names, list) or not isinstance(groups, dict):
        raise damaged(where, ValueError(f"tables={names!r}, groups={groups!r}"))
    if not all(map(_is_group_name, [*names, *groups.values()])):
        raise damaged(where, ValueError(f"tables={names!r}, groups={groups!r}"))
    return {name: str(groups.get(name, name)) for name in names}


def _is_group_name(name: Any) -> bool:
    return (
        isinstance(name, str)
        and bool(name)
        and not set(name) & set("/\\")
        and name not in (".", "..")
    )


def table_info(attributes: dict[str, Any], name: str, where: str) -> Table:
    """Read a table's description from its attributes.

    Raises:
        DamagedStoreError: something is missing or of the wrong kind.
    """
    try:
        table = Table(
            name=name,
            signals=tuple(
                Signal(str(signal["name"]), str(signal["reference"]))
                for signal in attributes["signals"]
            ),
            schedule=str(attributes["schedule"]),
            window=int(attributes["window"]),
            statistic=from_spec(attributes["statistics"]),
            tensor=_layout(attributes["tensor"]),
        )
        if not table.signals or table.window < 1:
            raise ValueError(f"{len(table.signals)} signals, window={table.window}")
        if table.fields != tuple(attributes["fields"]):
            raise ValueError(f"fields={attributes['fields']!r}, expected {table.fields}")
        return table
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(where, error) from error


def _layout(written: Any) -> TensorLayout | None:
    if written is None:
        return None
    features = tuple(int(size) for size in written["features"])
    return TensorLayout(features, written["reduce"], str(written["dtype"]))


def progress(attributes: dict[str, Any], where: str) -> tuple[int, int, int]:
    """Read how many steps a table has committed, lost, and thinned out.

    Raises:
        DamagedStoreError: one of them is missing or no number.
    """
    try:
        thinned = int(attributes.get("thinned", 0))
        return int(attributes["committed"]), int(attributes["lost"]), thinned
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(where, error) from error


def ended(attributes: dict[str, Any]) -> str | None:
    """Read what ended the writing of a table; None while it is written, or if killed."""
    said = attributes.get("ended")
    return None if said is None else str(said)


def rowless_info(attributes: dict[str, Any], where: str) -> RunInfo:
    """Read, from the root's attributes, what is known of a run without rows.

    Raises:
        DamagedStoreError: something is of the wrong kind.
    """
    try:
        return RunInfo(
            tables=(),
            replicas=(),
            strategy=str(attributes.get("strategy", "")),
            versions=dict(attributes.get("versions", {})),
            workers=int(attributes.get("workers", 1)),
        )
    except (TypeError, ValueError) as error:
        raise damaged(where, error) from error


def damaged(where: str, error: Exception) -> DamagedStoreError:
    """Say that a description cannot be understood."""
    return DamagedStoreError(
        f"{where}: its description is damaged ({type(error).__name__}: {error})."
    )
