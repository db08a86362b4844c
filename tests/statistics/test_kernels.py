"""The look over the deltas inside the graph equals the one on the host."""

import numpy as np
import pytest
import tensorflow as tf

from distwatch.statistics import BasicSums, measure
from distwatch.training.device import kernels
from distwatch.training.device.deltas import Delta, Deltas, comparable

random = np.random.default_rng(7)
normal = random.standard_normal(1000)

#: What a delta can look like, in float32 unless it says otherwise.
VALUES = {
    "normal": normal,
    "matrix": normal.reshape(10, 20, 5),
    "mean of 1e4 standard deviations": 1e4 + normal,
    "negative mean of 1e4 standard deviations": -1e4 + normal,
    "mean of 1e6 standard deviations": 1e4 + 0.01 * normal,
    "constant": np.full(77, 0.1),
    "zeros": np.zeros(50),
    "negative zeros": np.full(3, -0.0),
    "relu": np.maximum(normal, 0.0),
    "one far off": np.r_[np.zeros(99), 1e4],
    "empty": np.zeros((0, 4)),
    "scalar": np.array(-3.25),
    "single element": np.array([-3.25]),
    "NaN": np.r_[normal, np.nan, 0.0],
    "+inf": np.r_[normal, np.inf],
    "-inf": np.r_[normal, -np.inf],
    "both infinities": np.r_[normal, np.inf, -np.inf, -np.inf],
    "NaN and infinities": np.r_[0.0, 2.0, np.nan, np.inf, -np.inf],
    "all NaN": np.full(5, np.nan),
    "all infinite": np.full(5, -np.inf),
    "many": 3.0 + np.tile(normal, 300),
    "squares underflow float32": 1e-25 * normal,
    "most squares underflow float32": 3e-20 * normal,
    "squares overflow float32": 1e25 * normal,
    "sum overflows float32": np.full(8, 3e38),
    "float64": 1e8 + normal.astype(np.float64),
    "float64, NaN": np.r_[1e8 + normal, np.nan].astype(np.float64),
    "float64, squares of 1e150": (1e150 * normal).astype(np.float64),
}
DENORMAL = np.r_[1e-40, -3e-40, 0.0, 2e-39]


def as_delta(name, values):
    return np.asarray(values, np.float64 if name.startswith("float64") else np.float32)


def sums_of(deltas):
    """The sums of some deltas, which have no reference."""
    counts = tf.stack([tf.cast(tf.size(delta.now), tf.float64) for delta in deltas])
    whole = tf.constant([True] * len(deltas))
    sums, _ = kernels.measure(Deltas(deltas, counts, whole), [delta.now for delta in deltas])
    return sums


def eagerly(deltas):
    return sums_of([Delta(tf.constant(delta)) for delta in deltas])


def in_graph(deltas, against=lambda x: None, known=False):
    """Traced for unknown shapes, as partial batches make them, or for known ones."""
    signature = [
        tf.TensorSpec(delta.shape if known else [None] * delta.ndim, tf.as_dtype(delta.dtype))
        for delta in deltas
    ]

    @tf.function(input_signature=signature)
    def look(*tensors):
        return tuple(sums_of([Delta(x, against(x)) for x in tensors]))

    return BasicSums(*look(*(tf.constant(delta) for delta in deltas)))


def against_zeros(deltas):
    return in_graph(deltas, tf.zeros_like)


def of_known_shapes(deltas):
    return in_graph(deltas, known=True)


def assert_as_on_the_host(passes, deltas):
    expected = BasicSums(*zip(*(measure(delta) for delta in deltas), strict=True))
    for name, got, want in zip(BasicSums._fields, passes, expected, strict=True):
        assert got.dtype == tf.float64
        assert got.shape == (len(deltas),)
        for delta, x, y in zip(deltas, got.numpy(), want, strict=True):
            np.testing.assert_allclose(x, y, rtol(name, delta), atol(name, delta), err_msg=name)


EXACT = ("count", "zeros", "nans", "infs", "min", "max")


def rtol(name, delta):
    if name in EXACT:
        return 0.0
    return 1e-12 if delta.dtype == np.float64 else 1e-5


def atol(name, delta):
    """The rounding that shows in a mean near zero, and in the spread of equal values."""
    largest = np.abs(delta[np.isfinite(delta)], dtype=np.float64).max(initial=0.0)
    if name == "mean":
        return np.finfo(delta.dtype).eps * largest
    return delta.size * (2 * np.finfo(np.float64).eps * largest) ** 2 if name == "m2" else 0.0


@pytest.mark.parametrize("look", [eagerly, in_graph])
@pytest.mark.parametrize("name", VALUES)
def test_one_delta(name, look):
    deltas = [as_delta(name, VALUES[name])]
    assert_as_on_the_host(look(deltas), deltas)


@pytest.mark.fast_cases("in_graph", "of_known_shapes")
@pytest.mark.parametrize("look", [eagerly, in_graph, of_known_shapes, against_zeros])
def test_all_deltas_at_once(look):
    deltas = [as_delta(name, values) for name, values in VALUES.items()]
    assert_as_on_the_host(look(deltas), deltas)


#: About the 64 elements of a block, and the largest that is read together with others.
SIZES = [0, 1, 63, 64, 65, 128, 129, 1000, 16_384, 16_385]


