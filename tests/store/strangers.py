"""Runs that somebody made to harm whoever opens them: a name -> how a run is spoiled.

As a program it opens the runs that it is given, one after the other, with only a little more
memory than it has, and says what came of each as JSON:

    python tests/store/strangers.py run.zarr ...
"""

import io
import json
import os
import resource
import shutil
import struct
import sys
import time
import warnings
from pathlib import Path

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc

import distwatch as dw
from distwatch.errors import DamagedRowsWarning, DistwatchError
from distwatch.export import Wanted, write_csv
from distwatch.records import Block, RunInfo, Table, TensorLayout, Tensors
from distwatch.report.page import page
from distwatch.report.reading import read_runs
from distwatch.signals import Signal
from distwatch.statistics import ROW, merge_axis
from distwatch.store import StoredRun, StoreWriter, claim, now
from distwatch.store.documents import sealed
from distwatch.store.encoding import encode_chunk
from distwatch.store.schema import root_attributes
from distwatch.testing.fake import fake_run

SEGMENT = "worker-0000-start-0000"
TABLE = f"{SEGMENT}/table-00"
STEPS, REPLICAS, SIGNALS, WINDOW = 21, 3, 12, 8

#: How much more than it has a reader may ask for.
ROOM = 1_000_000_000

EXTRA = 10**10


def run_at(path):
    """A run without fault, of twelve signals, so that there are shards."""
    names = [f"activation/dense_{i}" for i in range(SIGNALS)]
    return fake_run(path, steps=STEPS, replicas=REPLICAS, signals=names, window=WINDOW).path


def tensor_run_at(path):
    """A run of raw deltas: two replicas with other numbers of rows."""
    layout = TensorLayout((2,), None, "float32")
    table = Table("table-00", (Signal("tensor/x"),), "every(1)", 4, tensor=layout)
    info = RunInfo((table,), (0, 1), "made up", {})
    claim(path, root_attributes(info, now()))
    writer = StoreWriter(path, info)
    rows = np.ones((4, 2, 1, len(ROW.fields)))
    values = np.arange(48, dtype=np.float32).reshape(4, 2, 3, 2)
    step = np.arange(4)
    merged, valid = merge_axis(ROW, rows, axis=1), np.full((4, 2), 3)
    tensors = Tensors(values, valid)
    writer.append(Block("table-00", step, step, step, rows, merged, tensors))
    writer.close()
    return path


def changed(path, change):
    """Change what a document says, as one who computes its checksum anew."""
    file = path / "zarr.json"
    document = json.loads(file.read_text())
    change(document)
    ours = document["attributes"]["distwatch"]
    if isinstance(ours, dict) and ours.pop("crc32", None) is not None:
        document = sealed(document)
    file.write_text(json.dumps(document))


def says(group, **values):
    """Spoil by other values of our attributes in a group."""

    def spoil(path):
        changed(path / group, lambda d: d["attributes"]["distwatch"].update(values))

    return spoil


def array_says(name, **values):
    """Spoil by other metadata of an array."""

    def spoil(path):
        changed(
            path / TABLE, lambda d: d["consolidated_metadata"]["metadata"][name].update(values)
        )

    return spoil


def codecs(*names, of="step"):
    """Spoil by other codecs of an array."""
    return array_says(of, codecs=[{"name": name, "configuration": {}} for name in names])


def sized(*, steps=STEPS, window=None, rows=None):
    """Spoil by sizes that contradict nothing but what lies there."""

    def change(document):
        ours = document["attributes"]["distwatch"]
        ours.update(committed=steps, window=window or ours["window"])
        for name, array in document["consolidated_metadata"]["metadata"].items():
            if name in ("replica", "signal", "field"):
                continue
            chunk = array["chunk_grid"]["configuration"]["chunk_shape"]
            array["shape"][0] = steps
            if window:
                chunk[0] = 32 * window if len(chunk) == 1 else window
                first = array["codecs"][0]
                if first["name"] == "sharding_indexed":
                    first["configuration"]["chunk_shape"][0] = window
            if name == "tensor" and rows:
                array["shape"][2], chunk[2] = rows, rows

    return lambda path: changed(path / TABLE, change)


def chunk(name, key, make):
    """Spoil a chunk: make() gives its bytes from those that were there."""

    def spoil(path):
        file = path / TABLE / name / key
        file.write_bytes(make(file.read_bytes()))

    return spoil


def checksummed(content):
    return content + google_crc32c.value(content).to_bytes(4, "little")


def zeros(compressor, nbytes):
    """A bomb: few bytes that Blosc unpacks to many."""
    packed = Blosc(cname=compressor, clevel=5, shuffle=0).encode(np.zeros(nbytes, "u1"))
    return lambda _: checksummed(packed)


