"""The store beside other ways to keep the same values, and what writing costs a training.

Two tables, by one run of this program:

1. The same blocks of a made-up run, written block by block and read back: by distwatch's
   store, by the same store as zarr-python encodes it (the rejected way), by ``np.save``,
   HDF5, Parquet and TensorBoard's event files. All ways take turns; medians over rounds.
   Event files are some 1,000 times slower, so they get fewer steps; their times are scaled
   to the same number of values, which is marked by a star. They keep float32, too.
2. How much longer a training step takes while a thread writes a block every window of
   steps: the time with it over the time without, in turns, as a median of ratios.

Files are read from the page cache: no reader waits for the disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import numpy as np
import tensorflow as tf
import zarr
from tensorflow.core.framework.summary_pb2 import DATA_CLASS_SCALAR, SummaryMetadata
from tensorflow.core.util import event_pb2

from distwatch.records import Block, RunInfo, Table
from distwatch.signals import Signal
from distwatch.statistics import ROW, merge_axis
from distwatch.store import BackgroundWriter, StoreWriter, claim, writer
from distwatch.store.layout import SIGNALS_PER_CHUNK, divisor, values_of
from distwatch.store.schema import root_attributes

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    pa = pq = None

EXAMPLES = """examples:
  python tests/benchmarks/store_formats.py
  python tests/benchmarks/store_formats.py --signals 20 --blocks 4 --rounds 3
  python tests/benchmarks/store_formats.py --formats distwatch,zarr-python,hdf5 --steps ""
  python tests/benchmarks/store_formats.py --formats "" --steps 0.6,10
"""

TABLE = "table-00"
ARRAYS = ("step", "epoch", "iteration", "rows", "merged")
#: Which signal's history is read alone.
ONE = 3


def info_of(signals: int, replicas: int, window: int) -> RunInfo:
    chosen = tuple(Signal(f"activation/dense_{i}") for i in range(signals))
    table = Table(TABLE, chosen, "every(1)", window)
    return RunInfo((table,), tuple(range(replicas)), "made up", {})


def blocks_of(info: RunInfo, blocks: int, seed: int = 0) -> list[Block]:
    """Exact statistics of deltas whose means and spreads drift, of a batch of 32 each."""
    rng = np.random.default_rng(seed)
    window, shape = info.tables[0].window, (len(info.replicas), len(info.signals))
    made = []
    level = rng.normal(0, 1, shape)
    for number in range(blocks):
        drift = level + np.cumsum(rng.normal(0, 0.01, (window, *shape)), axis=0)
        level = drift[-1]
        deltas = rng.normal(
            drift[..., None], np.exp(0.3 * drift)[..., None], (*drift.shape, 32)
        )
        rows = states_of(np.maximum(deltas.astype("float32"), -1.0))
        step = np.arange(number * window, (number + 1) * window)
        merged = merge_axis(ROW, rows, axis=1)
        made.append(Block(TABLE, step, step // 1000, step + 1, rows, merged))
    return made


def states_of(deltas: np.ndarray) -> np.ndarray:
    """States of elements along the last axis, fields in the order of `ROW`."""
    wide = deltas.astype("float64")
    mean = wide.mean(-1)
    count, none = np.full(mean.shape, wide.shape[-1], "float64"), np.zeros(mean.shape)
    fields = {
        "count": count, "zeros": (wide == 0).sum(-1), "nans": none, "infs": none, "n": count,
        "mean": mean, "m2": ((wide - mean[..., None]) ** 2).sum(-1), "min": wide.min(-1),
        "max": wide.max(-1), "l1": abs(wide).sum(-1), "l2sq": (wide**2).sum(-1),
    }  # fmt: skip
    return np.stack([fields[name] for name in ROW.fields], axis=-1)


def values_in(blocks: list[Block]) -> int:
    return sum(getattr(block, name).size for block in blocks for name in ARRAYS)


class Distwatch:
    """The store, as a Watch writes it."""

    def write(self, path: Path, info: RunInfo, blocks: list[Block]) -> None:
        store = opened(path, info)
        for block in blocks:
            store.append(block)
        store.close()

    def read_one(self, path: Path) -> Any:
        return self._group(path)["rows"][:, :, ONE]

    def read_all(self, path: Path) -> list[Any]:
        group = self._group(path)
        return [group[name][...] for name in ARRAYS]

    def _group(self, path: Path) -> Any:
        return zarr.open_group(path / "worker-0000-start-0000" / TABLE, mode="r")


def opened(path: Path, info: RunInfo) -> StoreWriter:
    claim(path, root_attributes(info, "2025-01-01T00:00:00+00:00"))
    ZarrTableWriter.folder = path
    return StoreWriter(path, info)


class ZarrPython(Distwatch):
    """The same files, encoded by zarr-python: how the store was written at first."""

    def write(self, path: Path, info: RunInfo, blocks: list[Block]) -> None:
        with mock.patch.object(writer, "TableWriter", ZarrTableWriter):
            super().write(path, info, blocks)


class ZarrTableWriter(writer.TableWriter):
    """Assigns to zarr-python's arrays, each resized before; its files are not counted."""

    #: The folder of the run.
    folder = Path()

    def _chunks(self, block: Block) -> Iterator[tuple[str, bytes]]:
        start, stop = self.whole, self.whole + len(block)
        for name, values in values_of(self._table, block).items():
            array = self._by_name(name)
            array.resize((stop, *values.shape[1:]))
            array[start:stop] = values
        yield from ()

    def _by_name(self, name: str) -> Any:
        self.__dict__.setdefault("_opened", {})
        if name not in self._opened:
            opened = zarr.open_array(self.folder / self._path / name, mode="r+")
            self._opened[name] = opened.with_config({"write_empty_chunks": True})
        return self._opened[name]


