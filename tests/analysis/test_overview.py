"""What is kept of a run is what the run says, and what the bytes allow."""

import numpy as np
import pytest
from chosen_runs import made_run, ordinary

import distwatch as dw
from distwatch.analysis.overview import Extent, extent_within, read_distribution, read_overview
from distwatch.analysis.overview.distributions import _ends
from distwatch.analysis.overview.reading import nbytes_of
from distwatch.errors import ConfigError, UnknownSignalError
from distwatch.statistics import LogHistogram, observe
from distwatch.store import StoredRun
from distwatch.testing.fake import fake_run


@pytest.fixture
def fake(tmp_path):
    return fake_run(tmp_path / "run.zarr", steps=43, replicas=3)


def test_each_step_is_what_the_run_says(fake):
    run, overview = dw.open_run(fake.path), read_overview(StoredRun(fake.path))
    for name in run.signals:
        for statistic in ("mean", "std", "l2"):
            history = overview.history(name, statistic)
            merged, each = run[name].merged(statistic), run[name].per_replica(statistic)
            np.testing.assert_array_equal(history.mean[:, -1], merged)
            np.testing.assert_array_equal(history.high[:, :-1], each)
        np.testing.assert_array_equal(
            overview.history(name, "spread").mean[:, 0], run[name].merged("spread")
        )


def test_what_is_merged_is_of_all_elements_and_no_mean_of_means(fake):
    overview = read_overview(StoredRun(fake.path))
    size = overview.history("activation/dense_1").mean
    for step in range(43):
        whole = np.abs(fake.whole(step, 1)).mean()
        assert size[step, -1] == pytest.approx(whole, rel=1e-12)
    assert np.nanmax(np.abs(np.nanmean(size[:, :-1], axis=1) - size[:, -1])) > 1.0


def test_some_signals_are_read_alone(fake):
    stored = StoredRun(fake.path)
    whole, one = read_overview(stored), read_overview(stored, signals=["activation/dense_1"])
    assert [signal.name for signal in one.signals] == ["activation/dense_1"]
    for name in ("size", "spread"):
        a, b = (each.history("activation/dense_1", name) for each in (whole, one))
        np.testing.assert_array_equal(a.high, b.high)
    np.testing.assert_array_equal(one.histories[0].apart, whole.histories[0].apart[1:])
    with pytest.raises(UnknownSignalError, match="nearest: 'activation/dense'"):
        read_overview(stored, signals=["activation/dens"])


def test_bins_are_the_extremes_of_their_steps(fake):
    stored = StoredRun(fake.path)
    steps, bins = read_overview(stored), read_overview(stored, extent=Extent(bins=6))
    fine, coarse = (each.history("activation/dense") for each in (steps, bins))
    for place, start in enumerate(coarse.bins.starts):
        stop = np.append(coarse.bins.starts, 43)[place + 1]
        np.testing.assert_array_equal(coarse.high[place], np.fmax.reduce(fine.high[start:stop]))
        np.testing.assert_array_equal(coarse.low[place], np.fmin.reduce(fine.low[start:stop]))


def test_nan_and_inf_are_seen_where_they_were(tmp_path):
    deltas = ordinary(40, 2, 2)
    deltas[17, 1, 0, 3] = np.nan
    deltas[29, 0, 1, 2] = np.inf
    overview = read_overview(StoredRun(made_run(tmp_path / "run.zarr", deltas)))
    first, second = (overview.history(f"activation/layer_{i}").broken for i in (0, 1))
    assert np.argwhere(first).tolist() == [[17, 1], [17, 2]]
    assert np.argwhere(second).tolist() == [[29, 0], [29, 2]]