def header(at, value):
    """Another number in Blosc's header."""

    def make(content):
        spoilt = bytearray(content[:-4])
        spoilt[at : at + 4] = struct.pack("<I", value)
        return checksummed(bytes(spoilt))

    return make


def index(spoil):
    """Another index of a shard of two chunks."""

    def make(content):
        places = np.frombuffer(content[-36:-4], "<u8").reshape(2, 2).copy()
        spoil(places)
        return content[:-36] + checksummed(places.tobytes())

    return make


def overlap(places):
    places[1] = places[0]


def absent(places):
    places[1] = 2**64 - 1


def far(places):
    places[1] = (2**64 - 8, 7)


def steps_are(values):
    whole = np.full(32 * WINDOW, -1)
    whole[:STEPS] = values
    return lambda _: encode_chunk(whole)


def instead(key, make):
    """Put something else in the place of a file or folder, which is moved out of the run."""

    def spoil(path):
        place, moved = path / key, path.parent / f"{path.name}-moved"
        place.rename(moved)
        make(place, moved)

    return spoil


def pipe(place, moved):
    os.mkfifo(place)


def folder(place, moved):
    place.mkdir()


def link(place, moved):
    """To what was there, which lies outside of the run now."""
    place.symlink_to(moved)


def device(place, moved):
    place.symlink_to("/dev/zero")


def longer(key):
    """Make a file very long, with nothing on the disk."""
    return lambda path: os.truncate(path / key, EXTRA)


def text(group, written):
    """Other text in the place of a document."""
    return lambda path: (path / group / "zarr.json").write_text(written)


def in_text(group, old, new):
    def spoil(path):
        file = path / group / "zarr.json"
        changed(path / group, lambda d: d["attributes"]["distwatch"].update(crc32=None))
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return spoil


def another_worker(path):
    """A second worker that claims to have the replicas of the first."""
    other = path / "worker-0001-start-0000"
    shutil.copytree(path / SEGMENT, other)
    changed(other, lambda d: d["attributes"]["distwatch"].update(worker=1))


def file_for_a_segment(path):
    (path / "worker-0007-start-0000").write_text("not a folder")


DEEP = "[" * 100_000
HISTOGRAM = {"name": "histogram", "accuracy": 0.0001, "smallest": 1e-37, "largest": 1e38}
NAMES = [{"name": f"a/{i}", "reference": "none"} for i in range(SIGNALS)]

