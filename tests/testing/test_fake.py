import subprocess
import sys

import numpy as np
import pytest

from distwatch import open_run
from distwatch.errors import RunExistsError
from distwatch.testing.fake import fake_run

SIGNALS = ["activation/a", "activation/b", "activation/c"]

NUMPY = {
    "count": np.size,
    "mean": np.mean,
    "std": np.std,
    "min": np.min,
    "max": np.max,
    "l1": lambda values: np.sum(np.abs(values)),
    "l2": np.linalg.norm,
}


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    path = tmp_path_factory.mktemp("fake") / "run.zarr"
    return fake_run(path, steps=20, replicas=3, signals=SIGNALS, window=8, lost=2)


def test_reads_back_as_it_was_made(fake):
    run = open_run(fake.path)
    assert run.info == fake.info
    assert run.signals == SIGNALS
    assert run.replicas == [0, 1, 2]
    assert run.lost == 2
    dataset = run.to_xarray()
    assert dict(dataset.sizes) == {"step": 20, "replica": 3, "signal": 3}
    assert dataset["step"].values.tolist() == list(range(20))
    assert dataset["epoch"].values.tolist() == [0] * 10 + [1] * 10
    assert dataset["iteration"].values.tolist() == list(range(1, 21))


@pytest.mark.parametrize("statistic", NUMPY)
def test_per_replica_rows_equal_numpy(fake, statistic):
    rows = open_run(fake.path).to_xarray()[statistic].values
    for (step, replica, signal), values in fake.deltas.items():
        expected = NUMPY[statistic](values) if values.size else np.nan
        if statistic == "count":
            expected = values.size
        np.testing.assert_allclose(rows[step, replica, signal], expected, rtol=1e-12)


@pytest.mark.parametrize("statistic", NUMPY)
def test_merged_rows_equal_numpy_on_the_whole(fake, statistic):
    merged = open_run(fake.path).to_xarray(merged=True)[statistic].values
    for step, signal in np.ndindex(20, len(SIGNALS)):
        expected = NUMPY[statistic](fake.whole(step, signal))
        np.testing.assert_allclose(merged[step, signal], expected, rtol=1e-9)


def test_replicas_differ_in_size_and_mean(fake):
    sizes = np.array([[fake.deltas[s, r, 0].size for r in range(3)] for s in range(20)])
    assert len({tuple(column) for column in sizes.T}) == 3
    assert (sizes[:, 2] == 0).sum() == 4
    assert (sizes[:, :2] > 0).all()
    means = [fake.deltas[0, replica, 0].mean() for replica in range(3)]
    assert np.all(np.diff(means) > 50)
    assert np.all(np.abs(means) > 50)


def test_equal_seeds_make_equal_runs(tmp_path):
    one, same, other = (
        fake_run(tmp_path / name, steps=3, seed=seed)
        for name, seed in (("one", 5), ("same", 5), ("other", 6))
    )
    for place, values in one.deltas.items():
        np.testing.assert_array_equal(values, same.deltas[place])
    assert not np.array_equal(one.whole(0, 0), other.whole(0, 0))


def test_one_replica_is_never_idle(tmp_path):
    run = fake_run(tmp_path / "run", steps=6, replicas=1)
    assert all(values.size for values in run.deltas.values())


def test_a_run_without_rows(tmp_path):
    fake = fake_run(tmp_path / "run", steps=0)
    run = open_run(fake.path)
    assert len(run) == 0
    assert run.signals == list(fake.info.names)


def test_a_path_that_is_taken(tmp_path):
    fake_run(tmp_path / "run", steps=1)
    with pytest.raises(RunExistsError):
        fake_run(tmp_path / "run", steps=1)


def test_neither_fakes_nor_laws_load_tensorflow(tmp_path):
    code = (
        "import sys\n"
        "from distwatch.statistics import ROW\n"
        "from distwatch.testing.fake import fake_run\n"
        "from distwatch.testing.laws import assert_statistic_laws\n"
        f"fake = fake_run({str(tmp_path / 'run')!r}, steps=2)\n"
        "assert_statistic_laws(ROW, [fake.deltas[1, r, 0] for r in (0, 1)])\n"
        "assert not {'tensorflow', 'keras', 'hypothesis'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
