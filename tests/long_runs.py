"""Runs of a million steps in seconds: a few windows are written, the others are links to them.

Such a run opens as any other does: its coordinates are true, every chunk is there, and its
tables are described and sealed as FORMAT.md says. Only its states repeat.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zarr

import distwatch
from distwatch.records import Block, RunInfo, Table
from distwatch.signals import Signal
from distwatch.statistics import ROW, merge_axis
from distwatch.store import StoreWriter, claim, now
from distwatch.store.documents import sealed
from distwatch.store.schema import ATTRIBUTE, root_attributes, segment_name

#: Steps in an epoch.
EPOCH = 1000

#: Few enough that no file system runs out of links to one file.
LINKS = 1000


@dataclass(frozen=True)
class LongTable:
    """One table of a long run: how many signals, looked at every how many steps."""

    signals: int = 100
    every: int = 1


@dataclass(frozen=True)
class LongRun:
    """A long run: where it lies, and what its windows repeat."""

    path: Path
    steps: int
    #: States of the written windows, by table: shape (step, replica, signal, field).
    rows: dict[str, npt.NDArray[np.float64]]

    def states(self, table: str, places: slice) -> npt.NDArray[np.float64]:
        """What the table holds at some places along its step axis."""
        rows = self.rows[table]
        return rows[np.arange(places.start, places.stop) % len(rows)]


def long_run(
    path: str | Path,
    *,
    steps: int,
    tables: tuple[LongTable, ...] = (LongTable(),),
    replicas: int = 4,
    workers: int = 1,
    window: int = 256,
    copy: bool = False,
) -> LongRun:
    """Write a run of any length.

    Args:
        path: where to write; see `distwatch.store.claim`.
        steps: how many steps were trained.
        tables: its tables, in order.
        replicas: how many replicas each worker has.
        workers: how many workers there are; all wrote the same.
        window: how many steps a chunk holds.
        copy: whether each chunk takes room of its own, or is a link to a written one.
    """
    path = Path(path)
    info = _info(tables, replicas, workers, window)
    claim(path, root_attributes(info, now()))
    written = max(2, -(-steps // window // LINKS)) * window
    rows = {
        table.name: _states(written, replicas, len(table.signals), seed)
        for seed, table in enumerate(info.tables)
    }
    for worker in range(workers):
        own = range(worker * replicas, (worker + 1) * replicas)
        theirs = replace(info, worker=worker, replicas=tuple(own))
        writer = StoreWriter(path, theirs)
        for table in info.tables:
            writer.append(_block(table.name, rows[table.name]))
        writer.close()
        for table, shape in zip(info.tables, tables, strict=True):
            step = np.arange(0, steps, shape.every, dtype=np.int64)
            _grow(path / segment_name(theirs) / table.name, step, written // window, copy)
    return LongRun(path, steps, rows)


def _info(tables: tuple[LongTable, ...], replicas: int, workers: int, window: int) -> RunInfo:
    def table(number: int, shape: LongTable) -> Table:
        names = [f"activation/table_{number}_{i:03d}" for i in range(shape.signals)]
        signals = tuple(Signal(name) for name in names)
        return Table(f"table-{number:02d}", signals, f"every({shape.every})", window)

    return RunInfo(
        tables=tuple(table(number, shape) for number, shape in enumerate(tables)),
        replicas=tuple(range(replicas)),
        strategy=f"made up, {replicas} x CPU",
        versions={"distwatch": distwatch.__version__},
        workers=workers,
    )


def _states(steps: int, replicas: int, signals: int, seed: int) -> npt.NDArray[np.float64]:
    """States of some batches, as noisy as real ones, so that they compress as those do."""
    random = np.random.default_rng(seed)
    shape = (steps, replicas, signals)
    count = random.integers(1, 65, shape).astype(np.float64)
    mean = random.normal(10.0 * (1 + np.arange(replicas))[:, None], 1.0, shape)
    m2 = count * random.gamma(2.0, 1.0, shape)
    std = np.sqrt(m2 / count)
    fields = {
        "count": count,
        "n": count,
        "mean": mean,
        "m2": m2,
        "min": mean - 2 * std,
        "max": mean + 2 * std,
        "l1": count * abs(mean),
        "l2sq": m2 + count * mean**2,
    }
    nothing = np.zeros(shape)
    return np.stack([fields.get(name, nothing) for name in ROW.fields], axis=-1)


def _block(table: str, rows: npt.NDArray[np.float64]) -> Block:
    step = np.arange(len(rows))
    return Block(table, step, step, step, rows, merge_axis(ROW, rows, axis=1))


def _grow(folder: Path, step: npt.NDArray[np.int64], written: int, copy: bool) -> None:
    """Make a table as long as ``step``, from the chunks that it has."""
    coordinates = {"step": step, "epoch": step // EPOCH, "iteration": step + 1}
    group = zarr.open_group(folder, mode="r+", use_consolidated=False)
    arrays = dict(group.arrays())
    window = arrays["merged"].shards or arrays["merged"].chunks
    for name in ("rows", "merged"):
        for number in range(written, -(-len(step) // window[0])):
            rest = ".0" * (arrays[name].ndim - 1)
            made = folder / name / f"c.{number}{rest}"
            chunk = folder / name / f"c.{number % written}{rest}"
            shutil.copy(chunk, made) if copy else os.link(chunk, made)
        arrays[name].resize((len(step), *arrays[name].shape[1:]))
    for name, values in coordinates.items():
        arrays[name].resize(values.shape)
        arrays[name][:] = values
    _seal(folder, len(step), list(arrays))


def _seal(folder: Path, steps: int, arrays: list[str]) -> None:
    """Commit what the arrays' own documents say."""
    document = json.loads((folder / "zarr.json").read_bytes())
    document["attributes"][ATTRIBUTE]["committed"] = steps
    metadata = document["consolidated_metadata"]["metadata"]
    for name in arrays:
        metadata[name] = json.loads((folder / name / "zarr.json").read_bytes())
    (folder / "zarr.json").write_text(json.dumps(sealed(document)))


class _Ear:
    """Records which files this process opens; once it is there it cannot be taken away."""

    def __init__(self) -> None:
        self.counting: Counter[str] | None = None
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" or self.counting is None:
            return
        if isinstance(arguments[0], str | os.PathLike):
            file = Path(arguments[0])
            if file.name.startswith("c."):
                self.counting["/".join(file.parts[-2:])] += 1


_ear = functools.cache(_Ear)


@contextlib.contextmanager
def chunk_files() -> Iterator[Counter[str]]:
    """Count how often each chunk file along the steps is opened: ``rows/c.3.0.0.0``."""
    ear = _ear()
    ear.counting = opened = Counter()
    try:
        yield opened
    finally:
        ear.counting = None
