"""Lazy datasets are computed by a cluster of processes as they are."""

import sys
from dataclasses import replace

import made_up
import pytest
import xarray as xr

import distwatch as dw
from distwatch.records import Origin
from distwatch.store.reader import StoredTable
from distwatch.testing.fake import fake_run, write_fake

pytestmark = pytest.mark.slow


def modules_of_worker(*names):
    return [name in sys.modules for name in names]


@pytest.fixture(scope="module")
def client():
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def one_start(path):
    names = [f"activation/dense_{i}" for i in range(16)]
    fake_run(path, steps=53, replicas=3, signals=names, window=4)


def workers_and_starts(path):
    """Two workers, of which each started twice; the later start replaces some rows."""
    parts = []
    for start, steps in enumerate([range(20), range(13, 40)]):
        for worker in range(2):
            made = made_up.made_up(
                steps=steps,
                replicas=(2 * worker, 2 * worker + 1),
                origin=Origin(start, steps[0], steps[0]),
                worker=worker,
                workers=2,
            )
            parts.append((replace(made.info), made.blocks))
    write_fake(path, *parts)


@pytest.mark.parametrize("shape", [one_start, workers_and_starts])
@pytest.mark.parametrize("merged", [False, True])
def test_the_workers_read_and_the_result_is_that_of_one_process(
    client, shape, merged, tmp_path, monkeypatch
):
    shape(tmp_path / "run.zarr")
    run = dw.open_run(tmp_path / "run.zarr")
    want = run.to_xarray(merged=merged)
    lazy = run.to_xarray(merged=merged, chunks=8)

    def read_here(*_):
        raise AssertionError("rows are read by this process, not by a worker")

    monkeypatch.setattr(StoredTable, "read", read_here)
    xr.testing.assert_identical(lazy.compute(), want)
    mean = lazy["l2"].mean("step").compute()
    xr.testing.assert_allclose(mean, want["l2"].mean("step"))
    loaded = client.run(modules_of_worker, "distwatch", "tensorflow").values()
    assert sorted(loaded) == [[True, False]] * 2
