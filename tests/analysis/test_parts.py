"""Parts of a run: selected steps and merged ones are runs, and exactly what they say."""

import numpy as np
import pytest
import xarray as xr

import distwatch as dw
from distwatch.errors import ConfigError
from distwatch.findings import Finding
from distwatch.records import RunInfo, Table
from distwatch.signals import Signal
from distwatch.statistics import LogHistogram, with_row
from distwatch.testing.fake import fake_block, fake_run, write_fake

REPLICAS = 3


@pytest.fixture
def fake(tmp_path):
    return fake_run(tmp_path / "run.zarr", steps=53, replicas=REPLICAS, window=8, lost=2)


@pytest.fixture
def run(fake):
    return dw.open_run(fake.path)


@pytest.fixture
def two_tables(tmp_path):
    """A signal at every step and one at every third, on unequal shards far from zero."""
    often = Table("table-00", (Signal("loss", "none"),), "every(1)", 4)
    rarely = Table("table-01", (Signal("activation/dense"),), "every(3)", 2)
    info = RunInfo((often, rarely), (0, 1), "made up", {})
    random = np.random.default_rng(3)

    def values(step, replica, _):
        return random.normal(1000 * (replica + 1) + step, 1, 1 + (step + replica) % 5)

    blocks = [
        fake_block(
            info, table, range(start, min(start + table.window * every, 40), every), values
        )
        for table, every in ((often, 1), (rarely, 3))
        for start in range(0, 40, table.window * every)
    ]
    write_fake(tmp_path / "two.zarr", (info, blocks))
    return dw.open_run(tmp_path / "two.zarr")


@pytest.mark.parametrize(
    "wanted, steps",
    [
        ({"step": slice(10, 20)}, [*range(10, 21)]),
        ({"step": slice(None, 3)}, [0, 1, 2, 3]),
        ({"step": slice(50, None)}, [50, 51, 52]),
        ({"step": slice(4, 40, 9)}, [4, 13, 22, 31, 40]),
        ({"step": slice(1, 19, 3)}, [1, 4, 7, 10, 13, 16, 19]),
        ({"step": 17}, [17]),
        ({"step": [40, 3, 11]}, [3, 11, 40]),
        ({"step": np.array([5, 6])}, [5, 6]),
        ({"epoch": 3}, [*range(30, 40)]),
        ({"epoch": slice(4, 5)}, [*range(40, 53)]),
        ({"epoch": [0, 2], "step": slice(8, 21)}, [8, 9, 20, 21]),
        ({"step": slice(90, 99)}, []),
    ],
)
def test_selected_steps_are_those_of_the_whole(run, wanted, steps):
    part = run.sel(**wanted)
    assert len(part) == len(steps)
    for merged in (False, True):
        whole = run.to_xarray(merged=merged)
        xr.testing.assert_identical(
            part.to_xarray(merged=merged), whole.sel(step=np.array(steps, int))
        )
        lazy = part.to_xarray(merged=merged, chunks=3)
        xr.testing.assert_identical(lazy.compute(), part.to_xarray(merged=merged))
    assert part["dense_1"].merged("l2").step.values.tolist() == steps
    assert len(run) == 53


def test_each_signal_has_its_own_steps_in_a_part(two_tables):
    part = two_tables.sel(step=slice(5, 12))
    assert part["loss"].merged().step.values.tolist() == [*range(5, 13)]
    assert part["dense"].merged().step.values.tolist() == [6, 9, 12]
    # A step that any signal has can be named.
    assert len(two_tables.sel(step=7)["dense"].merged()) == 0


@pytest.mark.parametrize(
    "wanted, says",
    [
        ({}, "name steps or epochs"),
        ({"step": 53}, r"has no step 53; it has 53, from 0 to 52"),
        ({"step": [2, 60, 70]}, "has no step 60 and 70"),
        ({"epoch": 6}, r"has no epoch 6; it has 6, from 0 to 5"),
        ({"step": -1}, "a number from 0 on"),
        ({"step": True}, "a number from 0 on"),
        ({"step": 1.5}, "a number from 0 on"),
        ({"step": "3"}, "a number from 0 on"),
        ({"step": []}, "a number from 0 on"),
        ({"step": slice(-10, None)}, "both numbers from 0 on"),
        ({"step": slice(0, 9, 0)}, "stride is a number from 1 on"),
        ({"step": slice(0.5, 9)}, "both numbers from 0 on"),
    ],
)
def test_steps_that_are_none_are_refused(run, wanted, says):
    with pytest.raises(ConfigError, match=says):
        run.sel(**wanted)


