"""The batches that a run keeps: the first of each replica in which NaN or Inf were seen.

Each is a file of NumPy's format .npz in its segment, written once: ``step``, ``left_out``, and
``part/NAME`` for each array. Any NumPy reads it without pickling.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt

from distwatch.errors import DamagedStoreError
from distwatch.records import KeptBatch
from distwatch.store.addresses import inside
from distwatch.store.locations import Location
from distwatch.store.value_types import LONGEST_NAME, LONGEST_TEXT, MOST

_NAME = re.compile(r"kept-batch-([0-9]{4,16})\.npz")

_PART = "part/"


def kept_name(replica: int) -> str:
    """The name of a replica's file in its segment."""
    return f"kept-batch-{replica:04d}.npz"


def is_kept_name(name: str) -> bool:
    """Whether a file of a segment is a batch that was kept."""
    return _NAME.fullmatch(name) is not None


def encoded(kept: KeptBatch) -> bytes:
    """A batch as the content of its file."""
    held = io.BytesIO()
    parts = {f"{_PART}{name}": array for name, array in kept.parts.items()}
    about = {"step": np.int64(kept.step), "left_out": np.str_(kept.left_out)}
    np.savez(held, allow_pickle=False, **about, **parts)
    return held.getvalue()


def kept_in(location: Location, segment: str) -> list[KeptBatch]:
    """The batches that a segment of a run keeps, by replica.

    Raises:
        DamagedStoreError: a file cannot be understood.
        UnreachableError: the run's location does not answer.
    """
    found = []
    for name in location.children(segment):
        if (named := _NAME.fullmatch(name)) is not None:
            key = f"{segment}/{name}"
            content = location.read(key) or b""
            try:
                found.append(_decoded(content, int(named[1])))
            except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise DamagedStoreError(
                    f"{inside(location.address, key)} is no batch that distwatch kept "
                    f"({type(error).__name__}: {error}); the rows of the run can be read."
                ) from error
    return found


def _decoded(content: bytes, replica: int) -> KeptBatch:
    with zipfile.ZipFile(io.BytesIO(content)) as files:
        arrays = {each.filename: _array(files, each, len(content)) for each in files.infolist()}
    step, left_out = int(arrays.pop("step.npy")), str(arrays.pop("left_out.npy"))
    if not 0 <= step <= MOST:
        raise ValueError(f"step={step}")
    parts = {_part_name(name): array for name, array in arrays.items()}
    return KeptBatch(replica, step, parts, left_out[:LONGEST_TEXT])


def _part_name(file: str) -> str:
    name = file.removeprefix(_PART).removesuffix(".npy")
    if f"{_PART}{name}.npy" != file or not 0 < len(name) <= LONGEST_NAME:
        raise ValueError(f"{file[:LONGEST_NAME]!r} is no part of a batch")
    return name


def _array(files: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> npt.NDArray[Any]:
    """One array of a file that may come from anybody: never larger than what is there."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > most:
        raise ValueError("it is compressed")
    held = io.BytesIO(files.read(entry))
    version = np.lib.format.read_magic(held)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(held)
    left = entry.file_size - held.tell()
    fits = min(shape, default=0) >= 0 and math.prod(shape) * dtype.itemsize == left
    if dtype.hasobject or not fits:
        raise ValueError(f"an array of shape {shape} and dtype {dtype} in {left} bytes")
    held.seek(0)
    return np.lib.format.read_array(held, allow_pickle=False)