def test_replicas_that_keep_apart_are_told(tmp_path):
    deltas = np.random.default_rng(1).normal(3.0, 1.0, (60, 3, 2, 50))
    deltas[:, 2, 1] += 2.0
    (history,) = read_overview(StoredRun(made_run(tmp_path / "run.zarr", deltas))).histories
    assert history.apart[1] > 4 * history.apart[0]
    # The odd one lies 2 from the others, so 4/3 from the mean of all.
    np.testing.assert_allclose(history.offset[:, 1], [-2 / 3, -2 / 3, 4 / 3], atol=0.1)
    np.testing.assert_allclose(history.offset[:, 0], 0.0, atol=0.1)


def test_a_budget_is_kept_by_giving_up_statistics_and_then_bins(tmp_path):
    names = [f"activation/{i}" for i in range(8)]
    fake_run(tmp_path / "run.zarr", steps=300, replicas=4, signals=names)
    stored = StoredRun(tmp_path / "run.zarr")
    budgets = (500_000, 160_000, 16_000)
    found = [extent_within(stored, budget) for budget in budgets]
    for extent, budget in zip(found, budgets, strict=True):
        assert nbytes_of(stored, extent) <= budget
    assert found[0].bins >= 300
    assert 1 < len(found[1].statistics) < len(found[0].statistics)
    assert (found[2].statistics, found[2].bins < 200) == (("size",), True)


def test_what_is_kept_is_as_large_as_was_told(fake):
    stored, extent = StoredRun(fake.path), Extent(bins=10, statistics=("size", "spread"))
    overview = read_overview(stored, extent=extent)
    kept = sum(b.mean.size for h in overview.histories for b in h.kept.values()) * 3 * 4
    assert nbytes_of(stored, extent) == pytest.approx(kept, rel=0.2)


def test_unknown_statistics_are_refused(fake):
    overview = read_overview(StoredRun(fake.path))
    with pytest.raises(ConfigError, match="unknown statistic 'stdd'; nearest: 'std'"):
        overview.history("activation/dense", "stdd")
    with pytest.raises(ConfigError, match="has no 'ratio'; it has: size, spread"):
        overview.history("activation/dense", "ratio")


def test_ratios_are_kept_where_there_are_some(tmp_path):
    path = made_run(tmp_path / "run.zarr", ordinary(20, 2, 1), ratio=True)
    history = read_overview(StoredRun(path)).history("activation/layer_0", "ratio")
    expected = dw.open_run(path)["activation/layer_0"].merged("ratio")
    np.testing.assert_array_equal(history.mean[:, -1], expected)
    assert 0 < history.mean[0, -1] < 0.1


@pytest.mark.parametrize("parts", [1, 5])
def test_distributions_are_those_of_the_elements(tmp_path, parts):
    random = np.random.default_rng(0)
    deltas = random.normal(0.0, 1.0, (40, 2, 2, 200)) + np.array([[2.0], [-5.0]])
    stored = StoredRun(made_run(tmp_path / "run.zarr", deltas, histogram=True))
    found = read_distribution(stored, "activation/layer_1", parts=parts)
    assert found.density.shape == (parts, len(found.edges) - 1)
    assert (found.density.sum(axis=1) > 0.98).all()
    for part in range(parts):
        own = deltas[found.first[part] : found.last[part] + 1, :, 1].ravel()
        exact = np.histogram(own, found.edges)[0] / own.size
        assert np.abs(np.cumsum(exact) - np.cumsum(found.density[part])).max() < 0.03


def test_the_ends_of_buckets_are_those_that_count():
    for histogram in (LogHistogram(), LogHistogram(0.3, 1e-3, 1e3)):
        ends = _ends(histogram)
        assert len(ends) == len(histogram.centres) - 1
        for value in (0.7, -0.7, 1.1, 3.3, -900.0, 0.0):
            (bucket,) = np.flatnonzero(observe(histogram, [value]).counts)
            assert ends[bucket - 1] <= value <= ends[bucket]


def test_without_a_histogram_it_is_refused(fake):
    with pytest.raises(ConfigError, match=r"statistics=\[distwatch.histogram\(\)\]"):
        read_distribution(StoredRun(fake.path), "activation/dense")
