"""A run opens with plain xarray and zarr, exactly as FORMAT.md says."""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import xarray as xr
import zarr

import distwatch as dw
from distwatch.store import StoredRun, schema
from distwatch.testing.fake import fake_run

FORMAT = Path(dw.__file__).parent / "store" / "FORMAT.md"
SEGMENT = "worker-0000-start-0000"
TABLE = f"{SEGMENT}/table-00"


@pytest.fixture
def fake(tmp_path):
    # Twelve signals, so that chunks are shards with inner chunks; 21 steps of chunks of 8.
    names = [f"activation/dense_{i}" for i in range(12)]
    return fake_run(tmp_path / "run.zarr", steps=21, replicas=3, signals=names, lost=2)


@pytest.fixture
def shown(fake, monkeypatch):
    """What the first program of FORMAT.md makes of the run: its variables by name."""
    (program,) = re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    monkeypatch.chdir(fake.path.parent)
    variables = {}
    exec(program, variables)
    return variables


def document(fake, *parts):
    return json.loads(fake.path.joinpath(*parts, "zarr.json").read_text())


def test_dims_and_coordinates_are_named(shown, fake):
    ds = shown["ds"]
    assert dict(ds.sizes) == {"step": 21, "replica": 3, "signal": 12, "field": 11}
    assert set(ds.coords) == {"step", "epoch", "iteration", "replica", "signal", "field"}
    assert set(ds.data_vars) == {"rows", "merged"}
    assert ds["rows"].dims == ("step", "replica", "signal", "field")
    assert ds["merged"].dims == ("step", "signal", "field")
    assert list(ds["signal"].values) == list(fake.info.names)
    assert list(ds["step"].values) == list(range(21))
    assert list(ds["epoch"].values) == [step // 10 for step in range(21)]


def test_derived_values_equal_distwatch(shown, fake):
    own = dw.open_run(fake.path).to_xarray()
    derived = ("mean", "std", "l1", "l2")
    for name in derived:
        np.testing.assert_array_equal(shown[name].values, own[name].values, err_msg=name)
    np.testing.assert_array_equal(shown["smallest"].values, own["min"].values)
    np.testing.assert_array_equal(shown["largest"].values, own["max"].values)
    for name in ("count", "zeros", "nans", "infs"):
        np.testing.assert_array_equal(shown["rows"][name].values, own[name].values)
    merged = dw.open_run(fake.path).to_xarray(merged=True)
    np.testing.assert_array_equal(shown["spread"].values, merged["spread"].values)
    np.testing.assert_array_equal(shown["merged"]["mean"].values, merged["mean"].values)


def test_changes_equal_numpy(shown, fake):
    changes = [
        shown[name].transpose("step", "replica", "signal").values
        for name in ("mean_change", "maximum_change")
    ]
    for place, delta in fake.deltas.items():
        wanted = (np.abs(delta).mean(), np.abs(delta).max()) if delta.size else (np.nan,) * 2
        got = [change[place] for change in changes]
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_merged_states_are_by_the_rules_of_the_table(fake):
    ds = xr.open_zarr(fake.path / TABLE)
    rows, merged = (ds[name].to_dataset("field") for name in ("rows", "merged"))
    for name in ("count", "zeros", "nans", "infs", "n", "l1", "l2sq"):
        np.testing.assert_allclose(rows[name].sum("replica"), merged[name], rtol=1e-12)
    mean = (rows["n"] * rows["mean"]).sum("replica") / merged["n"]
    np.testing.assert_allclose(mean, merged["mean"], rtol=1e-12)
    m2 = (rows["m2"] + rows["n"] * (rows["mean"] - mean) ** 2).sum("replica")
    np.testing.assert_allclose(m2, merged["m2"], rtol=1e-9)
    np.testing.assert_array_equal(rows["min"].min("replica"), merged["min"])
    np.testing.assert_array_equal(rows["max"].max("replica"), merged["max"])


def test_the_state_of_no_elements(fake):
    ds = xr.open_zarr(fake.path / TABLE)
    idle = ds["rows"].sel(step=4, replica=2).isel(signal=0).to_series()
    infinite = {"min": np.inf, "max": -np.inf}
    assert idle.to_dict() == {field: infinite.get(field, 0.0) for field in idle.index}


@pytest.mark.parametrize(
    ("name", "dims", "dtype", "fill"),
    [
        ("step", ["step"], "int64", -1),
        ("epoch", ["step"], "int64", -1),
        ("iteration", ["step"], "int64", -1),
        ("rows", ["step", "replica", "signal", "field"], "float64", "NaN"),
        ("merged", ["step", "signal", "field"], "float64", "NaN"),
        ("replica", ["replica"], "int64", 0),
        ("signal", ["signal"], "string", ""),
        ("field", ["field"], "string", ""),
    ],
)
def test_arrays_are_as_the_table_says(fake, name, dims, dtype, fill):
    array = document(fake, TABLE, name)
    assert array["dimension_names"] == dims
    assert array["data_type"] == dtype
    assert array["fill_value"] == fill
    quoted = {"NaN": "NaN", "": '""'}.get(fill, fill)
    row = f"| `{name}` | {', '.join(dims)} | {dtype} | {quoted} |"
    assert row in FORMAT.read_text()


def test_chunks_and_codecs(fake):
    rows = document(fake, TABLE, "rows")
    assert rows["chunk_grid"]["configuration"]["chunk_shape"] == [8, 3, 12, 11]
    (sharding,) = rows["codecs"]
    assert sharding["name"] == "sharding_indexed"
    assert sharding["configuration"]["chunk_shape"] == [8, 3, 6, 11]
    inner = sharding["configuration"]["codecs"]
    assert [codec["name"] for codec in inner] == ["transpose", "bytes", "blosc", "crc32c"]
    assert inner[0]["configuration"]["order"] == [1, 2, 3, 0]
    step = document(fake, TABLE, "step")
    assert [codec["name"] for codec in step["codecs"]] == ["bytes", "blosc", "crc32c"]
    assert document(fake, TABLE, "merged")["codecs"][0]["name"] == "sharding_indexed"
    files = {p.name for p in (fake.path / TABLE / "rows").iterdir()}
    assert files == {"zarr.json", "c.0.0.0.0", "c.1.0.0.0", "c.2.0.0.0"}


def test_up_to_eight_signals_are_no_shards(tmp_path):
    fake = fake_run(tmp_path / "small.zarr")
    codecs = [codec["name"] for codec in document(fake, TABLE, "rows")["codecs"]]
    assert codecs == ["transpose", "bytes", "blosc", "crc32c"]


def test_attributes_are_those_of_the_tables(fake):
    root = document(fake)["attributes"]["distwatch"]
    segment = document(fake, SEGMENT)["attributes"]["distwatch"]
    table = document(fake, TABLE)["attributes"]
    facts = {"run", "created", "strategy", "workers", "versions"}
    assert set(root) == {"format", "crc32", *facts}
    assert segment["tables"] == ["table-00"]
    assert table["coordinates"] == "epoch iteration"
    ours = table["distwatch"]
    assert (ours["format"], ours["committed"], ours["lost"], ours["window"]) == (1, 21, 2, 8)
    text = FORMAT.read_text()
    for key in (*root, *segment, *ours):
        assert f"`{key}`" in text
    assert f"format {schema.FORMAT}" in text.splitlines()[0]


def test_another_implementation_of_zarr_reads_the_same(fake):
    stored = StoredRun(fake.path).tables["table-00"]
    for name in ("rows", "merged", "step", "epoch", "iteration"):
        where = {"driver": "file", "path": str(fake.path / TABLE / name)}
        array = tensorstore.open({"driver": "zarr3", "kvstore": where}).result()
        own = stored.read(name)
        np.testing.assert_array_equal(array.read().result(), own)


@pytest.mark.parametrize("of", [(), (SEGMENT,), (TABLE,)])
def test_documents_carry_their_checksum(fake, of):
    said = document(fake, *of)
    ours = said["attributes"]["distwatch"]
    seal = ours.pop("crc32")
    arrays = said.get("consolidated_metadata", {}).get("metadata", {})
    text = json.dumps([ours, arrays], sort_keys=True)
    assert seal == zlib.crc32(text.encode())
    assert bool(arrays) == (of == (TABLE,))


def test_the_group_document_alone_decides(fake):
    """Arrays' own documents may lag: nothing that a reader sees depends on them."""
    before = dw.open_run(fake.path).to_xarray()
    for name in ("rows", "merged", "step", "epoch", "iteration"):
        path = fake.path / TABLE / name / "zarr.json"
        lagging = document(fake, TABLE, name)
        lagging["shape"][0] = 8
        path.write_text(json.dumps(lagging))
    xr.testing.assert_identical(dw.open_run(fake.path).to_xarray(), before)
    assert xr.open_zarr(fake.path / TABLE).sizes["step"] == 21


def test_plain_zarr_reads_it_too(fake):
    group = zarr.open_group(fake.path / TABLE, mode="r")
    assert group["rows"].shape == (21, 3, 12, 11)
    fields = list(group["field"][:])
    counts = group["rows"][..., fields.index("count")]
    for (step, replica, signal), delta in fake.deltas.items():
        assert counts[step, replica, signal] == delta.size


def test_fields_are_those_of_the_table(fake):
    text = FORMAT.read_text()
    for field in fake.info.tables[0].fields:
        assert re.search(rf"^\| .*`{field}`.* \|", text, re.MULTILINE)
