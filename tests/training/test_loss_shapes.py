"""A loss that compares each prediction with each target, by shapes that broadcast, is told."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import KnownTrapWarning

X, _ = unlike_rows(96)
Y = X[:, 0] + 0.5


def columns(y, said):
    """Targets (batch,) against outputs (batch, 1)."""
    return keras.ops.mean(keras.ops.square(said - y[:, 0]))


def said_in_a_row(y, said):
    return keras.ops.mean(keras.ops.abs(y - keras.ops.mean(said, axis=-1)))


def alike(y, said):
    return keras.ops.mean(keras.ops.square(said - y))


def ranking(y, said):
    """Differences of all pairs, on purpose: of the targets, and of what is said."""
    y, row = y[:, 0], said[:, 0]
    wanted = keras.ops.sign(y[:, None] - y)
    return keras.ops.mean(keras.ops.relu(1.0 - wanted * (said - row)))


def weighted_by_target(y, said):
    """A product of both is none of their differences."""
    return keras.ops.mean(keras.ops.square(said - y) * y[:, 0])


LOSSES = {
    columns: True,
    said_in_a_row: True,
    alike: False,
    ranking: False,
    weighted_by_target: False,
    "mse": False,
    "huber": False,
}


def model_of(loss, make=keras.Model, **compiled):
    inputs = keras.Input((12,))
    hidden = keras.layers.Dense(8, "relu")(inputs)
    model = make(inputs, keras.layers.Dense(1, name="out")(hidden))
    model.compile("adam", loss, **compiled)
    return model


def watched(tmp_path, model):
    watch = dw.Watch(tmp_path / "run.zarr", strict=True)
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[watch])
    return dw.open_run(tmp_path / "run.zarr")


def told(run):
    return [each for each in run.findings() if "(batch, 1)" in each.text]


@pytest.mark.fast_cases("columns", "ranking")
@pytest.mark.parametrize("loss", LOSSES, ids=lambda each: getattr(each, "__name__", str(each)))
def test_only_differences_between_predictions_and_other_targets_are_told(tmp_path, loss):
    run = watched(tmp_path, model_of(loss))
    assert run.info.card.of_pairs is bool(told(run)) is LOSSES[loss]
    for finding in told(run):
        assert (finding.severity, finding.faults) == ("warning", ("wrong_loss",))
        assert f"the loss {loss.__name__} compares" in finding.brief


@pytest.mark.slow
def test_on_two_replicas(tmp_path):
    with strategy_over(2).scope():
        model = model_of(columns)
    # Keras divides no scalar by the number of replicas, which is another trap.
    with pytest.warns(KnownTrapWarning, match="2 times that of the whole batch"):
        run = watched(tmp_path, model)
    assert len(told(run)) == 1


@pytest.mark.slow
def test_in_a_train_step_of_ones_own(tmp_path):
    class Model(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(
                zip(gradients, self.trainable_variables, strict=True)
            )
            return {"loss": loss}

        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            return tf.reduce_mean((y - y_pred) ** 2)

    targets = tf.data.Dataset.from_tensor_slices((X, Y.astype("float32"))).batch(16)
    watch = dw.Watch(tmp_path / "run.zarr", strict=True)
    model_of(None, Model).fit(targets, shuffle=False, epochs=2, verbose=0, callbacks=[watch])
    (finding,) = told(dw.open_run(tmp_path / "run.zarr"))
    assert finding.brief.startswith("the loss of the step compares")


@pytest.mark.slow
def test_what_a_function_of_the_loss_does_is_not_known(tmp_path):
    run = watched(tmp_path, model_of(tf.function(columns)))
    assert run.info.card.of_pairs is None and not told(run)


@pytest.mark.slow
def test_of_a_step_without_a_graph_nothing_is_told(tmp_path):
    run = watched(tmp_path, model_of(columns, run_eagerly=True))
    assert run.info.card.of_pairs is None and np.isfinite(run["loss"].merged("mean")).all()