#: What is done to a run -> the words by which it has to be refused.
REFUSED = {
    # Codecs and dtypes are not looked up.
    "codec-unknown": (codecs("numcodecs.pickle"), "has codecs"),
    "codec-zstd": (codecs("bytes", "zstd", "crc32c"), "has codecs"),
    "codec-gzip": (codecs("bytes", "gzip", "crc32c"), "has codecs"),
    "codec-no-checksum": (codecs("bytes", "blosc"), "has codecs"),
    "codec-settings": (
        array_says("step", codecs=[{"name": "bytes", "configuration": {"endian": "big"}}]),
        "has codecs",
    ),
    "codec-deep": (array_says("step", codecs=json.loads("[" * 400 + "]" * 400)), "has codecs"),
    "dtype-object": (array_says("rows", data_type="object"), "has data_type"),
    "dtype-null-terminated": (
        array_says(
            "step",
            data_type={
                "name": "null_terminated_bytes",
                "configuration": {"length_bytes": 2**31 - 1},
            },
        ),
        "has data_type",
    ),
    "fill": (array_says("rows", fill_value=0.0), "has fill_value"),
    "separator": (
        array_says("rows", chunk_key_encoding={"name": "v2", "configuration": {}}),
        "has chunk_key_encoding",
    ),
    "transformers": (array_says("rows", storage_transformers=[{"name": "x"}]), "transformers"),
    "label-size": (array_says("signal", shape=[10**12]), "has shape"),
    # Sizes.
    "steps": (sized(steps=10**15), "has 2 files, and its shape wants 3,906,250,000,000"),
    "steps-some": (sized(steps=10**6), "has 2 files, and its shape wants"),
    "window": (sized(window=10**12), "fit into a ring"),
    "window-large": (sized(window=10**5), "fit into a ring"),
    "replicas": (says(SEGMENT, replicas=list(range(10**6))), "expected up to 8192"),
    "replicas-within": (says(SEGMENT, replicas=list(range(8192))), "has shape"),
    "replicas-twice": (says(SEGMENT, replicas=[0, 1, 1]), "different numbers"),
    "replicas-none": (says(SEGMENT, replicas=[]), "different numbers"),
    "signals": (
        says(TABLE, signals=[{"name": f"{i}", "reference": "none"} for i in range(10**5)]),
        "fit into a ring",
    ),
    "signals-millions": (
        says(TABLE, signals=[{"name": f"{i}", "reference": "none"} for i in range(6 * 10**5)]),
        "more than 16777216 bytes",
    ),
    "signals-twice": (says(TABLE, signals=NAMES[:-1] + NAMES[:1]), "each once"),
    "signal-name": (
        says(TABLE, signals=[{"name": "x" * 10**6, "reference": "none"}]),
        "signals.0.name='xxx",
    ),
    "histogram": (says(TABLE, statistics=[HISTOGRAM]), "at most 1 steps fit into a ring"),
    "histogram-small": (
        says(TABLE, statistics=[{"name": "histogram", "accuracy": 0.05}]),
        "array 'histogram' is not there",
    ),
    "histograms": (says(TABLE, statistics=[HISTOGRAM] * 1000), "expected each once"),
    "histogram-nonsense": (says(TABLE, statistics=[{**HISTOGRAM, "largest": 1e300}]), "1e+300"),
    "statistic-unknown": (says(TABLE, statistics=[{"name": "__import__"}]), "unknown statist"),
    # Numbers that are none.
    "committed-true": (
        says(TABLE, committed=True),
        "=True: expected a whole number",
    ),
    "committed-negative": (
        says(TABLE, committed=-1),
        "committed=-1: expected a whole number from",
    ),
    "committed-text": (
        says(TABLE, committed="21"),
        "='21': expected a whole number",
    ),
    "committed-part": (
        says(TABLE, committed=21.5),
        "=21.5: expected a whole number",
    ),
    "committed-infinite": (
        in_text(TABLE, '"committed": 21', '"committed": 1e309'),
        "=inf: expected a",
    ),
    "committed-nan": (in_text(TABLE, '"committed": 21', '"committed": NaN'), "NaN is no JSON"),
    "committed-long": (
        in_text(TABLE, '"committed": 21', '"committed": 9' + "9" * 5000),
        "description is damaged",
    ),
    "lost": (says(TABLE, lost=2**80), "lost="),
    "began": (says(SEGMENT, provenance={"began": "now"}), "began='now'"),
    "commit": (says(SEGMENT, provenance={"began": 1.0, "commit": "main"}), "commit='main'"),
    "first-step": (says(SEGMENT, first_step=1e309), "Infinity is no JSON"),
    "worker": (says(SEGMENT, worker=[]), "worker=[]: expected a whole number"),
    "phase": (says(SEGMENT, phase="../train"), "expected one of train, test"),
    "ended": (says(TABLE, ended={"a": 1}), "expected a string"),
    "created": (says("", created=["a"]), "expected a string"),
    "unwatched": (says(SEGMENT, unwatched={"a": {}}), "expected names and texts"),
    "versions": (says(SEGMENT, versions=[["a", "b"]]), "expected keys and their values"),
    # Documents.
    "root-deep": (text("", DEEP), "is no distwatch run"),
    "segment-deep": (text(SEGMENT, DEEP), "RecursionError"),
    "table-deep": (text(TABLE, '{"a":' * 100_000), "RecursionError"),
    "root-long": (longer("zarr.json"), "more than 16777216 bytes"),
    "table-long": (longer(f"{TABLE}/zarr.json"), "more than 16777216 bytes"),
    "table-empty": (text(TABLE, ""), "description is damaged"),
    "table-array": (text(TABLE, "[]"), "description is damaged"),
    "table-binary": (
        lambda p: (p / TABLE / "zarr.json").write_bytes(b"\xff\xfe\x00"),
        "damaged",
    ),
    "root-pipe": (instead("zarr.json", pipe), "there is no zarr.json"),
    # Paths.
    "table-above": (says(SEGMENT, tables=["../../x"]), "is no name of a group"),
    "table-root": (says(SEGMENT, tables=["/etc"]), "is no name of a group"),
    "group-above": (says(SEGMENT, groups={"table-00": ".."}), "is no name of a group"),
    "group-escape": (says(SEGMENT, groups={"table-00": "a\x1b[31m"}), "is no name of a group"),
    "group-twice": (says(SEGMENT, tables=["table-00", "table-00"]), "tables="),
    "root-link": (instead("zarr.json", link), "is a link out of the run"),
    "segment-link": (instead(SEGMENT, link), "is a link out of the run"),
    "table-link": (instead(TABLE, link), "is a link out of the run"),
    "array-link": (instead(f"{TABLE}/rows", link), "is a link out of the run"),
    "chunk-link": (instead(f"{TABLE}/rows/c.1.0.0.0", link), "is a link out of the run"),
    "chunk-device": (instead(f"{TABLE}/step/c.0", device), "a link out of the run"),
    "chunk-pipe": (instead(f"{TABLE}/step/c.0", pipe), "is missing"),
    "chunk-folder": (instead(f"{TABLE}/step/c.0", folder), "is missing"),
    # Chunks.
    "chunk-long": (longer(f"{TABLE}/step/c.0"), "it has more than 2068 bytes"),
    "shard-long": (longer(f"{TABLE}/rows/c.0.0.0.0"), "it has more than"),
    "chunk-empty": (chunk("step", "c.0", lambda _: b""), "is damaged"),
    "bomb-zstd": (chunk("step", "c.0", zeros("zstd", 2**22)), "unpack to 4194304"),
    "bomb-large": (chunk("step", "c.0", zeros("zstd", 2**28)), "it has more than 2068 bytes"),
    "bomb-zlib": (chunk("step", "c.0", zeros("zlib", 8 * 32 * WINDOW)), "by compressor 3"),
    "bomb-lz4": (chunk("step", "c.0", header(4, 2**31 - 17)), "unpack to 2147483631"),
    "bomb-in-shard": (
        chunk("rows", "c.0.0.0.0", index(lambda places: places.__setitem__((1, 1), 2**40))),
        "out of its bounds",
    ),
    "header-length": (chunk("step", "c.0", header(12, 10**9)), "1000000000 bytes unpack"),
    "shard-overlap": (chunk("rows", "c.0.0.0.0", index(overlap)), "chunks in it overlap"),
    "shard-absent": (chunk("rows", "c.0.0.0.0", index(absent)), "is missing, or out of its"),
    "shard-far": (chunk("rows", "c.0.0.0.0", index(far)), "is missing, or out of its"),
    "steps-fall": (chunk("step", "c.0", steps_are(np.arange(STEPS)[::-1])), "do not rise"),
    "steps-same": (chunk("step", "c.0", steps_are(np.zeros(STEPS))), "do not rise"),
    "steps-negative": (chunk("step", "c.0", steps_are(np.arange(STEPS) - 50)), "do not rise"),
    "two-workers": (another_worker, "each of one worker"),
}