@pytest.mark.parametrize("shift", [0.0, -50.0, 50.0, 1e5, np.nan], ids=str)
def test_small_deltas_of_all_sizes_are_as_on_the_host(shift):
    """All below zero, or above it: what fills up a block is neither the least nor the most."""
    deltas = [(shift + random.standard_normal(size)).astype(np.float32) for size in SIZES]
    for look in (eagerly, of_known_shapes):
        assert_as_on_the_host(look(deltas), deltas)


def test_half_precision_is_read_together_as_float32():
    deltas = [np.float16(3.0 + random.standard_normal(size)) for size in SIZES[1:]]
    wide = [delta.astype(np.float32) for delta in deltas]
    assert_as_on_the_host(of_known_shapes(deltas), wide)


def operations_of(number):
    """How many operations a look at so many small deltas takes, in all functions together."""
    counts, whole = np.zeros(number), np.ones(number, bool)

    @tf.function(input_signature=[tf.TensorSpec([5 + i, 3]) for i in range(number)])
    def look(*tensors):
        deltas = Deltas([Delta(x) for x in tensors], tf.constant(counts), tf.constant(whole))
        return tuple(kernels.measure(deltas, tensors)[0])

    graph = look.get_concrete_function().graph.as_graph_def()
    return len(graph.node) + sum(len(each.node_def) for each in graph.library.function)


def test_another_small_delta_is_next_to_no_operation():
    # It is an argument, is made flat, and has padding, which those of its size share.
    assert (operations_of(60) - operations_of(10)) / 50 <= 3.0


@pytest.mark.fast_cases("*-in_graph")
@pytest.mark.parametrize("look", [eagerly, in_graph])
@pytest.mark.parametrize("name", ["NaN", "mean of 1e4 standard deviations", "empty"])
def test_an_irregular_delta_leaves_its_neighbours_alone(name, look):
    regular = as_delta("normal", VALUES["normal"])
    deltas = [regular, as_delta(name, VALUES[name]), 2 * regular]
    passes = look(deltas)
    assert_as_on_the_host(passes, deltas)
    alone = look([regular])
    assert [column[0].numpy() for column in passes] == [column[0].numpy() for column in alone]


@pytest.mark.parametrize("look", [eagerly, in_graph])
@pytest.mark.parametrize("beside", [[], [np.nan], [1e4, 1e4]], ids=["", "NaN", "a mean"])
def test_denormals_are_not_zeros(look, beside):
    # A thousand, since few elements are not given to TensorFlow's own threads.
    values = np.r_[np.tile(DENORMAL, 250), beside].astype(np.float32)
    assert look([values]).zeros.numpy() == [250.0]


@pytest.mark.parametrize("look", [eagerly, in_graph])
def test_sums_of_denormals_are_next_to_nothing(look):
    passes = look([DENORMAL.astype(np.float32)])
    assert passes.count.numpy() == [4.0]
    assert np.all(np.abs(passes.mean) <= 3e-40)
    assert np.all(passes.m2.numpy() >= 0.0)


def test_zeros_are_counted_where_float32_cannot_count():
    # An odd number of nonzeros above 2**24, of both signs, so that the spread is plain.
    signs = np.ones(2**24 + 8, np.float32)
    signs[::2] = -1.0
    signs[:3] = 0.0
    assert eagerly([signs]).zeros.numpy() == [3.0]


def test_an_irregular_delta_is_made_again_and_a_regular_one_is_not():
    made = []

    class Counted(Delta):
        def value(self):
            made.append(self.now.numpy().tolist())
            return super().value()

    regular, irregular = [1.0, -2.0, 0.5], [1e4, 1e4 + 1]
    sums_of([Counted(tf.constant(regular)), Counted(tf.constant(irregular))])
    assert made == [regular, irregular]
    again = []
    original = kernels.look_again
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            kernels, "look_again", lambda x, *rest: again.append(len(x)) or original(x, *rest)
        )
        sums_of([Delta(tf.constant(regular)), Delta(tf.constant(irregular))])
    assert again == [2]


def test_a_single_element_such_as_a_loss_is_not_looked_at_again(monkeypatch):
    """It would be at every step: its mean is all that there is of it."""
    monkeypatch.setattr(kernels, "look_again", None)
    numbers = np.array([2.3, -1e4, 1e-12, 0.0], np.float32)
    for number in map(np.atleast_1d, numbers):
        sums = eagerly([number])
        np.testing.assert_array_equal(sums.mean, number.astype(np.float64))
        np.testing.assert_array_equal(sums.m2, [0.0])
        np.testing.assert_allclose(sums.l2sq, number.astype(np.float64) ** 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "widened"),
    [
        (tf.float16, tf.float32),
        (tf.bfloat16, tf.float32),
        (tf.float32, tf.float32),
        (tf.float64, tf.float64),
        (tf.int32, tf.float64),
        (tf.bool, tf.float64),
    ],
)
def test_deltas_are_computed_in_a_dtype_that_holds_them(dtype, widened):
    assert comparable(tf.ones((2, 3), dtype)).dtype == widened


def test_int32_is_exact():
    largest = tf.constant([2**31 - 1, -(2**31)])
    assert comparable(largest).numpy().tolist() == [2**31 - 1, -(2**31)]
