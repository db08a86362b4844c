"""What distwatch encodes itself is standard Zarr: three readers see it bit for bit."""

import asyncio
import itertools
import json
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorstore
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from test_writing import NAME, TABLE, assert_holds, block_of, info_of, writer_at
from zarr.storage import MemoryStore

from distwatch.records import Block, RunInfo, Table, TensorLayout, Tensors
from distwatch.signals import Signal
from distwatch.statistics import ROW
from distwatch.store import StoredRun, encoding, locations
from distwatch.store.documents import group_document
from distwatch.store.folders import Folder
from distwatch.store.layout import ArrayLayout
from distwatch.store.locations import Bucket
from distwatch.store.schema import ATTRIBUTE

DIMS = ("step", "replica", "signal", "field")


def spec_of(shard, chunk=None, dtype="float64"):
    fill = -1 if dtype.startswith("int") else float("nan")
    dims = DIMS[: len(shard)]
    return ArrayLayout("values", dims, (0, *shard[1:]), shard, chunk or shard, dtype, fill)


def values_of(shape, dtype, seed=0):
    """Values of which every one is another, the hard ones of a float among them."""
    values = np.random.default_rng(seed).permutation(np.arange(np.prod(shape)) + 1)
    values = values.astype(dtype)
    hard = [np.nan, np.inf, -np.inf, -0.0, np.finfo("float16").tiny]
    if dtype.startswith("int"):
        hard = [np.iinfo(dtype).min, np.iinfo(dtype).max, -1, 0]
    values[: len(hard)] = hard[: len(values)]
    return np.random.default_rng(seed + 1).permutation(values).reshape(shape)


def write(folder, spec, pieces):
    """Write pieces, (where they start, values), into an array of a group called ``g``."""
    location = Folder(Path(folder))
    encoder = encoding.ChunkEncoder(spec)
    steps = 0
    for start, values in pieces:
        chunks = encoder.chunks(start, values)
        location.write((f"g/{spec.name}/{key}", content) for key, content in chunks)
        steps = start + len(values)
    metadata = encoder.metadata(steps)
    location.write(
        [
            ("zarr.json", group_document({ATTRIBUTE: {}})),
            ("g/zarr.json", group_document({ATTRIBUTE: {}}, {spec.name: metadata})),
            (f"g/{spec.name}/zarr.json", json.dumps(metadata).encode()),
        ]
    )


def by_zarr(group, name):
    return zarr.open_group(group, mode="r")[name][...]


def by_tensorstore(group, name):
    where = {"driver": "file", "path": str(group / name)}
    return tensorstore.open({"driver": "zarr3", "kvstore": where}).result().read().result()


def by_xarray(group, name):
    # Masked values would become NaN: what is meant here is what is stored.
    return xr.open_zarr(group, mask_and_scale=False)[name].values


READERS = [by_zarr, by_tensorstore, by_xarray]


def assert_read(group, name, wanted):
    for reader in READERS:
        got = reader(group, name)
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype), reader
        # Bit for bit, so that -0.0 is not 0.0, and NaN is NaN.
        assert got.tobytes() == wanted.tobytes(), reader


@st.composite
def layouts(draw):
    """A layout, and the lengths of the pieces in which it is written."""
    rank = draw(st.integers(1, 4))
    chunk = tuple(draw(st.integers(1, 5)) for _ in range(rank))
    times = [draw(st.integers(1, 3)) for _ in range(rank)]
    shard = tuple(n * m for n, m in zip(chunk, times, strict=True))
    dtype = draw(st.sampled_from(["float64", "int64", "float32", "float16"]))
    lengths = draw(st.lists(st.integers(0, 12), min_size=1, max_size=5))
    return spec_of(shard, draw(st.sampled_from([chunk, shard])), dtype), lengths


