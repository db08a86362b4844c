"""A long run opens at once, and what is asked for is all that is read of it."""

import time

import numpy as np
import pytest
import xarray as xr
from long_runs import EPOCH, LongTable, chunk_files, long_run

import distwatch as dw
from distwatch.analysis.datasets import _CHUNK_BYTES
from distwatch.analysis.facts import describe
from distwatch.statistics import ROW
from distwatch.store import StoredRun

STEPS = 100_000
WINDOW = 256
MEAN = ROW.fields.index("mean")

#: Long enough for a busy machine; it takes a fiftieth.
AT_ONCE = 1.0


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """100,000 steps on 4 replicas, 40 signals; few windows are different ones."""
    folder = tmp_path_factory.mktemp("long")
    return long_run(folder / "run.zarr", steps=STEPS, tables=(LongTable(40),))


@pytest.fixture
def run(long):
    return dw.open_run(long.path)


def chunks_of(array, steps, rest):
    """The chunk files of an array that hold some steps."""
    return {
        f"{array}/c.{n}{rest}" for n in range(steps.start // WINDOW, -(-steps.stop // WINDOW))
    }


def coordinates(opened):
    return {key for key in opened if key.split("/")[0] in ("step", "epoch", "iteration")}


def test_it_is_a_run_as_any_other(long, run):
    assert len(run) == STEPS
    assert (run.lost, run.ended) == (0, "closed")
    plain = xr.open_zarr(long.path / "worker-0000-start-0000" / "table-00")
    assert plain["rows"].shape == (STEPS, 4, 40, len(ROW.fields))
    np.testing.assert_array_equal(plain["step"], np.arange(STEPS))
    epoch = run.to_xarray(chunks="auto")["epoch"]
    np.testing.assert_array_equal(epoch, np.arange(STEPS) // EPOCH)


def test_it_opens_at_once_and_reads_nothing(long):
    with chunk_files() as opened:
        start = time.perf_counter()
        run = dw.open_run(long.path)
        assert time.perf_counter() - start < AT_ONCE
        run.refresh()
    assert not opened


@pytest.mark.parametrize("merged", [False, True])
def test_a_lazy_dataset_reads_its_coordinates(run, merged):
    with chunk_files() as opened:
        start = time.perf_counter()
        run.to_xarray(chunks="auto", merged=merged)
        assert time.perf_counter() - start < 5 * AT_ONCE
    assert opened and coordinates(opened) == set(opened)


@pytest.mark.parametrize("merged", [False, True])
def test_the_mean_of_a_range_reads_that_range(long, run, merged):
    lazy = run.to_xarray(chunks=WINDOW, merged=merged)
    signal, steps = run.signals[23], slice(50_000, 51_000)
    with chunk_files() as opened:
        mean = lazy["mean"].sel(signal=signal).isel(step=steps).compute()
    array, rest = ("merged", ".0.0") if merged else ("rows", ".0.0.0")
    assert set(opened) == chunks_of(array, steps, rest)
    if not merged:
        np.testing.assert_array_equal(mean, long.states("table-00", steps)[:, :, 23, MEAN])


def test_chunks_of_auto_read_little_beside_the_range(run):
    lazy = run.to_xarray(chunks="auto")
    with chunk_files() as opened:
        float(lazy["mean"].sel(signal=run.signals[23]).isel(step=slice(50_000, 51_000)).mean())
    inner = 8 * 4 * 8 * len(ROW.fields) * WINDOW
    # The range may lie in two chunks.
    assert 4 <= len(opened) <= 2 * (_CHUNK_BYTES // inner)
    assert _CHUNK_BYTES // inner < 16


def test_one_signal_merged_is_read_alone(run):
    view = run[run.signals[23]]
    with chunk_files() as opened:
        repr(view)
        assert not opened
        view.merged("mean")
        assert {key.split("/")[0] for key in set(opened) - coordinates(opened)} == {"merged"}
        before = opened.total()
        view.merged("std")
        assert opened.total() == before
        view.merged("spread")
    assert "rows/c.0.0.0.0" in opened


def test_what_is_told_of_a_run_reads_its_ends(long):
    with chunk_files() as opened:
        (table,) = describe(StoredRun(long.path))["tables"]
    assert (table["first_step"], table["last_step"]) == (0, STEPS - 1)
    assert set(opened) == {"step/c.0", f"step/c.{(STEPS - 1) // (32 * WINDOW)}"}


def test_a_summary_reads_each_coordinate_once(tmp_path):
    run = dw.open_run(long_run(tmp_path / "run.zarr", steps=320, window=32).path)
    with chunk_files() as opened:
        assert "320 steps, 100 signals on 4 replicas" in run.summary()
    assert {key: opened[key] for key in coordinates(opened)} == {
        "step/c.0": 1,
        "epoch/c.0": 1,
        "iteration/c.0": 1,
    }


TABLES = (LongTable(3), LongTable(2, every=10))


def test_tables_of_other_steps_are_joined_at_once(tmp_path):
    long = long_run(tmp_path / "run.zarr", steps=STEPS, tables=TABLES, replicas=2)
    run = dw.open_run(long.path)
    with chunk_files() as opened:
        start = time.perf_counter()
        lazy = run.to_xarray(chunks="auto")
        assert time.perf_counter() - start < 5 * AT_ONCE
    assert opened and coordinates(opened) == set(opened)
    mean = lazy["mean"].sel(signal=run.signals[4]).isel(step=slice(50_000, 51_000)).compute()
    wanted = long.states("table-01", slice(5_000, 5_100))[:, :, 1, MEAN]
    np.testing.assert_array_equal(mean[::10], wanted)
    assert int(mean.notnull().any("replica").sum()) == 100


@pytest.mark.parametrize("merged", [False, True])
def test_tables_of_other_steps_are_the_same_read_now_and_later(tmp_path, merged):
    long = long_run(tmp_path / "run.zarr", steps=500, tables=TABLES, replicas=2, window=32)
    run = dw.open_run(long.path)
    now = run.to_xarray(merged=merged)
    for chunks in ("auto", 7, 64):
        xr.testing.assert_identical(run.to_xarray(merged=merged, chunks=chunks).compute(), now)
    np.testing.assert_array_equal(now["step"], np.arange(500))
    np.testing.assert_array_equal(now["iteration"], np.arange(1, 501))
    rare = now.sel(signal=run.signals[3])
    for name in now.data_vars:
        alone = run[run.signals[3]]
        alone = alone.merged(name) if merged else alone.per_replica(name)
        np.testing.assert_array_equal(rare[name].isel(step=slice(None, None, 10)), alone)
        assert rare[name].isel(step=slice(1, 10)).isnull().all()


def test_workers_are_joined_in_little_time(tmp_path):
    tables = (LongTable(4),)
    long = long_run(tmp_path / "run.zarr", steps=STEPS, tables=tables, replicas=2, workers=2)
    start = time.perf_counter()
    run = dw.open_run(long.path)
    assert time.perf_counter() - start < AT_ONCE
    assert run.replicas == [0, 1, 2, 3]
    lazy = run.to_xarray(chunks=WINDOW)
    with chunk_files() as opened:
        mean = lazy["mean"].isel(signal=2, step=slice(512, 768)).compute()
    assert opened == {"rows/c.2.0.0.0": opened["rows/c.2.0.0.0"]}
    wanted = long.states("table-00", slice(512, 768))[:, :, 2, MEAN]
    np.testing.assert_array_equal(mean, np.concatenate([wanted, wanted], axis=1))
