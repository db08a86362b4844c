"""What is read directly, and what is computed again so that no bit changes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, same_weights, strategy_over, unlike_rows

import distwatch as dw
from distwatch.training.device.cadence import StepInput
from distwatch.training.taps.recomputation import KeptTensors

layers = keras.layers


class Traced:
    """A step of gradient descent, and what is kept of its tensors."""

    def __init__(self, *trained):
        rng = np.random.default_rng(3)
        self.kernel = tf.Variable(rng.normal(size=(12, 8)).astype("float32") + 0.1)
        self.filter = tf.Variable(rng.normal(size=(3, 1, 1, 2)).astype("float32") - 0.2)
        self.trained = [getattr(self, name) for name in trained]
        self.x = tf.constant(unlike_rows(6)[0])
        self.kept = {}
        with tf.GradientTape() as tape:  # once, so that variables exist before the trace
            self.forward(self.x)
        del tape
        self.step = tf.function(self._step)

    def forward(self, x):
        before = tf.tanh(x)
        hidden = tf.linalg.matmul(before, self.kernel) + 0.5
        after = tf.tanh(hidden)
        taken = after[:, :, None, None]
        features = tf.nn.conv2d(taken, self.filter, 1, "SAME")
        return {
            "before": before,
            "hidden": hidden,
            "after": after,
            "taken": taken,
            "features": features,
        }

    def _step(self, x, look):
        with tf.GradientTape() as tape:
            values = self.forward(x)
            loss = tf.reduce_mean(tf.nn.relu(values["features"]))
        gradients = tape.gradient(loss, self.trained)
        for variable, gradient in zip(self.trained, gradients, strict=True):
            variable.assign_sub(0.1 * gradient)
        self.values, kept = values, KeptTensors(gradients)
        self.kept = {name: value in kept for name, value in values.items()}
        self.counts = {name: kept.count_again(value) for name, value in values.items()}
        self.gradients_kept = [gradient in kept for gradient in gradients]
        given = StepInput(list(values.values()), making=kept.making(list(values.values())))
        return values, given.made_if(look).tensors


def test_what_the_gradient_keeps_is_read_directly():
    """This fails, too, if TensorFlow names the operations of a tape in another way."""
    traced = Traced("kernel", "filter")
    traced.step(traced.x, tf.constant(True))
    assert [name for name, kept in traced.kept.items() if kept] == ["before", "after", "taken"]
    assert traced.counts["after"] == 0 < traced.counts["hidden"]
    assert traced.gradients_kept == [True, True]


def test_a_gradient_that_nothing_uses_keeps_nothing():
    """That of a convolution's filter is built for a frozen one, and removed again."""
    frozen = Traced("kernel")
    frozen.step(frozen.x, tf.constant(True))
    consumers = [op.type for op in frozen.values["taken"].consumers()]
    assert any("BackpropFilter" in each for each in consumers)
    assert [name for name, kept in frozen.kept.items() if kept] == ["before", "after"]


@pytest.mark.parametrize("look", [True, False])
def test_what_is_computed_again_is_what_was_computed(look):
    traced = Traced("kernel", "filter")
    values, read = traced.step(traced.x, tf.constant(look))
    for (name, value), again in zip(values.items(), read, strict=True):
        if look or traced.kept[name]:
            np.testing.assert_allclose(again, value, rtol=1e-6, atol=1e-6)
        else:
            assert again.shape == (0, *value.shape[1:])


def test_what_is_computed_again_has_the_shape_that_was_set():
    """As that of a gradient that comes out of a condition; else not even its rank is known."""

    @tf.function(input_signature=[tf.TensorSpec([None]), tf.TensorSpec(None, tf.int32)])
    def step(x, shape):
        made = 2.0 * tf.reshape(x, shape)
        made.set_shape([3, 2])
        making = KeptTensors().making([made])
        (again,) = tf.cond(shape[0] > 0, making.make, lambda: [tf.zeros([3, 2])])
        assert again.shape == [3, 2]
        return again

    x = np.arange(6.0, dtype=np.float32)
    np.testing.assert_array_equal(step(x, [3, 2]), 2.0 * x.reshape(3, 2))


def preactivated(frozen=False):
    """Dense, then what activates it: a layer, and a frozen block before."""
    keras.utils.set_random_seed(4)
    model = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(16, name="base"),
            layers.ReLU(name="relu"),
            layers.Dense(16, name="hidden"),
            layers.Activation("tanh", name="tanh"),
            layers.Dense(4, name="head"),
        ]
    )
    model.get_layer("base").trainable = not frozen
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def signals_of(path):
    (table,) = dw.open_run(path).info.tables
    return {signal.name: signal for signal in table.signals}


