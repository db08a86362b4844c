"""Quantiles from merged histograms keep their declared accuracy; the graph counts alike."""

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from distwatch.errors import ConfigError, StateShapeError
from distwatch.statistics import (
    ROW,
    Checksum,
    LogHistogram,
    Observation,
    Ratio,
    from_spec,
    merge_axis,
    observe,
    with_row,
)
from distwatch.testing.laws import assert_statistic_laws, shards

HISTOGRAM = LogHistogram()
WITH_HISTOGRAM = with_row((HISTOGRAM,))
Q = np.array([0.0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.77, 0.9, 0.99, 0.999, 1.0])

few = settings(max_examples=30, deadline=None, derandomize=True)

#: Eight unequal shards, one of them empty, with unlike means.
SIZES = (301, 77, 1, 0, 5, 64, 2, 12)
DATA = {
    "normal": lambda random, r, n: random.normal(3.0 * r - 7.0, 1.0, n),
    "lognormal": lambda random, r, n: random.lognormal(r - 4.0, 2.0, n),
    "both signs, many octaves": lambda random, r, n: (
        random.choice([-1.0, 1.0], n) * 10.0 ** random.uniform(-11.0, 8.0, n)
    ),
    "constant": lambda random, r, n: np.full(n, 0.1),
    "tied": lambda random, r, n: random.integers(-2, 3, n) * (1.0 + r),
    "infinities": lambda random, r, n: np.where(
        random.random(n) < 0.1, random.choice([-np.inf, np.inf], n), random.normal(r, 1.0, n)
    ),
    "denormal": lambda random, r, n: random.normal(r, 1.0, n) * 1e-310,
    "near smallest": lambda random, r, n: random.normal(r, 3.0, n) * 1e-12,
    "zeros": lambda random, r, n: np.maximum(random.normal(r - 4.0, 2.0, n), 0.0),
}


def parts_of(name):
    random = np.random.default_rng(5)
    return [DATA[name](random, r, n) for r, n in enumerate(SIZES)]


def folded(states):
    whole = WITH_HISTOGRAM.empty()
    for state in states:
        whole = WITH_HISTOGRAM.merge(whole, state)
    return WITH_HISTOGRAM.pack(whole)


def merged_in_all_ways(parts):
    states = [observe(WITH_HISTOGRAM, part) for part in parts]
    packed = np.stack([WITH_HISTOGRAM.pack(state) for state in states])
    yield folded(states)
    yield merge_axis(WITH_HISTOGRAM, packed, axis=0)
    yield merge_axis(WITH_HISTOGRAM, packed[None], axis=1)[0]
    halves = np.stack([packed[:4], packed[4:]], axis=1)
    yield merge_axis(WITH_HISTOGRAM, merge_axis(WITH_HISTOGRAM, halves, axis=1), axis=0)


def quantile(packed, q, histogram=HISTOGRAM):
    low, high = (packed[..., ROW.fields.index(name)] for name in ("min", "max"))
    return histogram.quantile(packed[..., len(ROW.fields) :], low, high, q)


def ends(values, q):
    """The order statistics on both sides of a quantile, and the weight of the second."""
    ordered = np.sort(values[~np.isnan(values)])
    rank = np.asarray(q) * (ordered.size - 1)
    below = np.floor(rank).astype(int)
    return ordered[below], ordered[np.minimum(below + 1, ordered.size - 1)], rank - below


