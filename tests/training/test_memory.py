"""Watching leaves nothing behind: neither graphs in memory, nor functions of a lost context."""

import gc
import subprocess
import sys

import pytest
import tensorflow as tf
from trainings import fit, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.training.gradient_registry import forget_gradients

X, Y = unlike_rows(32)

EVERYTHING = [dw.activations(), dw.gradients(), dw.updates(), dw.weights(), dw.loss()]


def live_graphs():
    gc.collect()
    return {id(each) for each in gc.get_objects() if type(each).__name__ == "FuncGraph"}


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_no_graph_stays_after_a_watched_fit(tmp_path, replicas):
    model, _ = small_model(strategy_over(replicas))
    fit(model, X, Y)
    before = live_graphs()
    for number in range(3):
        fit(model, X, Y, dw.Watch(tmp_path / f"{number}.zarr", signals=EVERYTHING))
        assert len(dw.open_run(tmp_path / f"{number}.zarr")) == 2
    assert live_graphs() <= before


@pytest.mark.slow
def test_no_graph_stays_after_an_estimate(tmp_path):
    model, _ = small_model(strategy_over(1))
    fit(model, X, Y)
    before = live_graphs()
    dw.Watch(tmp_path / "run.zarr").estimate(model, (X[:16], Y[:16]), steps=10)
    assert live_graphs() <= before


def test_gradients_of_other_graphs_stay_registered():
    @tf.custom_gradient
    def tripled(x):
        return 3.0 * x, lambda upstream: 5.0 * upstream

    traced = {}

    def make(name):
        def function(x):
            traced[name] = tf.compat.v1.get_default_graph()
            return tf.cond(x > 0.0, lambda: tripled(x), lambda: x)

        return tf.function(function).get_concrete_function(tf.TensorSpec([], tf.float32))

    kept, forgotten = make("kept"), make("forgotten")
    forget_gradients([traced["forgotten"]])
    x = tf.constant(2.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = kept(x)
    assert tape.gradient(y, x).numpy() == 5.0
    with tf.GradientTape() as tape, pytest.raises(LookupError, match="IdentityN"):
        tape.watch(x)
        tape.gradient(forgotten(x), x)


AFTER_A_RESET = """
import sys
import keras, numpy as np
import distwatch as dw
from tensorflow.python.eager import context

x = np.random.default_rng(0).normal(5.0, 2.0, (32, 4)).astype("float32")
for number in range(2):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "tanh")])
    model.compile("sgd", "mse")
    path = f"{sys.argv[1]}/{number}.zarr"
    watch = dw.Watch(path, signals=dw.activations(), strict=True)
    model.fit(x, x[:, :3], batch_size=8, verbose=0, callbacks=[watch])
    assert (watch.status.committed, watch.status.error) == (4, None)
    context._reset_context()  # as Keras's own tests do between each other
    keras.backend.clear_session()
print("both were watched")
"""


@pytest.mark.slow
def test_tensorflow_context_may_be_reset_between_fits(tmp_path):
    command = [sys.executable, "-c", AFTER_A_RESET, str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "both were watched" in done.stdout, done.stderr[-2000:]