def test_by_default_a_layer_is_watched_after_its_activation(tmp_path):
    model = preactivated(frozen=True)
    x, y = unlike_rows(64)
    watch = dw.Watch(tmp_path / "run.zarr", signals=dw.activations(), reference="none")
    before = model.get_weights()
    fit(model, x, y, watch, batch=64)
    signals = signals_of(tmp_path / "run.zarr")
    assert list(signals) == ["activation/hidden", "activation/head", "activation/output"]
    assert signals["activation/hidden"].after == "tanh"
    assert signals["activation/hidden"].recomputed == 0
    assert signals["activation/head"].after is None
    run = dw.open_run(tmp_path / "run.zarr")
    assert run.unwatched == {"base": "frozen: name it to watch"}
    model.set_weights(before)
    tanh = keras.Model(model.inputs, model.get_layer("tanh").output).predict(x, verbose=0)
    assert run["activation/hidden"].merged("mean").values[0] == pytest.approx(
        tanh.mean(), rel=1e-4
    )


@pytest.mark.slow
def test_raw_deltas_are_those_of_the_same_tensor(tmp_path):
    kept = dw.tensors(every=1, reference="none")
    watch = dw.Watch(tmp_path / "run.zarr", signals=[kept, dw.activations()], reference="none")
    fit(preactivated(), *unlike_rows(64), watch, batch=64)
    run = dw.open_run(tmp_path / "run.zarr")
    signals = {each.name: each for table in run.info.tables for each in table.signals}
    raw, hidden = signals["tensor/hidden"], signals["activation/hidden"]
    assert (raw.after, raw.recomputed) == (hidden.after, hidden.recomputed) == ("tanh", 0)
    means = [run[name].merged("mean").values for name in ("tensor/hidden", "activation/hidden")]
    # In tables of their own, which are added up in another order.
    np.testing.assert_allclose(*means, rtol=1e-6)
    # What is named is what the layer itself puts out.
    named = dw.tensors("hidden", every=1, reference="none")
    fit(preactivated(), *unlike_rows(64), dw.Watch(tmp_path / "named.zarr", signals=named))
    assert signals_of(tmp_path / "named.zarr")["tensor/hidden"].after is None


@pytest.mark.slow
def test_frozen_is_said_of_what_somebody_froze(tmp_path):
    bare = {"scale": False, "center": False}
    block = [layers.Dense(6, name="inner"), layers.BatchNormalization(name="norm", **bare)]
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.Sequential(block, name="block"),
            layers.BatchNormalization(name="bare", **bare),
            layers.BatchNormalization(name="stopped", **bare),
            layers.Dense(4, name="head"),
        ]
    )
    model.get_layer("block").get_layer("inner").trainable = False
    model.get_layer("stopped").trainable = False
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit(model, *unlike_rows(64), dw.Watch(tmp_path / "run.zarr"), batch=64)
    assert dw.open_run(tmp_path / "run.zarr").unwatched == {
        "block": "frozen: name it to watch",
        "bare": "without trainable weights: name it to watch",
        "stopped": "frozen: name it to watch",
    }


@pytest.mark.fast_cases("*-previous")
@pytest.mark.parametrize(
    ("replicas", "reference"), [(1, "previous"), (2, "previous"), (1, "ema(0.9)")]
)
def test_what_is_named_is_computed_again_and_changes_no_bit(tmp_path, replicas, reference):
    x, y = unlike_rows(128)
    models = []
    named = dw.activations(["base", "hidden"], reference=reference)
    for watches in [], [dw.Watch(tmp_path / "run.zarr", signals=[named])]:
        with strategy_over(replicas).scope():
            models.append(preactivated(frozen=True))
        fit(models[-1], x, y, *watches, epochs=3)
    assert same_weights(*models)
    signals = signals_of(tmp_path / "run.zarr")
    assert list(signals) == ["activation/base", "activation/hidden"]
    assert all(signal.after is None for signal in signals.values())
    assert signals["activation/hidden"].recomputed > 0


def attending():
    """Layers over rows of several places: matrices are multiplied in another shape."""
    keras.utils.set_random_seed(4)
    inputs = keras.Input((6, 2))
    x = layers.Dense(8, name="first")(inputs)
    y = layers.LayerNormalization(name="norm")(x)
    y = layers.Dense(16, "gelu", name="wide")(y)
    x = layers.Add()([x, layers.Dense(8, name="narrow")(y)])
    outputs = layers.Dense(4, name="head")(layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.fast_cases("2")
@pytest.mark.parametrize("replicas", [1, 2])
def test_what_is_kept_in_another_shape_is_not_computed_again(tmp_path, replicas):
    x, y = unlike_rows(128)
    x = x.reshape(128, 6, 2)
    models = []
    path = tmp_path / "run.zarr"
    for watches in [], [dw.Watch(path, signals=dw.activations(), reference="none")]:
        with strategy_over(replicas).scope():
            models.append(attending())
        before = models[-1].get_weights()
        fit(models[-1], x, y, *watches, batch=64, epochs=3)
    assert same_weights(*models)
    signals = signals_of(path)
    again = {name: signal.recomputed for name, signal in signals.items() if signal.recomputed}
    assert list(again) == ["activation/narrow", "activation/head", "activation/output"]
    model, run = attending(), dw.open_run(path)
    model.set_weights(before)
    for name in "norm", "wide", "narrow":
        put_out = keras.Model(model.inputs, model.get_layer(name).output).predict(x, verbose=0)
        first = run[f"activation/{name}"].merged("l1").values[0]
        assert first == pytest.approx(np.abs(put_out[:64]).sum(), rel=1e-5)