def assert_accurate(got, values, q, histogram=HISTOGRAM):
    low, high, weight = ends(values, q)
    alone = (weight == 0) | (low == high)
    finite = np.isfinite(low) & (alone | np.isfinite(high))
    weight = np.where(alone, 0.0, weight)
    low_, high_ = np.where(finite, low, 0.0), np.where(np.isfinite(high), high, 0.0)
    want = (1 - weight) * low_ + weight * high_
    bound = (1 - weight) * np.abs(low_) + weight * np.abs(high_)
    bound = histogram.relative_accuracy * bound * (1 + 1e-9) + histogram.smallest
    assert np.all(np.abs(np.where(finite, got, 0.0) - np.where(finite, want, 0.0)) <= bound)
    np.testing.assert_array_equal(got[alone & ~finite], low[alone & ~finite])
    if np.isfinite(values).all():
        np.testing.assert_allclose(want, np.quantile(values, q), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("name", DATA)
def test_merged_quantiles_are_within_the_declared_accuracy(name):
    parts = parts_of(name)
    values = np.concatenate(parts)
    for packed in merged_in_all_ways(parts):
        assert packed.shape == (len(WITH_HISTOGRAM.fields),)
        assert packed[len(ROW.fields) :].sum() == values.size
        assert_accurate(quantile(packed, Q), values, Q)


@few
@given(batches=shards(special=True), q=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5))
def test_quantiles_of_any_shards(batches, q):
    values = np.concatenate(batches)
    got = quantile(folded([observe(WITH_HISTOGRAM, batch) for batch in batches]), np.array(q))
    if np.isnan(values).all():
        assert np.isnan(got).all()
    else:
        assert_accurate(got, values, np.array(q))


@pytest.mark.parametrize("name", [name for name in DATA if name != "infinities"])
def test_the_extremes_are_exact(name):
    values = np.concatenate(parts_of(name))
    packed = folded([observe(WITH_HISTOGRAM, part) for part in parts_of(name)])
    assert quantile(packed, 0.0) == values.min()
    assert quantile(packed, 1.0) == values.max()


@pytest.mark.parametrize("values", [[0.1] * 9, [1e12, 2e12, 3e12], [-3e12, -2e12], [4e-13] * 3])
def test_quantiles_stay_between_the_extremes(values):
    """So those of equal values are exact, also beyond the range of the buckets."""
    got = quantile(WITH_HISTOGRAM.pack(observe(WITH_HISTOGRAM, values)), Q)
    assert np.all((got >= min(values)) & (got <= max(values)))


def test_the_extremes_beside_infinities_are_exact():
    values = np.array([-np.inf, -np.inf, -3.3, 0.7, 5.5, np.inf, np.nan])
    got = quantile(WITH_HISTOGRAM.pack(observe(WITH_HISTOGRAM, values)), np.arange(6) / 5)
    np.testing.assert_array_equal(got[[0, 1, 2, 4, 5]], [-np.inf, -np.inf, -3.3, 5.5, np.inf])
    assert got[3] == pytest.approx(0.7, rel=HISTOGRAM.relative_accuracy)
    # A rank between a number and an infinity is infinite.
    row = WITH_HISTOGRAM.pack(observe(WITH_HISTOGRAM, [1.0, np.inf]))
    assert quantile(row, 0.25) == np.inf
    infinite = WITH_HISTOGRAM.pack(observe(WITH_HISTOGRAM, [np.inf, np.inf]))
    np.testing.assert_array_equal(quantile(infinite, [0.0, 0.3, 1.0]), np.inf)


def test_quantiles_of_many_signals_and_of_nothing():
    values = [[[1.0, 2.0, 4.0], []], [[np.nan], [-8.0]], [[0.0], [1e-300, -5.0]]]
    packed = np.stack([[WITH_HISTOGRAM.pack(observe(WITH_HISTOGRAM, x)) for x in y]
                       for y in values])  # fmt: skip
    got = quantile(packed, [0.0, 1.0])
    assert got.shape == (3, 2, 2)
    want = [[[1, 4], [np.nan] * 2], [[np.nan] * 2, [-8, -8]], [[0, 0], [-5, 1e-300]]]
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(quantile(packed, 0.0), got[..., 0])
    assert quantile(packed[:0], [0.0, 0.5]).shape == (0, 2, 2)


