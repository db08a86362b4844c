"""Tracker: the layer with a memory, made right."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import Ear, compile_model, fit, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import ConfigError

layers = keras.layers


def changes(batches):
    """What a Tracker returns: rows without a counterpart come through as they are."""
    before = np.zeros_like(batches[0][:0])
    for batch in batches:
        rows = min(len(batch), len(before))
        yield np.concatenate([batch[:rows] - before[:rows], batch[rows:]])
        before = batch


def tracked_model(strategy, spe=1):
    keras.utils.set_random_seed(1)
    before, after = Ear(), Ear()
    tracker = dw.Tracker(name="t", output="delta")
    with strategy.scope():
        stack = [
            keras.Input((12,)),
            layers.Dense(6, name="first"),
            before,
            tracker,
            after,
            layers.Dense(4),
        ]
        model = compile_model(keras.Sequential(stack), spe=spe)
    return model, before, after


@pytest.mark.fast_cases("2-7")
@pytest.mark.parametrize(("replicas", "spe"), [(1, 1), (2, 1), (2, 7)])
def test_returns_the_change_on_each_replica(replicas, spe):
    x, y = unlike_rows(42)
    model, before, after = tracked_model(strategy_over(replicas), spe)
    # Validation between the epochs must not be remembered.
    fit(model, x, y, epochs=2, validation_data=(x * 7, y))
    for replica in range(replicas):
        expected = list(changes(before.recorded[replica]))
        assert len(expected) == 6
        for got, want in zip(after.recorded[replica], expected, strict=True):
            np.testing.assert_array_equal(got, want)
    assert not np.array_equal(before.recorded[0][0], before.recorded[replicas - 1][1])


def against_batch_mean(batches):
    before = np.zeros_like(batches[0][:1])
    for batch in batches:
        yield batch - before
        before = batch.mean(0, keepdims=True)


def against_first(batches):
    for i, batch in enumerate(batches):
        common = min(len(batch), len(batches[0])) if i else 0
        yield np.concatenate([batch[:common] - batches[0][:common], batch[common:]])


def against_ema(batches):
    average = batches[0]
    yield batches[0]
    for batch in batches[1:]:
        rows = len(batch)
        yield batch - average[:rows]
        average = np.concatenate([0.75 * average[:rows] + 0.25 * batch, average[rows:]])


def against_neighbour(batches):
    for batch in batches:
        yield np.concatenate([batch[:-1] - batch[1:], batch[-1:]])


@pytest.mark.parametrize(
    ("reference", "wanted"),
    [
        ("batch_mean", against_batch_mean),
        ("first", against_first),
        ("ema(0.75)", against_ema),
        ("neighbour", against_neighbour),
    ],
)
def test_returns_the_change_against_its_reference(reference, wanted):
    x, y = unlike_rows(42)
    before, after = Ear(), Ear()
    tracker = dw.Tracker(reference=reference, output="delta")
    stack = [keras.Input((12,)), before, copy.deepcopy(tracker), after, layers.Dense(4)]
    model = compile_model(keras.Sequential(stack))
    fit(model, x, y)
    got, batches = after.recorded[0], before.recorded[0]
    assert [len(batch) for batch in batches] == [16, 16, 10]
    for mine, its in zip(got, wanted(batches), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-5)


def test_under_a_watch_its_input_is_the_signal(tmp_path):
    x, y = unlike_rows(42)
    model, before, _ = tracked_model(strategy_over(1))
    fit(model, x, y, dw.Watch(tmp_path / "run.zarr", reference="none", window=2))
    run = dw.open_run(tmp_path / "run.zarr")
    # The Tracker keeps its own reference, whatever the Watch's is.
    batches = before.recorded[0]
    want = [np.nan, (batches[1] - batches[0]).mean(), (batches[2] - batches[1][:10]).mean()]
    got = run["activation/t"].per_replica("mean").values[:, 0]
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert run["activation/first"].per_replica("count").values[0] == 96


def test_outside_training_the_input_comes_through():
    tracker = dw.Tracker(output="delta")
    x = tf.constant([[1.0, 2.0]])
    for training in (None, False):
        np.testing.assert_array_equal(tracker(x, training=training), x)
    np.testing.assert_array_equal(tracker(x, training=True), x)
    np.testing.assert_array_equal(tracker(x + 1, training=True), [[1.0, 1.0]])
    np.testing.assert_array_equal(tracker(x, training=False), x)
    np.testing.assert_array_equal(tracker(x + 1, training=True), [[0.0, 0.0]])


def test_the_gradient_is_that_of_the_input():
    tracker = dw.Tracker(output="delta")
    x = tf.Variable([[3.0, -1.0]])
    tracker(x * 5, training=True)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tracker(x * x, training=True))
    np.testing.assert_array_equal(tape.gradient(loss, x), [[6.0, -2.0]])


def test_its_memory_is_no_part_of_the_model(tmp_path):
    x, y = unlike_rows(32)
    model, _, _ = tracked_model(strategy_over(1))
    fit(model, x, y)
    assert len(model.weights) == 4 + 0
    plain = keras.Sequential([keras.Input((6,)), dw.Tracker(name="t", output="delta")])
    plain.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    clones = [loaded, keras.models.clone_model(plain), copy.deepcopy(plain)]
    plain.layers[0](tf.ones((2, 6)), training=True)
    for clone in clones:
        assert clone.layers[0].get_config() == plain.layers[0].get_config()
        assert clone.layers[0].get_config()["output"] == "delta"
        # They start afresh: the first batch comes through.
        fresh = clone.layers[0](tf.ones((2, 6)), training=True)
        np.testing.assert_array_equal(fresh, np.ones((2, 6)))


def test_sequences_of_another_length_have_nothing_in_common():
    tracker = dw.Tracker(output="delta")
    step = tf.function(
        lambda x: tracker(x, training=True),
        input_signature=[tf.TensorSpec((None, None, 2))],
    )
    step(tf.ones((3, 4, 2)))
    np.testing.assert_array_equal(step(tf.ones((3, 5, 2))), np.ones((3, 5, 2)))
    np.testing.assert_array_equal(step(tf.ones((3, 5, 2))), np.zeros((3, 5, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference": "prevoius"}, "unknown reference 'prevoius'"),
        ({"output": "deltas"}, "unknown output 'deltas'"),
        ({"output": "delta", "reference": "none"}, "needs something to measure against"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        dw.Tracker(**arguments)


@pytest.mark.slow
def test_under_xla_keras_falls_back_and_says_so():
    model = keras.Sequential([keras.Input((3,)), dw.Tracker(output="delta")])
    with pytest.warns(UserWarning, match="Model doesn't support `jit_compile=True`"):
        model.compile("sgd", "mse", jit_compile=True)
    assert model.jit_compile is False