class NumpyFiles:
    """One ``np.save`` for each array of each block."""

    def write(self, path: Path, info: RunInfo, blocks: list[Block]) -> None:
        path.mkdir()
        for number, block in enumerate(blocks):
            for name in ARRAYS:
                np.save(path / f"{name}.{number:06}.npy", getattr(block, name))

    def read_one(self, path: Path) -> Any:
        files = sorted(path.glob("rows.*"))
        return np.concatenate([np.load(file, mmap_mode="r")[:, :, ONE] for file in files])

    def read_all(self, path: Path) -> list[Any]:
        return [
            np.concatenate([np.load(file) for file in sorted(path.glob(f"{name}.*"))])
            for name in ARRAYS
        ]


class Hdf5:
    """One file that grows: the same chunks, LZF after a shuffle, with checksums."""

    def write(self, path: Path, info: RunInfo, blocks: list[Block]) -> None:
        with h5py.File(path, "w") as file:
            for name in ARRAYS:
                self._create(file, name, getattr(blocks[0], name))
            for number, block in enumerate(blocks):
                for name in ARRAYS:
                    values = getattr(block, name)
                    start = number * len(values)
                    file[name].resize(start + len(values), axis=0)
                    file[name][start:] = values
                file.flush()

    def _create(self, file: Any, name: str, like: np.ndarray) -> None:
        chunk = list(like.shape)
        if like.ndim > 1:
            chunk[-2] = divisor(chunk[-2], SIGNALS_PER_CHUNK)
        file.create_dataset(
            name,
            shape=(0, *like.shape[1:]),
            maxshape=(None, *like.shape[1:]),
            dtype=like.dtype,
            chunks=tuple(chunk),
            compression="lzf",
            shuffle=True,
            fletcher32=True,
        )

    def read_one(self, path: Path) -> Any:
        with h5py.File(path, "r") as file:
            return file["rows"][:, :, ONE]

    def read_all(self, path: Path) -> list[Any]:
        with h5py.File(path, "r") as file:
            return [file[name][...] for name in ARRAYS]


class Parquet:
    """A row group a block: a line for each step, replica and signal, a column a field."""

    def write(self, path: Path, info: RunInfo, blocks: list[Block]) -> None:
        path.mkdir()
        for name, axes in (("rows", ("replica", "signal")), ("merged", ("signal",))):
            lines = (self._lines(block, getattr(block, name), axes) for block in blocks)
            first = next(lines)
            options = {"compression": "lz4", "use_dictionary": ["replica", "signal"]}
            options["use_byte_stream_split"] = list(ROW.fields)
            with pq.ParquetWriter(path / f"{name}.parquet", first.schema, **options) as file:
                file.write_table(first)
                for each in lines:
                    file.write_table(each)

    def _lines(self, block: Block, values: np.ndarray, axes: tuple[str, ...]) -> Any:
        places = np.indices(values.shape[:-1], dtype="int32")
        columns = {name: place.ravel() for name, place in zip(axes, places[1:], strict=True)}
        for name in ("step", "epoch", "iteration"):
            columns[name] = getattr(block, name)[places[0].ravel()]
        for i, name in enumerate(ROW.fields):
            columns[name] = np.ascontiguousarray(values[..., i]).ravel()
        return pa.table(columns)

    def read_one(self, path: Path) -> Any:
        found = pq.read_table(path / "rows.parquet", filters=[("signal", "==", ONE)])
        return np.stack([found[name].to_numpy() for name in ROW.fields], axis=-1)

    def read_all(self, path: Path) -> list[Any]:
        tables = [pq.read_table(path / f"{name}.parquet") for name in ("rows", "merged")]
        return [[table[name].to_numpy() for name in table.column_names] for table in tables]


