"""Whatever happens to a store's files is found, named, and harms nothing else."""

import json
import random
import shutil

import made_up
import numpy as np
import pytest

import distwatch as dw
from distwatch.errors import DamagedRowsWarning, StoreError
from distwatch.records import Origin
from distwatch.report.page import page
from distwatch.report.reading import read_runs
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


GONE = [
    ("step", "c.0", 0, 21),
    ("rows", "c.1.0.0.0", 8, 16),
    ("merged", "c.1.0.0", 8, 16),
    ("merged", "c.2.0.0", 16, 21),
]


@pytest.mark.parametrize(("name", "key", "first", "stop"), GONE)
def test_a_chunk_that_is_gone_is_a_gap_and_no_fill_value(fake, name, key, first, stop):
    whole = {merged: dw.open_run(fake.path).to_xarray(merged=merged) for merged in (0, 1)}
    chunk = fake.path / TABLE / name / key
    chunk.unlink()
    run = dw.open_run(fake.path)
    assert run.verify() == [Damage(name, first, stop, chunk, "it is missing")]
    with pytest.warns(DamagedRowsWarning) as warned:
        rows = run.to_xarray(merged=name == "merged")
    (said,) = warned
    for words in (
        f"{stop - first} steps of {fake.path} are left out",
        f"{chunk} is damaged (it is missing): it holds rows {first} to {stop - 1} of",
    ):
        assert words in str(said.message)
    left = np.setdiff1d(np.arange(21), np.arange(first, stop))
    assert rows.identical(whole[name == "merged"].sel(step=left))
    # From now on both are read without it, and without a further warning.
    assert run.to_xarray(merged=name != "merged").sizes["step"] == len(left)


@pytest.mark.parametrize("name", ["epoch", "iteration"])
def test_rows_whose_epoch_is_gone_are_rows_all_the_same(fake, name):
    whole = dw.open_run(fake.path).to_xarray()
    (fake.path / TABLE / name / "c.0").unlink()
    with pytest.warns(DamagedRowsWarning, match=f"0 steps of .*{name}/c"):
        rows = dw.open_run(fake.path).to_xarray()
    assert set(rows[name].values) == {-1}
    assert rows.drop_vars(name).identical(whole.drop_vars(name))


def test_what_is_said_of_a_damaged_run(fake, tmp_path):
    """The rest is read, and nothing is said of what was not."""
    before = dw.open_run(fake.path).findings()
    assert "sound" in [finding.kind for finding in before]
    (fake.path / "digest-train.json").unlink()
    flip(fake.path / TABLE / "rows" / "c.1.0.0.0")
    with pytest.warns(DamagedRowsWarning, match="8 steps of"):
        run = dw.open_run(fake.path)
        found = {finding.kind: finding for finding in run.findings()}
    assert "sound" not in found
    assert found["extent"].text.startswith("13 steps")
    assert found["damaged"].text.startswith("8 steps cannot be read")
    assert found["damaged"].severity == "warning"
    assert "8 steps cannot be read" in run.summary()
    with pytest.warns(DamagedRowsWarning, match="8 steps of"):
        text = page(read_runs([fake.path]), None)
    assert "8 steps cannot be read" in text
    with pytest.warns(DamagedRowsWarning, match="8 steps of"):
        assert "13 steps" in dw.open_run(fake.path)._repr_html_()


def test_what_was_found_before_the_damage_is_kept_until_rows_are_read(fake):
    """It is of the rows that were committed; who reads them, or verifies, sees the damage."""
    before = dw.open_run(fake.path).findings()
    flip(fake.path / TABLE / "rows" / "c.1.0.0.0")
    run = dw.open_run(fake.path)
    assert run.findings() == before
    assert len(run.verify()) == 1
    with pytest.warns(DamagedRowsWarning, match="8 steps of"):
        run.to_xarray()
    # From now on this run knows.
    assert "damaged" in [each.kind for each in run.findings()]
    assert "sound" not in [each.kind for each in run.findings()]


def test_the_other_tables_keep_their_steps(tmp_path):
    path = made_up.store(tmp_path / "run.zarr", made_up.made_up())
    flip(path / TABLE / "histogram_merged" / "c.1.0.0")
    run = dw.open_run(path)
    # What is in other arrays is read as ever.
    assert run["activation/dense"].merged("mean").step.size == 12
    with pytest.warns(DamagedRowsWarning, match="4 steps of"):
        histogram = run.histogram("activation/dense")
    assert histogram.step.values.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert run["activation/dense"].merged("mean").step.size == 8
    assert run["update/dense/kernel"].merged("mean").step.values.tolist() == [0, 3, 6, 9]
    rows = run.to_xarray()
    assert np.isnan(rows["mean"].sel(signal="activation/dense", step=6)).all()
    assert np.isfinite(rows["mean"].sel(signal="update/dense/kernel", step=6)).all()


def test_lazy_arrays_are_nan_where_chunks_are_damaged(fake):
    whole = dw.open_run(fake.path).to_xarray()["mean"]
    lazy = dw.open_run(fake.path).to_xarray(chunks=8)["mean"]
    flip(fake.path / TABLE / "rows" / "c.1.0.0.0")
    with pytest.warns(DamagedRowsWarning, match="These are NaN"):
        values = lazy.compute(scheduler="synchronous")
    assert np.isnan(values[8:16]).any()
    assert values[:8].equals(whole[:8])
    assert values[16:].equals(whole[16:])


def flip(chunk):
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)


def test_a_description_that_is_gone_is_damage(tmp_path):
    """Not in one that was killed before it wrote anything else."""
    path = made_up.store(
        tmp_path / "run.zarr",
        made_up.made_up(steps=range(6)),
        made_up.made_up(steps=range(6, 12), origin=Origin(1, 6, 7)),
    )
    assert dw.open_run(path).verify() == []
    killed = path / "worker-0000-start-0002"
    killed.mkdir()
    (killed / "zarr.0f.partial").write_bytes(b"{")
    assert dw.open_run(path).verify() == []
    gone = [path / "worker-0000-start-0001" / "zarr.json", path / TABLE / "zarr.json"]
    for document in gone:
        document.unlink()
    found = dw.open_run(path).verify()
    assert {damage.file for damage in found} == set(gone)
    for damage in found:
        assert str(damage) == (
            f"{damage.file} is damaged (it is missing): nothing beside it can be read."
        )


def test_a_run_without_chunks_does_not_pass(call, tmp_path):
    path = fake_run(tmp_path / "run.zarr", steps=5).path
    shutil.rmtree(path / "worker-0000-start-0000")
    code, out, _ = call("verify", path)
    assert code == 1
    assert "There are no chunks, so nothing was checked" in out
    assert "none damaged" not in out
    code, out, _ = call("verify", path, "--json")
    assert (code, json.loads(out)["chunks"]) == (1, 0)
