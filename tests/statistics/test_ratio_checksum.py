"""The update-to-weight ratio, and the checksum that tells batches apart."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings

from distwatch.statistics import Checksum, Observation, Ratio, merge_axis, observe
from distwatch.testing.laws import assert_statistic_laws, shards

few = settings(max_examples=30, deadline=None, derandomize=True)
random = np.random.default_rng(11)


def in_graph(statistic, seen):
    """Traced for unknown shapes; None stays None."""
    given_ = {name: x for name, x in seen._asdict().items() if x is not None}
    tensors = {name: tf.constant(x) for name, x in given_.items()}
    signature = {name: tf.TensorSpec(None, x.dtype) for name, x in tensors.items()}

    @tf.function(input_signature=[signature])
    def look(tensors):
        return statistic.pack(statistic.observe(Observation(**{"delta": None, **tensors})))

    return look(tensors).numpy()


# The ratio


@few
@given(batches=shards(special=True))
def test_laws_of_the_ratio(batches):
    assert_statistic_laws(Ratio(), batches)


class LastRatio(Ratio):
    def merge(self, a, b):
        return b


def test_a_wrong_ratio_breaks_a_law():
    with pytest.raises(AssertionError, match="change_l2sq"):
        assert_statistic_laws(LastRatio(), [[1.0, 2.0], [5.0]])


def test_the_ratio_is_that_of_the_norms_of_all_shards():
    sizes = (30, 7, 0, 1)
    weights = [random.normal(r - 2.0, 1.0, (n, 2)) for r, n in enumerate(sizes)]
    changes = [random.normal(0.01 * r, 0.01, (n, 2)) for r, n in enumerate(sizes)]
    pairs = zip(changes, weights, strict=True)
    rows = np.stack([Ratio().pack(Ratio().observe(Observation(c, w + c, w))) for c, w in pairs])
    merged = Ratio().compute(Ratio().unpack(merge_axis(Ratio(), rows, axis=0)))
    norms = [np.linalg.norm(np.concatenate(x)) for x in (changes, weights)]
    np.testing.assert_allclose(merged["ratio"], norms[0] / norms[1], rtol=1e-12)


def test_the_ratio_is_nan_where_there_is_no_weight():
    states = [
        Ratio().observe(Observation(np.ones(3), None, np.zeros(3))),
        Ratio().observe(Observation(np.ones(3), None, None)),
        Ratio().empty(),
        Ratio().observe(Observation(np.full(3, np.inf), None, np.full(3, np.inf))),
        Ratio().observe(Observation(np.ones(3), None, np.full(3, np.nan))),
        Ratio().observe(Observation(np.zeros(3), None, np.ones(3))),
    ]
    packed = np.stack([Ratio().pack(state) for state in states])
    ratio = Ratio().compute(Ratio().unpack(packed))["ratio"]
    np.testing.assert_array_equal(ratio, [np.nan] * 5 + [0.0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_graph_sums_squares_as_the_host(dtype):
    # The sum of squares is beyond the largest float16.
    weight = random.normal(20.0, 3.0, (100, 5)).astype(dtype)
    change = random.normal(0.1, 0.01, (100, 5)).astype(np.float32)
    empty = np.zeros(0, np.float32)
    for seen in (
        Observation(change, None, weight),
        Observation(change),
        Observation(empty, None, weight[:0]),
    ):
        host = Ratio().pack(Ratio().observe(seen))
        np.testing.assert_allclose(in_graph(Ratio(), seen), host, rtol=1e-5)


# The checksum


def checksum(values):
    state = Checksum().observe(Observation(None, values))
    computed = Checksum().compute(state)["checksum"]
    assert computed.dtype == np.int64
    assert 0 <= computed < 2**40
    return int(computed)


BATCHES = {
    "float64": random.normal(3.0, 1.0, (6, 5)),
    "float32": random.normal(3.0, 1.0, (6, 5)).astype(np.float32),
    "float16": random.normal(3.0, 1.0, 30).astype(np.float16),
    "bfloat16": random.normal(3.0, 1.0, 30).astype(tf.bfloat16.as_numpy_dtype),
    "whole float64": random.integers(-3, 4, 30).astype(np.float64),
    "special": np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-310, 5e-324]),
    "int64": random.integers(-(2**63), 2**63 - 1, 30),
    "int32": random.integers(-(2**31), 2**31 - 1, 30, np.int32),
    "uint8": random.integers(0, 255, 30, np.uint8),
    "bool": random.random(30) < 0.5,
    "scalar": np.float32(2.5),
    "empty": np.zeros((0, 4), np.float32),
    "not contiguous": np.arange(24.0).reshape(4, 6)[:, ::2].T,
}


@pytest.mark.parametrize("name", BATCHES)
def test_the_graph_gives_the_checksum_of_the_host(name):
    batch = BATCHES[name]
    assert in_graph(Checksum(), Observation(None, batch)) == [checksum(batch)]
    assert checksum(tf.constant(batch)) == checksum(batch)
    assert (checksum(batch) == 0) == (batch.size == 0)


WIDTHS = [np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8]


@pytest.mark.parametrize("dtype", WIDTHS, ids=lambda dtype: dtype.__name__)
def test_every_changed_bit_shows(dtype):
    batch = random.integers(0, 100, 5).astype(dtype)
    as_whole = f"u{batch.itemsize}"
    seen = {checksum(batch)}
    for place in range(5):
        for bit in range(8 * batch.itemsize):
            changed = batch.copy()
            changed.view(as_whole)[place] ^= np.array(1 << bit, as_whole)
            seen.add(checksum(changed))
    assert len(seen) == 1 + 5 * 8 * batch.itemsize


@pytest.mark.parametrize("dtype", WIDTHS, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("distance", [1, 2, 1000, 2**11, 2**16, 2**19])
def test_every_swap_shows(dtype, distance):
    """Also of round numbers, whose last bits are zero, a power of two apart: whole images."""
    batch = np.zeros(distance + 3, dtype)
    whole = set()
    for a, b in ((0, 1), (1, 2), (4, 1), (3, 64)):
        batch[1], batch[1 + distance] = a, b
        whole |= {checksum(batch)}
        batch[1], batch[1 + distance] = b, a
        whole |= {checksum(batch)}
    assert len(whole) == 8


def test_other_numbers_of_zeros_have_other_checksums():
    assert len({checksum(np.zeros(n)) for n in range(100)}) == 100


def test_random_swaps_and_changes_show():
    batch = random.normal(0.0, 1.0, 50).astype(np.float32)
    others = [random.permutation(batch) for _ in range(500)]
    assert len({checksum(x) for x in [batch, *others]}) == 501


def states_of(batches):
    return [observe(Checksum(), batch) for batch in batches]


@few
@given(batches=shards(3, special=True))
def test_checksums_are_a_monoid(batches):
    merge, empty = Checksum().merge, Checksum().empty()
    a, b, c = states_of(batches)
    assert merge(a, empty) == merge(empty, a) == a
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    packed = np.stack([Checksum().pack(state) for state in (a, b, c)])
    want = sum(int(state.checksum) for state in (a, b, c)) % 2**40
    assert merge_axis(Checksum(), packed, axis=0) == [want]
    assert merge(merge(a, b), c).checksum == want
    np.testing.assert_array_equal(merge_axis(Checksum(), packed[:0], axis=0), [0.0])
    np.testing.assert_array_equal(Checksum().pack(Checksum().unpack(packed)), packed)


def test_checksums_of_8192_replicas_add_up_exactly():
    rows = np.full((8192, 1), 2.0**40 - 1)
    rows[::3] -= 2
    want = sum(int(x) for x in rows[:, 0]) % 2**40
    assert merge_axis(Checksum(), rows, axis=0) == [want]
