"""Few bins of long series: nothing that stands out is lost, and no gap is bridged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distwatch.analysis.overview.binning import Binning, bins_of, gaps_in

NUMBERS = st.one_of(
    st.floats(-1e300, 1e300), st.just(np.nan), st.just(np.inf), st.just(-np.inf)
)


def binned(values, bins, cuts=()):
    binning = Binning(bins, values.shape[1:])
    for part in np.split(values, sorted(cuts)):
        binning.observe(part)
    return binning.done()


def whole(values, bins):
    """What NumPy says of each bin's rows."""
    for part in np.split(values, bins.starts[1:]):
        finite = part[np.isfinite(part)]
        some = len(finite) > 0
        yield (
            finite.min() if some else np.nan,
            finite.max() if some else np.nan,
            np.isinf(part).any(),
        )


@given(
    values=st.lists(NUMBERS, min_size=1, max_size=80),
    most=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 80), max_size=6),
)
def test_bins_are_what_numpy_says_of_the_whole(values, most, cuts):
    values = np.array(values)
    bins = bins_of(np.arange(len(values)), most)
    found = binned(values, bins, cuts)
    low, high, infinite = (np.array(each) for each in zip(*whole(values, bins), strict=True))
    np.testing.assert_array_equal(found.low, low)
    np.testing.assert_array_equal(found.high, high)
    np.testing.assert_array_equal(found.infinite, infinite)
    known = ~np.isnan(low)
    assert (found.mean[known] >= low[known]).all()
    assert (found.mean[known] <= high[known]).all()


def test_the_mean_is_that_of_the_finite_values():
    values = np.array([1.0, 2.0, np.nan, 6.0, np.inf, 4.0])
    np.testing.assert_allclose(binned(values, bins_of(np.arange(6), 2)).mean, [1.5, 5.0])


def test_series_are_kept_apart():
    values = np.random.default_rng(0).normal(5.0, 1.0, (100, 3, 2))
    found = binned(values, bins_of(np.arange(100), 7), cuts=[13, 14, 60])
    for at in np.ndindex(3, 2):
        alone = binned(values[:, *at], found.bins)
        np.testing.assert_array_equal(found.high[:, *at], alone.high)
        np.testing.assert_allclose(found.mean[:, *at], alone.mean)


@given(steps=st.integers(1, 5000), most=st.integers(1, 300), spike=st.data())
def test_a_spike_of_one_step_keeps_its_height(steps, most, spike):
    at = spike.draw(st.integers(0, steps - 1))
    values = np.ones(steps)
    values[at] = 1e6
    found = binned(values, bins_of(np.arange(steps), most))
    (place,) = np.flatnonzero(found.high == 1e6)
    assert found.bins.first[place] <= at <= found.bins.last[place]


@given(strides=st.lists(st.integers(1, 9), min_size=0, max_size=200), most=st.integers(1, 60))
def test_every_row_is_in_one_bin_and_there_are_not_too_many(strides, most):
    step = np.concatenate([[3], 3 + np.cumsum(strides)]).astype(np.int64)
    bins = bins_of(step, most)
    assert 1 <= len(bins) <= most
    assert (bins.starts[0], bins.rows) == (0, len(step))
    assert (np.diff(bins.starts) > 0).all()
    assert (bins.first[0], bins.last[-1]) == (step[0], step[-1])
    assert (bins.first[1:] > bins.last[:-1]).all()


def test_few_steps_are_bins_of_their_own():
    assert bins_of(np.arange(10), 10).are_steps
    assert not bins_of(np.arange(11), 10).are_steps


@pytest.mark.parametrize(
    ("step", "before"),
    [
        ([*range(50), *range(80, 130)], [80]),
        ([*range(0, 500, 10), *range(900, 1400, 10)], [900]),
        ([*range(20), 50, *range(80, 100)], [50, 80]),
        ([*range(0, 400, 4), *range(400, 450)], []),  # thinned out in its old part
        ([2**i for i in range(20)], []),
        ([0, 100, 103], []),
        ([4, 14], []),
        ([7], []),
    ],
)
def test_gaps_are_where_steps_are_missing(step, before):
    step = np.array(step)
    assert step[gaps_in(step)].tolist() == before


def test_no_bin_reaches_over_a_gap():
    step = np.array([*range(50), *range(80, 130)])
    bins = bins_of(step, 9)
    assert len(bins) <= 9
    assert not ((bins.first < 60) & (bins.last > 60)).any()
    assert bins.first[bins.after_gap].tolist() == [80]


def test_more_rows_than_there_are_bins_for_are_refused():
    binning = Binning(bins_of(np.arange(3), 3), ())
    with pytest.raises(ValueError, match="4 rows were given, the bins are of 3"):
        binning.observe(np.zeros(4))
