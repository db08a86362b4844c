"""Whatever happens to a store's files is found, named, and harms nothing else."""

import json
import random
import shutil

import numpy as np
import pytest

import distwatch as dw
from distwatch.errors import DamagedStoreError, StoreError
from distwatch.store.tables import Damage
from distwatch.testing.fake import fake_run

TABLE = "worker-0000-start-0000/table-00"
FLIPS = 300


@pytest.fixture
def fake(tmp_path):
    # Twelve signals, so that there are shards with inner chunks.
    names = [f"activation/dense_{i}" for i in range(12)]
    return fake_run(tmp_path / "run.zarr", steps=21, replicas=3, signals=names)


def everything(path):
    """All that a reader can be asked for."""
    run = dw.open_run(path)
    facts = (run.info, len(run), run.lost, run.segments)
    return facts, run.to_xarray(), run.to_xarray(merged=True)


def test_every_flipped_bit_of_data_is_found(fake):
    files = [f for f in (fake.path / TABLE).rglob("*") if f.is_file()]
    chunks = [file for file in files if file.name != "zarr.json"]
    sizes = [file.stat().st_size for file in chunks]
    rng = random.Random(0)
    found = 0
    for chunk in rng.choices(chunks, sizes, k=FLIPS):
        whole = chunk.read_bytes()
        bit = rng.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << (bit % 8)
        chunk.write_bytes(flipped)
        damage = dw.open_run(fake.path).verify()
        found += [each.file for each in damage] == [chunk]
        chunk.write_bytes(whole)
    assert found == FLIPS
    assert dw.open_run(fake.path).verify() == []


def test_every_flipped_bit_of_descriptions_is_an_error_or_harmless(fake):
    """Harmless: in what nobody reads, as the arrays' own documents."""
    before = everything(fake.path)
    documents = sorted(fake.path.rglob("zarr.json"))
    read = [f for f in documents if f.parent.name in ("run.zarr", "table-00")]
    read += [f for f in documents if f.parent.name.startswith("worker")]
    rng = random.Random(1)
    found = 0
    for file in rng.choices(read, k=FLIPS):
        whole = file.read_bytes()
        bit = rng.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(flipped)
        try:
            facts, rows, merged = everything(fake.path)
        except StoreError:
            found += 1
        else:
            assert facts == before[0]
            assert rows.identical(before[1])
            assert merged.identical(before[2])
        file.write_bytes(whole)
    # What is left is in words that no reader of a group looks at, and in blanks.
    assert found > 0.9 * FLIPS


JUNK = [None, True, -1, 10**30, 0.5, "", "x" * 1000, [], {}, [[]], {"a": 1}, "\x00", "../.."]


def test_descriptions_that_say_nonsense_are_errors(fake):
    """Each value of each document in turn, in a document without a checksum."""
    rng = random.Random(2)
    groups = (fake.path, (fake.path / TABLE).parent, fake.path / TABLE)
    for file in [group / "zarr.json" for group in groups]:
        whole = json.loads(file.read_text())
        whole["attributes"]["distwatch"]["crc32"] = None
        for place in _places(whole):
            changed = json.loads(json.dumps(whole))
            _put(changed, place, rng.choice(JUNK))
            file.write_text(json.dumps(changed))
            try:
                everything(fake.path)
            except StoreError as error:
                assert str(fake.path) in str(error)
        file.write_text(json.dumps(whole))
    everything(fake.path)


def _places(document, above=()):
    if isinstance(document, (dict, list)):
        keys = document if isinstance(document, dict) else range(len(document))
        for key in keys:
            yield (*above, key)
            yield from _places(document[key], (*above, key))


def _put(document, place, value):
    for key in place[:-1]:
        document = document[key]
    document[place[-1]] = value


@pytest.mark.parametrize(
    ("name", "key", "first", "stop"),
    [
        ("step", "c.0", 0, 21),
        ("epoch", "c.0", 0, 21),
        ("rows", "c.1.0.0.0", 8, 16),
        ("merged", "c.1.0.0", 8, 16),
    ],
)
def test_a_chunk_that_is_gone_is_no_fill_value(fake, name, key, first, stop):
    chunk = fake.path / TABLE / name / key
    chunk.unlink()
    run = dw.open_run(fake.path)
    with pytest.raises(DamagedStoreError, match="a chunk is missing") as raised:
        run.to_xarray(merged=name == "merged")
    wanted = f"{chunk} is damaged (it is missing): it holds rows {first} to {stop - 1} of"
    assert wanted in str(raised.value)
    assert run.verify() == [Damage(name, first, stop, chunk, "it is missing")]


def test_damage_names_its_file_and_leaves_the_rest(fake):
    chunk = fake.path / TABLE / "rows" / "c.1.0.0.0"
    shutil.copy(fake.path / TABLE / "rows" / "c.0.0.0.0", chunk)
    chunk.write_bytes(chunk.read_bytes()[:-9])
    run = dw.open_run(fake.path)
    with pytest.raises(DamagedStoreError, match=r"rows/c\.1\.0\.0\.0 is damaged"):
        run["activation/dense_3"].per_replica("mean")
    assert np.isfinite(run["activation/dense_3"].merged("mean")).all()
    (table,) = run._store.tables.values()
    for steps in (slice(0, 8), slice(16, 21)):
        assert np.isfinite(table.read("rows", steps)[..., 0]).all()
