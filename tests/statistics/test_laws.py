"""Law 1: the merged state over any split of the data equals NumPy on the whole."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from distwatch.errors import StateShapeError
from distwatch.statistics import (
    ROW,
    Counts,
    Extrema,
    Moments,
    Norms,
    Product,
    merge_axis,
    observe,
)
from distwatch.testing import mirrored
from distwatch.testing.laws import assert_statistic_laws, shards
from distwatch.training.device import kernels
from distwatch.training.device.deltas import Delta, Deltas
from distwatch.training.strategies import row_merger

STATISTICS = [Counts(), Moments(), Extrema(), Norms(), ROW]
REPLICAS = [1, 2, 3, 4, 8]

#: Examples are made, not searched for by time, so that a slow machine changes nothing.
few = settings(max_examples=30, deadline=None, derandomize=True)


def oracle(parts):
    """What ROW says of values that are all finite, by NumPy alone."""
    values = np.concatenate(parts).astype(np.float64)
    some = values if values.size else np.array([np.nan])
    return {
        "count": values.size,
        "zeros": np.sum(values == 0),
        "nans": 0,
        "infs": 0,
        "mean": np.mean(some),
        "std": np.std(some),
        "min": np.min(some),
        "max": np.max(some),
        "l1": np.sum(np.abs(values)),
        "l2": np.linalg.norm(values),
    }


def assert_close(state, expected, values, rtol):
    """Relative to the value, or to the rounding of the values that it is made of."""
    ulp = 8 * np.finfo(np.float64).eps * max(np.abs(x).max(initial=0) for x in values)
    computed = ROW.compute(state)
    assert set(computed) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(computed[name], value, rtol, atol=ulp, err_msg=name)


def merged_in_all_ways(states):
    folded = ROW.empty()
    for state in states:
        folded = ROW.merge(folded, state)
    packed = np.stack([ROW.pack(state) for state in states])
    yield folded
    yield ROW.unpack(merge_axis(ROW, packed, axis=0))
    yield ROW.unpack(merge_axis(ROW, packed[:, None], axis=0)[0])
    yield ROW.unpack(merge_axis(ROW, packed[None], axis=1)[0])


@pytest.mark.parametrize("replicas", REPLICAS)
@few
@given(data=st.data())
def test_merged_shards_equal_numpy_on_the_whole(replicas, data):
    parts = data.draw(shards(replicas))
    expected = oracle(parts)
    for state in merged_in_all_ways([observe(ROW, part) for part in parts]):
        assert_close(state, expected, parts, rtol=1e-6)


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda s: type(s).__name__)
@few
@given(batches=shards(special=True))
def test_laws(statistic, batches):
    assert_statistic_laws(statistic, batches)


@pytest.mark.parametrize(
    "batches",
    [
        [],
        [[]],
        [[], [], []],
        [[5.0]],
        [[], [5.0], []],
        [np.full((2, 3), 0.1), np.full((7, 1), 0.1)],
        [[np.nan, np.nan], [np.inf], [-np.inf, 1.0]],
        # Squares overflow float64: the state is infinite, and no side turns it to NaN.
        [[], [1e200, 1e200], [3e200]],
        [[5e-324, 1e-310], [2e-320]],
    ],
    ids=str,
)
def test_laws_at_the_edges(batches):
    assert_statistic_laws(ROW, batches)


def test_laws_where_the_mean_dwarfs_the_spread():
    random = np.random.default_rng(0)
    batches = [1e8 + i + random.standard_normal(size) for i, size in enumerate((30, 7, 1, 0))]
    assert_statistic_laws(ROW, batches)


@pytest.mark.fast_cases("1", "2", "3", "4")
@pytest.mark.parametrize("replicas", REPLICAS)
def test_devices_reduce_as_the_host_merges(replicas):
    random = np.random.default_rng(replicas)
    # (replica, step, signal): sizes differ, and the last replica is now and then idle.
    parts = [
        [
            [random.normal(1e4 + 7 * r + s, 1.0, (3 * r + s) % 11) for s in range(2)]
            for _ in range(3)
        ]
        for r in range(replicas)
    ]
    rows = np.stack([[[ROW.pack(observe(ROW, x)) for x in y] for y in z] for z in parts])
    merged = row_merger(mirrored(replicas))([tf.constant(row) for row in rows])
    assert merged.shape == (3, 2, len(ROW.fields))
    for step, signal in np.ndindex(3, 2):
        whole = [part[step][signal] for part in parts]
        assert_close(ROW.unpack(merged[step, signal]), oracle(whole), whole, rtol=1e-6)
    np.testing.assert_allclose(merged, merge_axis(ROW, rows, axis=0), rtol=1e-9)


@pytest.mark.fast_cases("1", "2", "3", "4")
@pytest.mark.parametrize("replicas", REPLICAS)
def test_float32_far_from_zero_on_devices(replicas):
    random = np.random.default_rng(replicas)
    parts = [
        random.normal(1e4 + 2 * r, 1.0, size).astype(np.float32)
        for r, size in enumerate((300, 77, 1, 0, 5, 64, 0, 12)[:replicas])
    ]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def row(delta):
        counts = tf.cast(tf.size(delta), tf.float64)[None]
        deltas = Deltas([Delta(delta)], counts, tf.constant([True]))
        sums, _ = kernels.measure(deltas, [delta])
        return ROW.pack(ROW.from_sums(sums))

    strategy = mirrored(replicas)
    merged = row_merger(strategy)([row(tf.constant(part)) for part in parts])
    assert_close(ROW.unpack(merged[0]), oracle(parts), parts, rtol=1e-4)


class SubtractingMerge(Moments):
    """The sign error that zero-mean noise on every replica does not show."""

    def merge(self, a, b):
        right = super().merge(a, b)
        return right._replace(m2=2 * (a.m2 + b.m2) - right.m2)


class SubtractingReduction(Moments):
    def reduce_replicas(self, state, reductions):
        right = super().reduce_replicas(state, reductions)
        within = reductions.sum(state.m2)
        return right._replace(m2=2 * within - right.m2)


class WithinOnly(Moments):
    def merge(self, a, b):
        return super().merge(a, b)._replace(m2=a.m2 + b.m2)


class LastWins(Moments):
    def merge(self, a, b):
        return b if np.any(b.n) else a


class Drifting(Counts):
    """Its empty state is no identity."""

    def empty(self):
        return super().empty()._replace(zeros=1.0)


class Shuffled(Counts):
    """Unpacks its fields in another order than it packs them."""

    def unflatten(self, arrays):
        return super().unflatten(arrays[::-1])


class LargestMinimum(Extrema):
    def reduce_replicas(self, state, reductions):
        return (
            super().reduce_replicas(state, reductions)._replace(min=reductions.max(state.min))
        )


class Averaging(Extrema):
    """Commutative, and not associative."""

    def merge(self, a, b):
        if not np.isfinite(a.max) or not np.isfinite(b.max):
            return super().merge(a, b)
        return super().merge(a, b)._replace(max=(a.max + b.max) / 2)


BATCHES = [
    np.array([10.0, 11.0, 13.0]),
    np.array([0.0]),
    np.array([]),
    np.array([-5.0, -5.5, 0.0, -7.0]),
]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (SubtractingMerge(), r"by merge is broken: m2 is -?[\d.]+, expected [\d.]+: off by"),
        (SubtractingReduction(), "by reduce_replicas is broken: m2 "),
        (WithinOnly(), "split-invariance over 4 batches, by merge is broken: m2 "),
        (LastWins(), "commutativity of batches 0 and 1 is broken: n "),
        (Drifting(), "state of no values is broken: zeros "),
        (Shuffled(), "unpack"),
        (LargestMinimum(), "merge_axis of no states is broken: min "),
        (Averaging(), "associativity|split-invariance"),
        (Product((Counts(), SubtractingMerge())), "Product: split-invariance .* m2 "),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_a_wrong_statistic_breaks_a_law(wrong, message):
    with pytest.raises(AssertionError, match=message):
        assert_statistic_laws(wrong, BATCHES)


def test_a_state_of_other_fields_is_refused():
    with pytest.raises(StateShapeError, match=r"3 columns, expected 4 \(count, zeros"):
        Counts().unpack(np.zeros((5, 3)))