class EventFiles:
    """A scalar for each step, signal and field, a log folder for each replica."""

    def write(self, path: Path, info: RunInfo, blocks: list[Block]) -> None:
        names = [f"{signal}/{field}" for signal in info.names for field in ROW.fields]
        logs = {f"replica_{i}": i for i in info.replicas}
        for log, replica in {**logs, "merged": None}.items():
            with tf.summary.create_file_writer(str(path / log)).as_default():
                for block in blocks:
                    states = block.merged if replica is None else block.rows[:, replica]
                    for step, state in zip(block.step, states, strict=True):
                        for name, value in zip(names, state.ravel(), strict=True):
                            scalar(name, value, int(step))

    def read_one(self, path: Path) -> Any:
        wanted = {f"activation/dense_{ONE}/{field}" for field in ROW.fields}
        return [value for tag, value in self._values(path) if tag in wanted]

    def read_all(self, path: Path) -> list[Any]:
        return list(self._values(path))

    def _values(self, path: Path) -> Iterator[tuple[str, float]]:
        for file in sorted(path.glob("*/*tfevents*")):
            for record in self._records(file.read_bytes()):
                for value in event_pb2.Event.FromString(record).summary.value:
                    yield value.tag, float(tf.make_ndarray(value.tensor))

    def _records(self, content: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            yield content[at + 12 : at + 12 + length]
            at += length + 16  # the length, a checksum of it, and one of the record


def scalar(name: str, value: float, step: int) -> None:
    """What ``tf.summary.scalar`` writes; that one needs TensorBoard to be installed."""
    plugin = SummaryMetadata.PluginData(plugin_name="scalars")
    shown = SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_SCALAR)
    tf.summary.write(name, tf.constant(value, tf.float32), step, shown)


FORMATS = {
    "distwatch": Distwatch(),
    "zarr-python": ZarrPython(),
    "np.save": NumpyFiles(),
    "hdf5": Hdf5(),
    "parquet": Parquet(),
    "tensorboard": EventFiles(),
}


def timed(action: Callable[[], Any]) -> tuple[float, float]:
    """Seconds that an action takes: by the clock, and of all cores together."""
    clock, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - clock, time.process_time() - cpu