def test_buckets_hold_what_lies_between_their_neighbours():
    """Against a search in the sorted edges, by values on and beside every edge."""
    histogram = LogHistogram(accuracy=1 / 9, smallest=1e-3, largest=100.0)
    positive = histogram.centres[len(histogram.centres) // 2 + 1 : -2]
    octaves = 2.0 ** np.arange(-10, 7)
    edges = np.r_[(octaves[:, None] * [1.0, 1.25, 1.5, 1.75]).ravel(), 128.0]
    assert len(positive) == len(edges) - 1
    np.testing.assert_allclose(positive, 2 * edges[1:] * edges[:-1] / (edges[1:] + edges[:-1]))
    probes = np.r_[edges, np.nextafter(edges, 0.0), np.nextafter(edges, np.inf), 1e300, 0.0]
    for sign in (1, -1):
        for value in sign * probes:
            (place,) = np.flatnonzero(observe(histogram, [value]).counts)
            beyond = len(histogram.centres) // 2 + sign * np.searchsorted(
                edges, abs(value), side="right"
            )
            assert place == beyond, value
    for place, value in ((0, -np.inf), (-1, np.inf)):
        assert observe(histogram, [value]).counts[place] == 1
    assert observe(histogram, [np.nan]).counts.sum() == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("histogram", [HISTOGRAM, LogHistogram(0.4, 1e-37, 1e38)], ids=str)
def test_the_graph_counts_as_the_host(dtype, histogram):
    signature = [tf.TensorSpec(None, tf.as_dtype(dtype))]
    graph = tf.function(
        lambda x: histogram.observe(Observation(x)).counts, input_signature=signature
    )
    random = np.random.default_rng(3)
    spread = random.choice([-1.0, 1.0], 5000) * 10.0 ** random.uniform(-37.9, 38.0, 5000)
    powers = 2.0 ** np.arange(-126, 128)
    special = [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, np.finfo(dtype).max, 1e-40, -1e-40]
    many = np.r_[spread, powers, -powers, histogram.centres[1:-1], special].astype(dtype)
    near = np.r_[np.nextafter(many, dtype(0)), np.nextafter(many, dtype(1e38))]
    for values in (many, near, many[:5000].reshape(10, 50, 10), many[:0], many[0]):
        host = histogram.observe(Observation(values)).counts
        assert host.sum() == np.count_nonzero(~np.isnan(values))
        for got in (
            graph(tf.constant(values)),
            histogram.observe(Observation(tf.constant(values)))[0],
        ):
            assert got.dtype == tf.float64
            np.testing.assert_array_equal(got, host)
    # What float64 counts of the same numbers is the same, too.
    np.testing.assert_array_equal(
        histogram.observe(Observation(many)).counts,
        histogram.observe(Observation(many.astype(np.float64))).counts,
    )


def test_a_row_is_packed_in_the_graph_as_on_the_host():
    statistic = with_row((HISTOGRAM, Checksum(), Ratio()))
    values = np.random.default_rng(0).normal(4.0, 1.0, 100).astype(np.float32)
    seen = Observation(values, values, values)
    # Those of every row have a look of their own in the graph.
    pack = tf.function(lambda x: tf.concat(
        [each.pack(each.observe(Observation(x, x, x))) for each in statistic.further], axis=-1
    ))  # fmt: skip
    host = statistic.pack(statistic.observe(seen))
    np.testing.assert_allclose(pack(tf.constant(values)), host[len(ROW.fields) :], rtol=1e-6)


def test_the_usual_row_is_one_operation_in_the_graph():
    @tf.function
    def pack(x):
        return ROW.pack(ROW.unflatten(tuple([x] * len(ROW.fields))))

    graph = pack.get_concrete_function(tf.constant(1.0, tf.float64)).graph
    assert [op.type for op in graph.get_operations()].count("Pack") == 1
    assert not [op for op in graph.get_operations() if op.type.startswith("Concat")]


@few
@given(batches=shards(special=True))
def test_laws(batches):
    assert_statistic_laws(HISTOGRAM, batches)
    assert_statistic_laws(with_row((HISTOGRAM, Ratio())), batches)


class DroppingLast(LogHistogram):
    def reduce_replicas(self, state, reductions):
        return super().reduce_replicas(type(state)(state.counts[:-1]), reductions)


class OneBesides(LogHistogram):
    """Puts all that it merges one bucket further."""

    def merge(self, a, b):
        return super().merge(a, b)._replace(counts=np.roll(a.counts + b.counts, 1, axis=-1))


