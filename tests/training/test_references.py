"""References alone, without a model."""

import numpy as np
import pytest
import tensorflow as tf

from distwatch.training.device.references import References

NAN, INF = np.nan, np.inf


def deltas(kind, batches):
    """What `References` gives for some batches, at every one of which is looked."""
    references = References([kind], [tf.constant(batches[0])], "")
    for batch in batches:
        found = references.deltas([tf.constant(batch)])
        yield found.each[0].value().numpy()
        references.follow([tf.constant(batch)])
        references.keep([tf.constant(batch)])


def test_an_average_does_not_keep_nan_or_inf():
    batches = [
        np.float32([[NAN, 1.0, 2.0]]),
        np.float32([[4.0, INF, 2.0]]),
        np.float32([[8.0, 3.0, 4.0]]),
        np.float32([[8.0, 3.0, 4.0]]),
    ]
    none, second, third, fourth = (d.ravel() for d in deltas("ema(0.5)", batches))
    assert none.size == 0
    np.testing.assert_array_equal(second, [NAN, INF, 0.0])
    # Averages: 4 (the first finite one), 1 (without the infinity), 2.
    np.testing.assert_array_equal(third, [4.0, 2.0, 2.0])
    np.testing.assert_array_equal(fourth, [2.0, 1.0, 1.0])


def test_an_average_of_float64_has_a_decay_of_float64():
    batches = [np.float64([[1e6, 1.0]]), np.float64([[2e6, 2.0]]), np.float64([[3e6, 3.0]])]
    *_, last = deltas("ema(0.9)", batches)
    average = 0.9 * batches[0] + 0.1 * batches[1]
    np.testing.assert_allclose(last, batches[2] - average, rtol=1e-14)


@pytest.mark.parametrize("kind", ["previous", "first", "ema(0.5)", "batch_mean"])
def test_a_delta_says_whether_it_is_made_of_all_of_its_tensor(kind):
    batches = [np.ones((rows, 2), np.float32) for rows in (2, 2, 3)]
    references = References([kind], [tf.constant(batches[0])], "")
    whole = []
    for batch in batches:
        whole += references.deltas([tf.constant(batch)]).whole.numpy().tolist()
        references.follow([tf.constant(batch)])
        references.keep([tf.constant(batch)])
    # The mean of a batch is made of all of it, whatever it is compared with.
    assert whole == [False, True, kind == "batch_mean"]
