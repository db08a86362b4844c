"""Law 6: what trains unwatched trains watched; only what was named is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, same_weights, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import (
    NothingToWatchError,
    UnsupportedTrainingError,
    UnwatchableError,
    UnwatchedWarning,
)
from distwatch.records import NO_GRADIENT

X, Y = unlike_rows(64)
Z = X[:, :4] - X[:, 4:8]
NO_LOSS = (
    "the step does not call compute_loss of the model; have it call self.compute_loss(...)"
)


class Own(keras.Model):
    """A step as books write it: no compute_loss, and the model itself is not called."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.layers.Dense(3, "tanh", name="encoder")
        self.decoder = keras.layers.Dense(4, name="decoder")
        self.encoder.build((None, 12))
        self.decoder.build((None, 3))

    def call(self, x):
        return self.decoder(self.encoder(x))

    def gradients_of(self, x, z):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self.decoder(self.encoder(x)) - z))
        return tape.gradient(loss, self.trainable_variables)

    def train_step(self, data):
        self.optimizer.apply(self.gradients_of(*data), self.trainable_variables)
        return {"done": tf.constant(1.0)}


class Decorated(Own):
    @tf.function
    def train_step(self, data):
        return Own.train_step(self, data)


class Skipping(Own):
    """Leaves steps out that are not finite."""

    def train_step(self, data):
        gradients = self.gradients_of(*data)
        variables = self.trainable_variables

        def apply():
            self.optimizer.apply(gradients, variables)
            return 1

        return {"done": tf.cond(tf.math.is_finite(gradients[0][0, 0]), apply, lambda: 0)}


class DecoratedCall(Own):
    @tf.function
    def call(self, x):
        return Own.call(self, x)

    def train_step(self, data):
        return keras.Model.train_step(self, data)


def made(kind=Own, **compiled):
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    model = kind()
    model.compile("adam", "mse", **compiled)
    return model


def train(tmp_path, kind=Own, **options):
    """Train watched, find the weights as unwatched, and return the run."""
    unwatched = made(kind)
    fit(unwatched, X, Z)
    model = made(kind)
    fit(model, X, Z, dw.Watch(tmp_path / "run.zarr", **options))
    assert same_weights(model, unwatched)
    return dw.open_run(tmp_path / "run.zarr")


def test_a_kind_that_finds_nothing_is_passed_over(tmp_path):
    with pytest.warns(UnwatchedWarning, match=r"run\.unwatched: loss \(the step") as warned:
        run = train(tmp_path, signals=[dw.loss(), dw.updates("*/kernel")])
    assert len(warned) == 1
    assert run.signals == ["update/encoder/kernel", "update/decoder/kernel"]
    assert run.unwatched == {"loss": NO_LOSS}


@pytest.mark.slow
def test_wildcards_that_find_nothing_are_passed_over(tmp_path):
    signals = ["conv*", "out*", "dec*", dw.gradients("re:norm.*")]
    with pytest.warns(UnwatchedWarning, match=r"activations: conv\* .*; gradients: re:norm"):
        run = train(tmp_path, signals=signals)
    assert run.signals == ["activation/decoder"]
    assert run.unwatched == {
        "activations: conv*": "it matches no layer of this model",
        "output": "not called in the step's own graph",
        "activations: out*": "not called in the step's own graph",
        "gradients: re:norm.*": "it matches no weight of this model",
    }


@pytest.mark.parametrize(
    ("signals", "says"),
    [
        (["dec*", "output"], "'output' was asked for .*not called in the step"),
        ([dw.tensors("output", every=2), "dec*"], "'output' was asked for"),
        ([dw.gradients("encoder/bias", local=False), dw.updates()], "condition, where they"),
    ],
)
def test_a_name_that_finds_nothing_is_refused(tmp_path, signals, says):
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    model = made()
    model.compile(optimizer)
    before = model.get_weights()
    with pytest.raises(UnwatchableError, match=says):
        fit(model, X, Z, dw.Watch(tmp_path / "run.zarr", signals=signals))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert not (tmp_path / "run.zarr").exists()


def test_where_keras_hides_the_applied_gradients_the_local_ones_are_watched(tmp_path):
    model = made()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()))
    watch = dw.Watch(tmp_path / "run.zarr", signals=[dw.gradients("*/bias")])
    with pytest.warns(UnwatchedWarning, match="LossScaleOptimizer Keras adds up"):
        fit(model, X, Z, watch)
    run = dw.open_run(tmp_path / "run.zarr")
    assert run.signals == ["gradient_local/encoder/bias", "gradient_local/decoder/bias"]
    assert list(run.unwatched) == ["gradient/*"]