@pytest.mark.parametrize(
    "wrong", [DroppingLast(), OneBesides()], ids=lambda x: type(x).__name__
)
def test_a_wrong_histogram_breaks_a_law(wrong):
    with pytest.raises(AssertionError, match="histogram\\["):
        assert_statistic_laws(wrong, [[1.0, 2.0], [], [5.0]])


@pytest.mark.parametrize("accuracy", [0.5, 1 / 3, 0.2, 0.05, 1 / 33, 0.01, 0.001])
def test_accuracy(accuracy):
    histogram = LogHistogram(accuracy=accuracy)
    kept = histogram.relative_accuracy
    assert kept <= accuracy < max(1.0, 2 * kept)
    # What it says is neither missed nor far too modest.
    values = np.random.default_rng(1).lognormal(0.0, 3.0, 3001)
    statistic = with_row((histogram,))
    packed = statistic.pack(observe(statistic, values))
    q = np.arange(3001) / 3000
    assert_accurate(quantile(packed, q, histogram), values, q, histogram)
    worst = np.max(np.abs(quantile(packed, q, histogram) / np.sort(values) - 1.0))
    assert 0.8 * kept < worst <= kept * (1 + 1e-9)


def test_the_range():
    histogram = LogHistogram(accuracy=0.3, smallest=0.5, largest=8.0)
    assert len(histogram.fields) == len(histogram.centres) == 2 * 4 * 2 + 5
    assert len(set(histogram.fields)) == len(histogram.fields)
    np.testing.assert_array_equal(histogram.centres, -histogram.centres[::-1])
    assert np.all(np.diff(histogram.centres) > 0)
    place = {value: np.flatnonzero(observe(histogram, [value]).counts)[0]
             for value in (-9.0, -0.49, 0.0, 0.5, 7.99, 8.0, 1e300)}  # fmt: skip
    assert list(place.values()) == [1, 10, 10, 11, 18, 19, 19]


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"accuracy": 0.0}, "give a relative error"),
        ({"accuracy": -1}, "give a relative error"),
        ({"accuracy": 1.0}, "give a relative error"),
        ({"accuracy": np.nan}, "give a relative error"),
        ({"smallest": 0.0}, "give two numbers"),
        ({"smallest": 2.0, "largest": 1.0}, "give two numbers"),
        ({"largest": np.inf}, "give two numbers"),
        ({"smallest": 1e-300}, "give two numbers"),
    ],
    ids=str,
)
def test_wrong_parameters_are_refused_with_a_remedy(wrong, remedy):
    with pytest.raises(ConfigError, match=remedy):
        LogHistogram(**wrong)


def test_a_packed_state_of_another_histogram_is_refused():
    with pytest.raises(StateShapeError, match="has 3 columns, expected 2245; both sides"):
        HISTOGRAM.unpack(np.zeros((5, 3)))
    with pytest.raises(StateShapeError, match="has 11 columns, expected 2256; both sides"):
        WITH_HISTOGRAM.unpack(np.zeros((5, 11)))


def test_specs_make_the_same_row_again():
    row = with_row((LogHistogram(accuracy=0.01), Ratio(), Checksum()))
    assert [type(part) for part in row.further] == [Ratio, Checksum, LogHistogram]
    again = from_spec(json.loads(json.dumps([part.spec() for part in row.further])))
    assert again.fields == row.fields
    assert again.further[-1] == LogHistogram(accuracy=0.01)
    assert from_spec([]) is with_row(()) is ROW


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "histogramm"}, "nearest: 'histogram'"),
        ({}, "unknown statistic None"),
        ({"name": "histogram", "precision": 0.1}, "precision"),
        ({"name": "histogram", "accuracy": "fine"}, "statistic 'histogram'"),
        ({"name": "histogram", "accuracy": 7}, "give a relative error"),
        ({"name": "ratio", "accuracy": 0.1}, "statistic 'ratio'"),
    ],
    ids=str,
)
def test_a_wrong_spec_is_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        from_spec([spec])


def test_columns_are_counted_without_naming_them():
    assert WITH_HISTOGRAM.columns == len(WITH_HISTOGRAM.fields)
    assert ROW.columns == len(ROW.fields)
