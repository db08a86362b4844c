"""Rows of a slow training are in the store while it runs, long before a window is full."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import DistwatchError


def await_rows(path, least):
    """The rows in the store, as soon as there are so many, or after ten seconds."""
    until, rows = time.monotonic() + 10.0, 0
    while rows < least and time.monotonic() < until:
        time.sleep(0.02)
        try:
            rows = len(dw.open_run(path))
        except DistwatchError:
            continue  # nothing of the phase is written yet
    return rows


class Slow(keras.callbacks.Callback):
    """Takes its time for each batch, and looks into the store after one of them."""

    def __init__(self, path, batch):
        super().__init__()
        self._path, self._batch = path, batch
        self.seen = None

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.06)
        if batch == self._batch:
            self.seen = await_rows(self._path, 4)


@pytest.mark.fast_cases("1")
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_slow_training_can_be_read_while_it_runs(tmp_path, replicas):
    path = tmp_path / "run.zarr"
    model, _ = small_model(strategy_over(replicas))
    slow = Slow(path, batch=6)
    fit(model, *unlike_rows(8 * 16), dw.Watch(path, drain_every=0.1), slow)
    assert slow.seen >= 4
    rows = dw.open_run(path).to_xarray()
    np.testing.assert_array_equal(rows.step, np.arange(8))
    assert dw.open_run(path).lost == 0


@pytest.mark.slow
def test_without_it_a_window_is_waited_for(tmp_path):
    path, seen = tmp_path / "run.zarr", []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(watch.status.steps)
    )
    watch = dw.Watch(path, drain_every=None)
    model, _ = small_model(strategy_over(1))
    fit(model, *unlike_rows(64), watch, look)
    assert seen == [0, 0, 0, 0]
    assert len(dw.open_run(path)) == 4


@pytest.mark.slow
def test_a_long_validation_drains_the_training(tmp_path):
    """Also where validation itself is not recorded."""
    seen = []
    watch = dw.Watch(tmp_path / "run.zarr", signals=dw.activations(), drain_every=0.1)

    class Look(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            time.sleep(0.06)
            seen.append(watch.status.steps)

    model, _ = small_model(strategy_over(1))
    x, y = unlike_rows(64)
    fit(model, x, y, watch, Look(), validation_data=(x, y))
    assert seen[-1] == 4


def test_a_loop_of_its_own(tmp_path):
    path = tmp_path / "run.zarr"
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    optimizer = keras.optimizers.SGD(0.1)
    with dw.watching(model, optimizer, path, drain_every=0.1) as watch:

        @watch.wrap
        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(model(x) ** 2)
            weights = model.trainable_variables
            optimizer.apply(tape.gradient(loss, weights), weights)

        compiled = tf.function(step)
        for _ in range(6):
            compiled(tf.ones((3, 4)))
            time.sleep(0.06)
            watch.after_step()
        assert await_rows(path, 3) >= 3
    assert len(dw.open_run(path)) == 6