@pytest.mark.parametrize("every", [1, 5, 8, 10, 53, 1000])
def test_merged_steps_are_the_statistics_of_all_their_elements(fake, run, every):
    merged = run.resample(steps=every)
    starts = [*range(0, 53, every)]
    found = merged.to_xarray(merged=True)
    apart = merged.to_xarray()
    assert len(merged) == len(starts)
    assert found.step.values.tolist() == starts
    assert found.epoch.values.tolist() == [start // 10 for start in starts]
    assert found.iteration.values.tolist() == [min(s + every, 53) for s in starts]
    for i, start in enumerate(starts):
        steps = range(start, min(start + every, 53))
        for signal, name in enumerate(run.signals):
            whole = np.concatenate([fake.whole(step, signal) for step in steps])
            check(found.isel(step=i).sel(signal=name), whole)
            for replica in range(REPLICAS):
                own = [fake.deltas[step, replica, signal] for step in steps]
                check(apart.isel(step=i).sel(signal=name, replica=replica), np.concatenate(own))


def check(found, elements):
    assert int(found["count"]) == len(elements)
    if not len(elements):
        assert np.isnan(found["mean"])
        return
    want = {
        "mean": elements.mean(),
        "std": elements.std(),
        "min": elements.min(),
        "max": elements.max(),
        "l1": np.abs(elements).sum(),
        "l2": np.sqrt((elements**2).sum()),
    }
    for name, value in want.items():
        np.testing.assert_allclose(float(found[name]), value, rtol=1e-9, err_msg=name)


def test_merging_reads_in_pieces_and_tables_have_the_same_steps(two_tables, monkeypatch):
    whole = two_tables.resample(steps=10).to_xarray()
    monkeypatch.setattr("distwatch.store.parts._ROWS_AT_ONCE", 3)
    merged = two_tables.resample(steps=10)
    for name, values in merged.to_xarray().items():
        xr.testing.assert_allclose(values, whole[name], rtol=1e-12)
    assert merged["dense"].merged().step.values.tolist() == [0, 10, 20, 30]
    lazy = merged.to_xarray(chunks=3, merged=True)
    xr.testing.assert_allclose(lazy.compute(), merged.to_xarray(merged=True), rtol=1e-12)


def test_a_part_can_be_merged_and_what_is_merged_selected(run, fake):
    part = run.sel(step=slice(7, 31)).resample(steps=10)
    first = part["dense"].merged("count")
    assert first.step.values.tolist() == [0, 10, 20, 30]
    # Only the selected steps of the first ten are in it.
    assert int(first[0]) == sum(len(fake.whole(step, 0)) for step in range(7, 10))
    assert run.resample(steps=10).sel(step=slice(20, 30))["dense"].merged().size == 2


def test_histograms_are_merged_over_steps(tmp_path):
    row = with_row((LogHistogram(accuracy=0.05),))
    table = Table("table-00", (Signal("activation/dense"),), "every(1)", 4, row)
    info = RunInfo((table,), (0, 1), "made up", {})
    blocks = [
        fake_block(
            info, table, range(s, s + 4), lambda step, r, _: [step + 1.0, 10.0 * (r + 1)]
        )
        for s in (0, 4, 8)
    ]
    write_fake(tmp_path / "run.zarr", (info, blocks))
    run = dw.open_run(tmp_path / "run.zarr")
    merged = run.resample(steps=6)
    counts = merged.histogram("dense", merged=False)
    assert counts.sum("bucket").values.tolist() == [[12, 12], [12, 12]]
    assert merged.quantile("dense", 0.5) == run.quantile("dense", 0.5)
    first = merged.quantile("dense", 1.0, per_step=True, per_replica=True)
    assert first.values.tolist() == [[10.0, 20.0], [12.0, 20.0]]


def test_what_is_of_whole_runs_or_of_single_steps_is_refused(run, two_tables):
    assert all(isinstance(each, Finding) for each in run.findings())
    for part in (run.sel(epoch=2), run.resample(steps=10)):
        for ask in (part.findings, part.summary, part.digest):
            with pytest.raises(
                ConfigError, match=r"is a part of a run, and .* whole runs only"
            ):
                ask()
        with pytest.raises(ConfigError, match="is a part of a run; whole runs are compared"):
            dw.diff(run, part)
        # Said of the whole, and nothing else.
        assert (part.lost, part.ended, part.verify()) == (2, "closed", [])
    with pytest.raises(ConfigError, match="a checksum is of one step"):
        run.resample(steps=10).copies()
    with pytest.raises(ConfigError, match="its steps are merged already"):
        run.resample(steps=10).resample(steps=20)


@pytest.mark.parametrize("steps", [0, -5, 1.5, True, "10", None])
def test_steps_to_merge_are_a_number(run, steps):
    with pytest.raises(ConfigError, match="give a whole number from 1 on"):
        run.resample(steps=steps)


def test_parts_are_shown_and_refreshed_as_what_they_are(run):
    part = run.sel(step=slice(10, 20)).resample(steps=5)
    called = ".sel(step=slice(10, 20)).resample(steps=5): 3 steps, 3 replicas"
    assert called in repr(part)
    assert "A part of the run" in part._repr_html_()
    assert "findings" not in part._repr_html_()
    before = part.to_xarray()
    assert part.refresh() is part
    assert called in repr(part)
    xr.testing.assert_identical(part.to_xarray(), before)
    # Figures are of the part, too.
    drawn = [
        x for trace in part.plot.curves("dense").data if trace.x is not None for x in trace.x
    ]
    assert {x for x in drawn if not np.isnan(x)} == {10, 15, 20}


def test_a_part_of_a_run_without_steps(tmp_path):
    run = dw.open_run(fake_run(tmp_path / "run.zarr", steps=0).path)
    assert len(run.sel(step=slice(0, 10))) == len(run.resample(steps=10)) == 0
    with pytest.raises(ConfigError, match="has no step 3; it has none"):
        run.sel(step=3)


def test_damage_in_a_part_is_left_out(tmp_path):
    run = dw.open_run(fake_run(tmp_path / "run.zarr", steps=24, window=8).path)
    (chunk,) = run.path.rglob("rows/c.1.*")
    chunk.write_bytes(b"\0" * 50)
    part = run.sel(step=slice(4, 20))
    with pytest.warns(dw.errors.DamagedRowsWarning):
        found = part.to_xarray()
    assert found.step.values.tolist() == [4, 5, 6, 7, 16, 17, 18, 19, 20]
