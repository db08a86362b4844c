"""How many units are the same for a whole batch: against NumPy, on the host and in a graph."""

import numpy as np
import pytest
import tensorflow as tf

from distwatch.statistics import Observation, Units, automatic, merge_axis

UNITS = Units()


def by_numpy(x):
    """The state, by a definition of its own."""
    rows = np.reshape(x, (-1, x.shape[-1] if x.ndim > 1 else 1))
    if len(rows) < 2:
        return [0.0, np.inf, np.inf]
    constant = [bool((column == column[0]).all()) for column in rows.T]
    zero = [bool((column == 0).all()) for column in rows.T]
    return [float(rows.shape[1]), float(sum(zero)), float(sum(constant))]


def batches(rows, seed=0):
    """Three signals of a step with units that are zero, constant, and nearly so."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(1.0, 2.0, (rows, 6))
    dense[:, 2], dense[:, 3], dense[:, 5] = 0.0, -7.5, 0.0
    # One row, far behind, tells that this one is alive.
    dense[-1:, 5] = 1.0
    images = np.maximum(rng.normal(size=(rows, 3, 2, 4)), 0).astype("float32")
    images[..., 1] = 0.0
    return [dense, images, rng.normal(size=rows)]


def states(signals):
    return np.asarray(UNITS.observe_all([Observation(x, x) for x in signals]))


@tf.function(reduce_retracing=True, autograph=False)
def in_graph(*signals):
    return UNITS.observe_all([Observation(x, x) for x in signals])


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 300, 2000])
@pytest.mark.parametrize("broken", [False, True])
def test_numbers_are_those_of_numpy(rows, broken):
    signals = batches(rows)
    if broken:
        for x in signals:
            x[rows // 2 :] = np.nan
    wanted = [by_numpy(x) for x in signals]
    alone = [UNITS.pack(UNITS.observe(Observation(None, x))) for x in signals]
    np.testing.assert_array_equal(alone, wanted)
    np.testing.assert_array_equal(states(signals), wanted)
    tensors = [tf.constant(x) for x in signals]
    np.testing.assert_array_equal(in_graph(*tensors), wanted)
    np.testing.assert_array_equal(states(tensors), wanted)


def test_a_unit_that_is_constant_only_in_the_rows_that_are_read_first_is_alive():
    x = np.zeros((2, 3000, 2))
    # Places that are read first are apart by more than one.
    x[:, 1] = 1.0
    np.testing.assert_array_equal(states([tf.constant(x)]), [[2.0, 0.0, 0.0]])


def test_merging_takes_the_smaller_number():
    parts = [states([x])[0] for x in (batches(40)[0], batches(40)[0][:1], np.ones((5, 6)))]
    merged = merge_axis(UNITS, np.stack(parts), axis=0)
    # 2 of the first are constant, 6 of the last; of one row nothing is known.
    np.testing.assert_array_equal(merged, [6.0, 0.0, 2.0])
    empty = UNITS.empty()
    for part in parts:
        state = UNITS.unpack(part)
        assert UNITS.merge(state, empty) == UNITS.merge(empty, state) == state
    np.testing.assert_array_equal(
        merge_axis(UNITS, np.zeros((0, 3)), axis=0), [0, np.inf, np.inf]
    )


def test_of_nothing_nothing_is_known():
    values = UNITS.compute(UNITS.observe(Observation(None, np.zeros((1, 4)))))
    assert all(np.isnan(value) for value in values.values())
    assert [each.name for each in automatic("activations")] == ["signal_counts", "units"]