# Keras says it, too.
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")
def test_weights_that_no_gradient_reaches_are_listed(tmp_path):
    class Detached(Own):
        def gradients_of(self, x, z):
            with tf.GradientTape() as tape:
                code = tf.stop_gradient(self.encoder(x))
                loss = tf.reduce_mean(tf.square(self.decoder(code) - z))
            return tape.gradient(loss, self.trainable_variables)

    run = train(tmp_path, Detached, signals=[dw.gradients()])
    assert run.signals[0] == "gradient_local/decoder/kernel"
    assert run.unwatched == {"encoder/kernel": NO_GRADIENT, "encoder/bias": NO_GRADIENT}
    with pytest.raises(UnwatchableError, match=f"'encoder/bias' .*: {NO_GRADIENT}"):
        train(tmp_path / "named", Detached, signals=[dw.gradients("encoder/bias")])


@pytest.mark.slow
def test_validation_without_anything_to_watch_does_not_end_the_watching(tmp_path):
    class Validated(Own):
        def test_step(self, data):
            return {"nothing": tf.constant(0.0)}

    model = made(Validated)
    watch = dw.Watch(tmp_path / "run.zarr", phases=["train", "test"], signals="encoder")
    with pytest.warns(UnwatchedWarning, match="phase 'test': .* nothing to watch") as warned:
        fit(model, X, Z, watch, validation_data=(X, Z), epochs=2)
    assert len(warned) == 1
    run = dw.open_run(tmp_path / "run.zarr")
    assert (run.phases, len(run), run.ended) == (["train"], 8, "closed")


def test_validation_that_cannot_be_watched_does_not_end_the_training(tmp_path):
    class Validated(Own):
        def test_step(self, data):
            return {"nothing": tf.constant(0.0)}

    model = made(Validated)
    watch = dw.Watch(tmp_path / "run.zarr", phases=["test"])
    with pytest.warns(match="stopped watching after 0 steps.* nothing to watch"):
        fit(model, X, Z, watch, validation_data=(X, Z), epochs=2)
    assert int(model.optimizer.iterations) == 8


@pytest.mark.fast_cases("DecoratedCall")
@pytest.mark.parametrize("kind", [Decorated, Skipping, DecoratedCall])
def test_what_happens_in_an_inner_function_is_not_watched_and_the_reason_is_true(
    tmp_path, kind
):
    inside = "a condition" if kind is Skipping else r"a tf.function of its own \(take"
    if kind is not DecoratedCall:
        with pytest.raises(NothingToWatchError, match=f"is applied inside {inside}"):
            train(tmp_path / "only", kind, signals=[dw.gradients()])
        with pytest.warns(UnwatchedWarning, match=f"updates .*applied inside {inside}"):
            run = train(tmp_path, kind, signals=[dw.updates(), dw.weights("*/bias")])
        assert run.signals == ["weight/encoder/bias", "weight/decoder/bias"]
    if kind is Decorated:
        with pytest.raises(NothingToWatchError, match=f"encoder: called inside {inside}"):
            train(tmp_path / "default", kind)
    if kind is DecoratedCall:
        run = train(tmp_path, kind, signals=["*", dw.gradients("enc*/kernel"), dw.loss()])
        names = ["output", "gradient_local/encoder/kernel", "gradient/encoder/kernel", "loss"]
        assert [name.removeprefix("activation/") for name in run.signals] == names
        assert run.unwatched["encoder"].startswith("called inside a tf.function of its own")


@pytest.mark.slow
def test_a_step_that_is_a_function_already_is_refused_with_a_remedy_that_works(tmp_path):
    strategy = strategy_over(1)
    model, _ = small_model(strategy)

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x)))
        variables = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    with dw.watching(model, model.optimizer, tmp_path / "run.zarr") as watch:
        with pytest.raises(UnsupportedTrainingError, match=r"tf\.function\(watch\.wrap\(step"):
            watch.wrap(tf.function(step))
        watched = tf.function(watch.wrap(step))
        for rows in np.split(X, 4):
            watched(tf.constant(rows))
            watch.after_step()
    assert len(dw.open_run(tmp_path / "run.zarr")) == 4
