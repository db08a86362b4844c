"""The function that takes checksums of variables on their device."""

import numpy as np
import pytest
import tensorflow as tf

from distwatch.statistics import Checksum, observe
from distwatch.training.device.copies import checksums_function

DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int32", "uint32", "bool")


def checksums_of(variables):
    return checksums_function(variables)([each.handle for each in variables]).numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 3), (131, 129)])
def test_each_flipped_bit_changes_its_variable_alone(dtype, shape):
    rng = np.random.default_rng(1)
    dtype = tf.dtypes.as_dtype(dtype)
    numbers = np.asarray(rng.integers(0, 2, size=shape))
    variables = [tf.Variable(tf.cast(numbers, dtype)) for _ in range(3)]
    before = checksums_of(variables)
    assert (before > 0).all()
    values = variables[1].numpy()
    flat = np.array(values).reshape(-1)
    kind = np.uint8 if dtype == tf.bool else f"u{dtype.size}"
    bits = flat.view(kind)
    bits[len(bits) // 2] ^= np.array(1, bits.dtype)
    variables[1].assign(tf.constant(flat.reshape(shape), dtype))
    assert list(checksums_of(variables) != before) == [False, True, False]


def test_an_even_number_of_signs_shows():
    """A weighted sum of bit patterns is blind to it."""
    values = np.random.default_rng(3).normal(size=(8, 4)).astype("float32")
    variable = tf.Variable(values)
    before = checksums_of([variable])
    values.reshape(-1)[1:4:2] *= -1
    variable.assign(values)
    assert checksums_of([variable]) != before


def test_the_words_of_one_variable_give_its_checksum():
    values = np.random.default_rng(2).normal(size=(129, 128))
    (found,) = checksums_of([tf.Variable(values)])
    assert found == observe(Checksum(), values).checksum


def test_another_variable_takes_three_operations():
    few = 4

    def operations(number):
        variables = [tf.Variable(tf.zeros([3, 4])) for _ in range(number)]
        function = checksums_function(variables)
        graph = function.get_concrete_function([each.handle for each in variables]).graph
        return len(graph.get_operations())

    # With the handle that comes in: four.
    assert (operations(10 * few) - operations(few)) / (9 * few) <= 4