#: What is done to a run of raw deltas.
REFUSED_TENSORS = {
    "rows": (sized(steps=4, rows=10**8), "would have 6,400,000,000 bytes, and its files"),
    "rows-more": (sized(steps=4, rows=10**12), "no distwatch writes more"),
    "rows-pieces": (
        array_says("tensor", shape=[4, 2, 10**12, 2]),
        "files, and its shape wants 333,333,333,334",
    ),
    "rows-true": (array_says("tensor", shape=[4, 2, True, 2]), "rows of a batch"),
    "rows-none": (array_says("tensor", shape=[4, 2]), "description is damaged"),
    "features": (
        says(TABLE, tensor={"features": [10**9], "reduce": None, "dtype": "float32"}),
        "has shape",
    ),
    "features-many": (
        says(TABLE, tensor={"features": [1] * 40, "reduce": None, "dtype": "float32"}),
        "at most 30 items",
    ),
    "dtype": (
        says(TABLE, tensor={"features": [2], "reduce": None, "dtype": "O"}),
        "expected 'float32' or 'float16'",
    ),
}


def everything(path):
    """All that a person may ask of a run."""
    run = dw.open_run(path)
    repr(run)
    run.summary()
    run.to_xarray()
    run.to_xarray(merged=True)
    for name in run.signals:
        if name.startswith("tensor/"):
            run.tensor(name)
    return [str(damage) for damage in run.verify()]


def report(path):
    """A page of it."""
    page(read_runs([path]), None)
    return []


def export(path):
    """Its rows as a table, which every exported file is made of."""
    write_csv(StoredRun(path), Wanted(), io.StringIO())
    return []


#: What a person may do with a run.
ASKS = (everything, report, export)


def outcome(path, ask):
    """What comes of it: the kind of the error or warning, its words, seconds of work."""
    began = time.process_time()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", DamagedRowsWarning)
            said = ["damage", *ask(path)]
        if warned:
            said = [warned[0].category.__name__, str(warned[0].message)]
    except DistwatchError as error:
        said = [type(error).__name__, str(error)]
    except Exception as error:
        said = ["untold", f"{type(error).__name__}: {error}"]
    return [*said, time.process_time() - began]


def _virtual_bytes():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    first = run_at(Path(sys.argv[1]) / "first.zarr")
    for ask in ASKS:
        ask(first)  # What is loaded once is loaded now.
    room = _virtual_bytes() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    for path in sys.argv[2:]:
        print(json.dumps({ask.__name__: outcome(path, ask) for ask in ASKS}), flush=True)