@settings(max_examples=50, deadline=None)
@given(layouts())
def test_what_is_written_is_read(layout):
    spec, lengths = layout
    wanted = values_of((sum(lengths), *spec.shape[1:]), spec.dtype)
    ends = list(itertools.accumulate(lengths))
    pieces = [(e - n, wanted[e - n : e]) for e, n in zip(ends, lengths, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        write(folder, spec, pieces)
        assert_read(Path(folder) / "g", "values", wanted)


LAYOUTS = {
    "coordinate": spec_of((32,), dtype="int64"),
    "chunks": spec_of((8, 3, 5)),
    "shards": spec_of((8, 2, 6, 4), (8, 2, 3, 4)),
    "shards of one chunk a signal": spec_of((4, 1, 7, 2), (4, 1, 1, 2)),
    "single values": spec_of((1, 1), dtype="int64"),
    "raw tensors": spec_of((1, 1, 4, 3), dtype="float16"),
}


@pytest.fixture(params=LAYOUTS)
def spec(request):
    return LAYOUTS[request.param]


def test_the_same_place_is_written_again(tmp_path, spec):
    """A tail is replaced by its superset, also one that other values follow."""
    length = spec.shard[0]
    wanted = values_of((3 * length, *spec.shape[1:]), spec.dtype)
    other = values_of(wanted.shape, spec.dtype, seed=5)
    begin = length + length // 2
    pieces = [
        (0, wanted[:begin]),
        (begin, other[begin : begin + 1]),
        (begin, wanted[begin : begin + 1]),
        (begin, wanted[begin:-1]),
    ]
    write(tmp_path, spec, pieces)
    assert_read(tmp_path / "g", "values", wanted[:-1])


def test_values_of_another_byte_order_and_layout_in_memory(tmp_path, spec):
    wanted = values_of((5, *spec.shape[1:]), spec.dtype)
    other = np.asfortranarray(wanted.astype(wanted.dtype.newbyteorder(">")))
    write(tmp_path, spec, [(0, other)])
    assert_read(tmp_path / "g", "values", wanted)


def test_an_array_grows_along_its_other_dims(tmp_path):
    wide = values_of((2, 3, 5, 2), "float32")
    narrow, wider = wide[:, :, :2], values_of((2, 3, 9, 2), "float32", seed=3)
    layout = ArrayLayout(
        "values", ("step", "replica", "batch", "dim_1"), (0, 3, 4, 2), *2 * [(1, 1, 4, 2)],
        "float32", float("nan"),
    )  # fmt: skip
    write(tmp_path, layout, [(0, narrow), (2, wider), (4, wide)])
    wanted = np.full((6, 3, 9, 2), np.nan, "float32")
    wanted[:2, :, :2], wanted[2:4], wanted[4:, :, :5] = narrow, wider, wide
    assert_read(tmp_path / "g", "values", wanted)


@pytest.mark.parametrize("layout", ["coordinate", "chunks", "shards"])
def test_chunks_of_nothing_but_fill_are_there(tmp_path, layout):
    spec = LAYOUTS[layout]
    length = spec.shard[0]
    wanted = np.full((2 * length, *spec.shape[1:]), spec.fill, spec.dtype)
    write(tmp_path, spec, [(0, wanted)])
    files = {p.name for p in (tmp_path / "g" / "values").iterdir()} - {"zarr.json"}
    assert files == {".".join(["c", n, *"0" * len(spec.shape[1:])]) for n in "01"}
    assert_read(tmp_path / "g", "values", wanted)
    if layout == "shards":
        # The index, a checksum behind it, says of each inner chunk where it is.
        last = (tmp_path / "g" / "values" / "c.1.0.0.0").read_bytes()
        index = np.frombuffer(last[-36:-4], "<u8").reshape(2, 2)
        assert list(index[:, 0]) == [0, index[0, 1]]
        assert index[:, 1].sum() == len(last) - 36


def test_a_gap_is_refused(spec):
    encoder = encoding.ChunkEncoder(spec)
    values = values_of((1, *spec.shape[1:]), spec.dtype)
    dict(encoder.chunks(0, values))
    if spec.shard[0] == 1:
        return  # No chunk lacks what was before it.
    with pytest.raises(ValueError, match=r"'values'.* up to 1; write them in order"):
        encoder.chunks(2 if spec.shard[0] > 2 else 3, values)
    with pytest.raises(ValueError, match="write them in order"):
        encoder.chunks(spec.shard[0] + 1, values)


@pytest.mark.parametrize("layout", ["coordinate", "chunks", "shards"])
@pytest.mark.parametrize("reader", READERS)
def test_every_flipped_bit_is_refused_by_every_reader(tmp_path, layout, reader):
    spec = LAYOUTS[layout]
    wanted = values_of((spec.shard[0], *spec.shape[1:]), spec.dtype)
    write(tmp_path, spec, [(0, wanted)])
    (chunk,) = (tmp_path / "g" / "values").glob("c.*")
    whole = chunk.read_bytes()
    bits = np.random.default_rng(0).choice(8 * len(whole), 30, replace=False)
    for bit in [0, *bits, 8 * len(whole) - 1]:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << (bit % 8)
        chunk.write_bytes(content)
        # Tensorstore unpacks while it reads, and meets some of them before the checksum.
        with pytest.raises(ValueError, match=r"(?i)checksum|crc|digest|blosc"):
            reader(tmp_path / "g", "values")
    chunk.write_bytes(whole)
    assert_read(tmp_path / "g", "values", wanted)


def test_metadata_say_what_the_encoder_does(tmp_path, spec):
    """Zarr-python itself, by the metadata, encodes the same as it reads back from ours."""
    wanted = values_of((3 * spec.shard[0], *spec.shape[1:]), spec.dtype)
    write(tmp_path, spec, [(0, wanted)])
    array = zarr.open_group(tmp_path / "g")["values"]
    array[spec.shard[0] :] = wanted[spec.shard[0] :]
    assert_read(tmp_path / "g", "values", wanted)


def tensor_info(window=4):
    table = Table(
        TABLE,
        (Signal("output"),),
        "every(1)",
        window,
        tensor=TensorLayout((3,), None, "float32"),
    )
    return RunInfo(tables=(table,), replicas=(0, 1), strategy="made up", versions={})


def test_raw_tensors_of_batches_that_grow(tmp_path):
    info = tensor_info()
    run = writer_at(tmp_path / "run.zarr", info)
    wanted = np.full((9, 2, 7, 3), np.nan, "float32")
    sizes = [2, 2, 1, 2, 7, 3, 3, 3, 5]
    for step, size in enumerate(sizes):
        values = values_of((1, 2, size, 3), "float32", seed=step)
        wanted[step : step + 1, :, :size] = values
        rows = np.zeros((1, 2, 1, len(ROW.fields)))
        tensors = Tensors(values, np.full((1, 2), size))
        place = np.array([step])
        run.append(Block(TABLE, place, place, place, rows, rows[:, 0], tensors))
        run.commit_tail()
    run.close()
    group = tmp_path / "run.zarr" / NAME / TABLE
    assert_read(group, "tensor", wanted)
    assert_read(group, "valid", np.repeat(np.array(sizes)[:, None], 2, axis=1))
    # What a short batch does not reach into was never written, and is no damage.
    stored = StoredRun(tmp_path / "run.zarr")
    assert [damage for _, damage in stored.verify() if damage] == []
    (group / "tensor" / "c.4.0.3.0").unlink()
    (damage,) = [damage for _, damage in stored.verify() if damage]
    assert (damage.array, damage.first, damage.why) == ("tensor", 4, "it is missing")


@pytest.mark.parametrize("signals", [3, 12])
def test_a_run_that_was_given_up_half_way_can_be_read(tmp_path, signals):
    """Chunks of a block that failed are no steps, though their arrays were to grow."""

    full = False
    write_file = Folder._write_file

    def filling_up(folder, path, content):
        if full and path.parent.name == "rows":
            raise OSError("disk full")
        return write_file(folder, path, content)

    info = info_of(signals)
    with mock.patch.object(Folder, "_write_file", filling_up):
        run = writer_at(tmp_path / "run.zarr", info)
        run.append(block_of(info, 0, 13))
        full = True
        with pytest.raises(OSError, match="disk full"):
            run.append(block_of(info, 13, 9))
        run.give_up("OSError: disk full", {TABLE: 0})
    assert_holds(tmp_path / "run.zarr", info, 8)
    assert StoredRun(tmp_path / "run.zarr").tables[TABLE].lost == 5


def test_of_a_closed_run_each_array_says_its_shape_itself(tmp_path):
    info = info_of(12)
    run = writer_at(tmp_path / "run.zarr", info)
    run.append(block_of(info, 0, 19))
    table = tmp_path / "run.zarr" / NAME / TABLE
    assert zarr.open_array(table / "rows", mode="r").shape[0] == 0
    run.close()
    for name, wanted in (("step", (19,)), ("rows", (19, 2, 12, 11)), ("merged", (19, 12, 11))):
        assert zarr.open_array(table / name, mode="r").shape == wanted


class PacedStore(MemoryStore):
    """Remembers what it was given; fails at ``bad``, and takes its time over the rest."""

    def __init__(self):
        super().__init__()
        self.begun, self.done, self.most = 0, 0, 0

    async def set(self, key, value):
        self.begun += 1
        self.most = max(self.most, self.begun - self.done)
        if key == "bad":
            raise OSError("full")
        await asyncio.sleep(0.02)
        await super().set(key, value)
        self.done += 1


def test_when_a_put_has_failed_nothing_is_being_written():
    store = PacedStore()
    with pytest.raises(OSError, match="full"):
        Bucket("memory://paced", store).write([("bad", b"1"), ("good", b"2"), ("better", b"3")])
    assert (store.begun, store.done) == (3, 2)


def test_what_is_put_is_made_while_it_is_written():
    """Of a block's chunks only some are in memory, and only some on their way."""
    store = PacedStore()
    made = 0

    def chunks():
        nonlocal made
        for number in range(60):
            made += 1
            assert made - store.done <= 20
            yield f"c.{number}", bytes(10)

    with mock.patch.object(locations, "_BATCH_BYTES", 200):
        Bucket("memory://paced", store).write(chunks())
    assert store.done == made == 60
    assert 1 < store.most <= zarr.config.get("async.concurrency")