def size_of(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def one_turn(kind: Any, folder: Path, info: RunInfo, blocks: list[Block]) -> list[float]:
    """Bytes, seconds and CPU seconds of writing, and seconds of both ways to read."""
    path = folder / "it"
    write, cpu = timed(lambda: kind.write(path, info, blocks))
    one, _ = timed(lambda: kind.read_one(path))
    everything, _ = timed(lambda: kind.read_all(path))
    size = size_of(path)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return [size, write, cpu, one, everything]


def compare_formats(chosen: argparse.Namespace, folder: Path) -> None:
    info = info_of(chosen.signals, chosen.replicas, chosen.window)
    blocks = blocks_of(info, chosen.blocks)
    few = [blocks[0][: chosen.event_steps]]
    names = [name for name in chosen.formats.split(",") if name]
    if pa is None and "parquet" in names:
        print("parquet is left out: pyarrow is not installed")
        names.remove("parquet")
    measured: dict[str, list[list[float]]] = {name: [] for name in names}
    for turn in range(chosen.rounds + 1):
        for name in names if turn % 2 else reversed(names):
            given = few if name == "tensorboard" else blocks
            measured[name].append(one_turn(FORMATS[name], folder, info, given))
    values = values_in(blocks)
    print(
        f"{values:,} values in {len(blocks)} blocks\n"
        f"{'format':12} {'bytes/value':>11} {'values/s written':>17} {'CPU ms/block':>13} "
        f"{'one signal, ms':>15} {'everything, ms':>15}"
    )
    for name in names:
        here = values_in(few) if name == "tensorboard" else values
        star, scale = (" *", values / here) if here != values else ("", 1.0)
        # The first turn warms up.
        size, write, cpu, one, everything = map(
            statistics.median, zip(*measured[name][1:], strict=True)
        )
        print(
            f"{name:12} {size / here:11.2f} {here / write:17,.0f} "
            f"{1e3 * scale * cpu / len(blocks):13.1f} {1e3 * scale * one:15.1f} "
            f"{1e3 * scale * everything:15.1f}{star}",
            flush=True,
        )


def step_of(milliseconds: float) -> Callable[[], Any]:
    """A step that keeps TensorFlow busy for about so long, found by trying."""
    weights = tf.random.normal((96, 96))

    @tf.function
    def multiply(times: tf.Tensor) -> tf.Tensor:
        return tf.foldl(lambda x, _: tf.tanh(x @ weights), tf.range(times), weights)

    def busy(times: int) -> Callable[[], Any]:
        given = tf.constant(times)
        multiply(given)
        return lambda: multiply(given).numpy()

    times = 200.0
    for _ in range(2):  # a call costs something, too, so that the first guess is too long
        step = busy(round(times))
        took = 1e3 * statistics.median(timed(step)[0] for _ in range(100))
        times = max(1.0, times * milliseconds / took)
    return busy(round(times))


def train(
    step: Callable[[], Any], steps: int, window: int, watcher: Any, blocks: list[Block]
) -> float:
    """Seconds that a training takes, which hands over a block at every window's begin."""
    start = time.perf_counter()
    for number in range(steps):
        if watcher is not None and number % window == 0:
            watcher.submit(blocks[number // window])
        step()
    return time.perf_counter() - start


def race(step: Callable[[], Any], kind: str, folder: Path, info: RunInfo, blocks: Any) -> float:
    steps, window = len(blocks) * info.tables[0].window, info.tables[0].window
    if kind == "none":
        return train(step, steps, window, None, blocks)
    table = ZarrTableWriter if kind == "zarr-python" else writer.TableWriter
    with mock.patch.object(writer, "TableWriter", table):
        watcher = BackgroundWriter(lambda: opened(folder / "run", info), max_wait=None)
        while not (folder / "run" / "worker-0000-start-0000" / TABLE).is_dir():
            time.sleep(0.05)
        time.sleep(0.2)  # its arrays are made, which is not what is measured
        seconds = train(step, steps, window, watcher, blocks)
        watcher.close()
    if watcher.error or watcher.committed != steps:
        raise RuntimeError(f"{watcher.committed} of {steps} steps written: {watcher.error}")
    shutil.rmtree(folder / "run")
    return seconds


def compare_steps(chosen: argparse.Namespace, folder: Path) -> None:
    info = info_of(chosen.signals, chosen.replicas, chosen.window)
    (made,) = blocks_of(info, 1)
    kinds = ["none", "distwatch", "zarr-python"]
    print(f"\n{'step, ms':>8} {'blocks':>6} " + " ".join(f"{kind:>20}" for kind in kinds[1:]))
    for milliseconds in map(float, filter(None, chosen.steps.split(","))):
        step = step_of(milliseconds)
        # Short turns, so that what else the machine does meets neighbours alike.
        count = max(1, round(1000 / milliseconds / chosen.window))
        blocks = [
            replace(made, step=made.step + n * chosen.window, iteration=made.iteration)
            for n in range(count)
        ]
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(chosen.rounds):
            for kind in kinds if turn % 2 else reversed(kinds):
                seconds[kind].append(race(step, kind, folder, info, blocks))
        took = 1e3 * statistics.median(seconds["none"]) / count / chosen.window
        slower = [
            [b / a for a, b in zip(seconds["none"], seconds[kind], strict=True)]
            for kind in kinds[1:]
        ]
        told = [
            f"{statistics.median(each):6.3f} ({min(each):.2f}-{max(each):.2f})"
            for each in slower
        ]
        print(f"{took:8.2f} {count:6} " + " ".join(f"{text:>20}" for text in told), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--signals", type=int, default=100)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--window", type=int, default=256, help="steps in a block")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--event-steps", type=int, default=1, help="steps in event files")
    parser.add_argument("--formats", default=",".join(FORMATS), help='some, or "" for none')
    parser.add_argument("--steps", default="0.6,10", help='milliseconds a step, or ""')
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if chosen.formats:
            compare_formats(chosen, Path(folder))
        if chosen.steps:
            compare_steps(chosen, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
