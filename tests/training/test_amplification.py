"""How much rounding grows is measured by signal, leaves no trace, and decides what parts."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, same_weights, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import ConfigError
from distwatch.records import Amplification

layers = keras.layers

BATCH = 16
X, _ = unlike_rows(BATCH * 12)
X = np.random.default_rng(0).permutation(X)
Y = X[:, :2] + 1.0


def model_over(replicas=1, rate=0.01):
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    with strategy_over(replicas).scope():
        stack = [
            keras.Input((12,)),
            layers.Dense(8, "relu", name="a"),
            layers.BatchNormalization(synchronized=True, name="b"),
            layers.Dropout(0.2),
            layers.Dense(2, name="c"),
        ]
        model = keras.Sequential(stack)
        model.compile(keras.optimizers.Adam(rate), "mse")
    return model


def measured(model, **how):
    return dw.amplification(model, (X[:BATCH], Y[:BATCH]), **how)


def trained(path, x=X, **how):
    model = model_over(**how)
    fit(model, x, Y, dw.Watch(path), batch=BATCH)
    return path


def everything(model):
    return [np.array(v) for v in (*model.variables, *model.optimizer.variables)]


def test_it_leaves_no_trace():
    model, other = model_over(), model_over()
    fit(model, X[:32], Y[:32], batch=BATCH)
    fit(other, X[:32], Y[:32], batch=BATCH)
    before, drawn = everything(model), random.getstate()
    history, stopped = model.history, model.stop_training
    grows = measured(model)
    assert all(
        a.tobytes() == b.tobytes() for a, b in zip(before, everything(model), strict=True)
    )
    assert (model.history, model.stop_training) == (history, stopped)
    assert random.getstate() == drawn
    assert grows.factors["activation/b"] > 0
    # What follows is the same, bit by bit.
    fit(model, X, Y, batch=BATCH)
    fit(other, X, Y, batch=BATCH)
    assert same_weights(model, other)


class TwoOptimizers(keras.Model):
    """One that is compiled, and never applied, and one of its own."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.own.apply(gradients, self.trainable_variables)
        return {"loss": loss}


@pytest.mark.slow
def test_optimizers_of_its_own_are_left_as_they_were():
    x = keras.Input((12,))
    model = TwoOptimizers(x, layers.Dense(2, name="c")(x))
    model.compile("sgd")
    model.own = keras.optimizers.Adam()
    with pytest.raises(ConfigError, match=r"the optimizer adam.* has no variables yet"):
        measured(model)
    model.own.build(model.trainable_variables)
    fit(model, X[:32], Y[:32], batch=BATCH)
    before = [np.array(v) for v in model.own.variables]
    assert measured(model).factors["activation/c"] < 100
    for was, variable in zip(before, model.own.variables, strict=True):
        np.testing.assert_array_equal(was, np.array(variable))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:this training runs into known faults:UserWarning")
def test_of_two_replicas():
    model, other = model_over(2), model_over(2)
    measured(model)
    fit(model, X, Y, batch=BATCH)
    fit(other, X, Y, batch=BATCH)
    assert same_weights(model, other)


@pytest.mark.slow
def test_it_grows_as_the_model_amplifies():
    """The closer two numbers are, the more of their difference is rounding."""

    def factor(times):
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        x = keras.Input((4,))
        # A difference of nearly equal numbers: one rounding is `times` of what is left.
        left = layers.Lambda(lambda v: (v - 1.0) * 1.0, name="left")(x)
        model = keras.Model(x, layers.Dense(1)(left))
        model.compile(keras.optimizers.SGD(0.0), "mse")
        rows = (1.0 + np.random.default_rng(1).normal(1, 0.1, (32, 4)) / times).astype("f4")
        grows = dw.amplification(
            model, (rows, rows[:, :1]), signals=[dw.activations("left", reference="none")]
        )
        return grows.factors["activation/left"]

    small, large = factor(8.0), factor(1024.0)
    assert 30 < large / small < 300


@pytest.mark.slow
def test_it_decides_what_parts(tmp_path):
    exact = trained(tmp_path / "exact.zarr")
    moved = trained(tmp_path / "moved.zarr", X * np.float32(1 + 4e-5))
    one_rounding = trained(tmp_path / "rounded.zarr", X * np.float32(1 + 2**-23))
    grows = measured(model_over())
    assert dw.diff(exact, moved).verdict == "within_tolerance"
    found = dw.diff(exact, moved, tolerance=grows)
    assert (found.verdict, found.first.step, found.measured) == ("parted", 0, True)
    rounding = dw.diff(exact, one_rounding, tolerance=grows)
    assert rounding.verdict == "within_tolerance"
    assert "tolerances by signal, as they were measured" in str(rounding)


@pytest.mark.slow
def test_a_signal_that_was_not_measured_has_the_root_of_the_precision(tmp_path):
    a, b = trained(tmp_path / "a.zarr"), trained(tmp_path / "b.zarr", X * np.float32(1 + 4e-5))
    only = Amplification({"activation/a": 5.0}, 2.0**-23, 8)
    parted = [
        each.signal for each in dw.diff(a, b, tolerance=only).signals if each.step is not None
    ]
    assert parted == ["activation/a"]
    none = Amplification({}, 2.0**-23, 8)
    assert dw.diff(a, b, tolerance=none).verdict == dw.diff(a, b).verdict


@pytest.mark.slow
def test_refusals():
    model = model_over()
    with pytest.raises(ConfigError, match="whole number from 1 on"):
        measured(model, steps=0)
    with pytest.raises(ConfigError, match="is not built"):
        dw.amplification(keras.Sequential([layers.Dense(2)]), (X, Y))
    tokens = keras.Sequential([keras.Input((3,), dtype="int32"), layers.Embedding(9, 2)])
    tokens.compile("sgd", "mse")
    with pytest.raises(ConfigError, match="whole numbers, which have no rounding"):
        dw.amplification(tokens, (np.ones((4, 3), int), np.ones((4, 3, 2))))
    largest = np.full_like(X[:BATCH], np.finfo("float32").max)
    with pytest.raises(ConfigError, match="NaN or Inf within these steps"):
        dw.amplification(model, (largest, Y[:BATCH]))
    assert np.isfinite(np.concatenate([w.ravel() for w in model.get_weights()])).all()
