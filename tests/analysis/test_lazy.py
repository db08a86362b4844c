"""Lazy datasets are the eager ones, and read only what is asked of them."""

import sys

import numpy as np
import pytest
import xarray as xr

import distwatch as dw
from distwatch.errors import ConfigError
from distwatch.store.reader import StoredTable
from distwatch.testing.fake import fake_run

NAMES = [f"activation/dense_{i}" for i in range(16)]


@pytest.fixture
def run(tmp_path):
    fake_run(tmp_path / "run.zarr", steps=53, replicas=3, signals=NAMES, window=4)
    return dw.open_run(tmp_path / "run.zarr")


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("chunks", ["auto", 4, 7, 1000])
def test_they_are_equal(run, merged, chunks):
    lazy = run.to_xarray(merged=merged, chunks=chunks)
    assert all(variable.chunks is not None for variable in lazy.data_vars.values())
    xr.testing.assert_identical(lazy.compute(), run.to_xarray(merged=merged))


@pytest.mark.parametrize("merged", [False, True])
def test_nothing_else_is_read(run, merged, monkeypatch):
    lazy = run.to_xarray(merged=merged, chunks=8)
    asked = []

    def noting(self, name, *parts):
        asked.append((name, *((part.start, part.stop) for part in parts)))
        return read(self, name, *parts)

    read = StoredTable.read
    monkeypatch.setattr(StoredTable, "read", noting)
    mean = lazy["mean"].sel(signal=NAMES[9], step=slice(10, 20)).mean()
    assert not asked
    assert np.isfinite(float(mean))
    states = "merged" if merged else "rows"
    assert {each for each in asked if each[0] == states} == {
        (states, (8, 16), (8, 16)),
        (states, (16, 24), (8, 16)),
    }


def test_a_run_without_steps(tmp_path):
    fake_run(tmp_path / "run.zarr", steps=0)
    run = dw.open_run(tmp_path / "run.zarr")
    xr.testing.assert_identical(run.to_xarray(chunks="auto").compute(), run.to_xarray())


@pytest.mark.parametrize("chunks", [0, -1, "some", 1.5, True])
def test_chunks_that_are_none(run, chunks):
    with pytest.raises(ConfigError, match="give a number of steps, or 'auto'"):
        run.to_xarray(chunks=chunks)


def test_without_dask_the_remedy_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(ConfigError, match=r'pip install "distwatch\[dask\]"'):
        run.to_xarray(chunks="auto")


def test_refresh_sees_what_came_since(run):
    (run.path / "worker-0000-start-0000").rename(run.path / "away")
    before = dw.open_run(run.path)
    assert len(before) == 0
    (run.path / "away").rename(run.path / "worker-0000-start-0000")
    assert len(before.refresh()) == 53
    assert before.signals == NAMES
