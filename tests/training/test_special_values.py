"""NaN and Inf of the signals themselves are counted at every step that is looked at."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import strategy_over

import distwatch as dw
from distwatch.statistics import SignalCounts, observe
from distwatch.training.device import kernels
from distwatch.training.device.deltas import Delta, Deltas

NAN, INF = np.nan, np.inf
TAKEN = "activation_input/dense"


def train(store, batches, replicas=1, *, shape=(3,), **options):
    """Watch what a layer takes in, which does not depend on NaN in its weights."""
    keras.utils.clear_session()
    with strategy_over(replicas).scope():
        model = keras.Sequential([keras.Input(shape), keras.layers.Dense(2, name="dense")])
        model.compile("sgd", "mse")
    kinds = tf.TensorSpec((None, *shape)), tf.TensorSpec((None, *shape[:-1], 2))
    data = tf.data.Dataset.from_generator(
        lambda: ((x, np.zeros((*x.shape[:-1], 2), "f")) for x in batches),
        output_signature=kinds,
    ).apply(tf.data.experimental.assert_cardinality(len(batches)))
    options.setdefault("signals", dw.activations("dense", outputs=False, inputs=True))
    model.fit(data, verbose=0, shuffle=False, callbacks=[dw.Watch(store, **options)])
    return dw.open_run(store)


def batch(*rows):
    return np.float32(rows)


def counts_of(run, signal, replica=0):
    view = run[signal]
    return [
        view.per_replica(name).sel(replica=replica).values.tolist()
        for name in ("signal_nan_count", "signal_inf_count")
    ]


#: Three rows of three: the second step has a NaN, the fourth infinities, the fifth more rows.
BATCHES = [
    batch([1, 2, 3], [4, 5, 6], [1, 0, 2]),
    batch([1, NAN, 3], [4, 5, 6], [1, 0, 2]),
    batch([1, 2, 4], [4, 5, 7], [1, 0, 3]),
    batch([1, INF, 3], [-INF, 5, 6], [1, 0, 2]),
    batch([1, 2, 3], [4, 5, 6], [1, 0, 2], [NAN, 1, 1], [INF, 0, 0]),
    batch([1, 2, 3]),
]


@pytest.mark.fast_cases("previous", "ema*")
@pytest.mark.parametrize(
    "reference", ["none", "previous", "batch_mean", "first", "ema(0.9)", "neighbour"]
)
def test_they_are_those_of_the_step_itself_whatever_the_reference(tmp_path, reference):
    run = train(tmp_path / "run.zarr", BATCHES, reference=reference)
    nans, infs = counts_of(run, TAKEN)
    assert nans == [0, 1, 0, 0, 1, 0]
    assert infs == [0, 0, 0, 2, 1, 0]


def test_they_are_seen_at_the_first_step_and_where_shapes_change(tmp_path):
    batches = [np.ones((2, length, 3), "f") for length in (4, 5, 6, 7)]
    batches[0][0, 0, 0] = NAN
    batches[3][1, 2, 1] = INF
    run = train(tmp_path / "run.zarr", batches, shape=(None, 3))
    assert counts_of(run, TAKEN) == [[1, 0, 0, 0], [0, 0, 0, 1]]
    # What the delta has stays what it was: nothing to compare.
    for name in ("count", "nans"):
        assert run[TAKEN].per_replica(name).values.ravel().tolist() == [0, 0, 0, 0]


def test_each_replica_has_its_own_and_their_sum_is_merged(tmp_path):
    x = np.arange(48, dtype="f").reshape(2, 8, 3)
    x[0, 6, 1] = NAN  # on replica 1, at the first step
    x[1, 1, 0] = INF  # on replica 0, at the second
    run = train(tmp_path / "run.zarr", [*x], 2)
    assert counts_of(run, TAKEN, 0) == [[0, 0], [0, 1]]
    assert counts_of(run, TAKEN, 1) == [[1, 0], [0, 0]]
    assert run[TAKEN].merged("signal_nan_count").values.tolist() == [1, 0]
    assert run[TAKEN].merged("signal_inf_count").values.tolist() == [0, 1]


def test_other_signals_have_them_too(tmp_path):
    signals = [dw.loss(), dw.gradients(), dw.updates(), dw.weights(), dw.inputs()]
    run = train(tmp_path / "run.zarr", BATCHES[:2], signals=signals)
    for name in run.signals:
        nans, _ = counts_of(run, name)
        assert nans[0] == 0, name
        assert nans[1] > 0, name


@pytest.mark.parametrize("run_in", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_counting_in_the_graph_equals_counting_on_the_host(run_in):
    finite = np.float32([[1, 2], [3, 4]])
    signals = [
        finite,
        np.float32([NAN, 1, INF, -INF, NAN]),
        np.float64([INF, 1e300]),
        np.float16([60000, 60000, NAN]),
        np.full(4, 3e38, np.float32),  # whose sum overflows
        np.int32([1, 2]),
        np.zeros((0, 3), np.float32),
    ]

    @run_in
    def count():
        # None was compared, as at a first step.
        tensors = [tf.constant(x) for x in signals]
        deltas = [Delta(x[:0], x[:0]) for x in tensors]
        nothing = tf.zeros([len(signals)], tf.float64)
        whole = tf.constant([x.size == 0 for x in signals])
        _, special = kernels.measure(Deltas(deltas, nothing, whole), tensors)
        return special

    wanted = [observe(SignalCounts(), x) for x in signals]
    np.testing.assert_array_equal(np.transpose(count()), wanted)


def test_what_a_finite_delta_is_made_of_is_not_read_again():
    never = tf.constant([NAN, NAN])
    finite = tf.constant([1.0, 2.0])

    def counted(whole, before):
        deltas = Deltas(
            [Delta(finite, before)], tf.constant([2.0], tf.float64), tf.constant([whole])
        )
        _, special = kernels.measure(deltas, [never])
        return special.signal_nan_count.numpy().tolist()

    assert counted(True, before=tf.zeros(2)) == [0]
    assert counted(False, before=tf.zeros(2)) == [2]
    assert counted(False, before=None) == [0]
