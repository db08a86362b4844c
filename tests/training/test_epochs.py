"""What epochs came to is kept as Keras logged it, and judged alike live and afterwards."""

import keras
import numpy as np
import pytest
from trainings import fit, strategy_over, unlike_rows

import distwatch as dw
from distwatch import actions

X, _ = unlike_rows(64)


class Adds(keras.callbacks.Callback):
    """Adds to the logs what is no number."""

    def on_epoch_end(self, epoch, logs=None):
        logs["text"] = "none"


class Overfits(keras.callbacks.Callback):
    """Plants losses in the logs."""

    def on_epoch_end(self, epoch, logs=None):
        logs["loss"], logs["val_loss"] = 1.0 / (1 + epoch), 1.0 + 0.1 * abs(epoch - 1)


def trained(path, *callbacks, replicas=1, rate=0.001, metrics=(), epochs=3, every=2, **how):
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    with strategy_over(replicas).scope():
        model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(rate), "mse", metrics=list(metrics))
    held = X[:16], X[:16, :1]
    callbacks = [*callbacks, dw.Watch(path, **how)]
    return fit(
        model, X, X[:, :1], *callbacks, epochs=epochs, validation_data=held,
        validation_freq=every,
    ).history  # fmt: skip


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_metrics_are_those_of_keras(tmp_path, replicas):
    path = tmp_path / "run.zarr"
    history = trained(path, Adds(), replicas=replicas, metrics=["mae"], epochs=4)
    epochs = dw.open_run(path).epochs()
    assert epochs.epoch.values.tolist() == [0, 1, 2, 3]
    assert epochs.step.values.tolist() == [4, 8, 12, 16]
    assert set(epochs.metric.values) == {"loss", "mae", "val_loss", "val_mae"}
    for name in ("loss", "mae"):
        assert epochs.value.sel(metric=name).values.tolist() == history[name]
    validated = epochs.value.sel(metric="val_loss").values
    assert validated[1::2].tolist() == history["val_loss"]
    assert np.isnan(validated[::2]).all()


@pytest.mark.slow
def test_the_learning_rate_is_that_of_each_epoch(tmp_path):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 4, 0.5)
    trained(tmp_path / "schedule.zarr", rate=schedule)
    rates = dw.open_run(tmp_path / "schedule.zarr").epochs().learning_rate.values
    np.testing.assert_allclose(rates, [0.005, 0.0025, 0.00125], rtol=1e-6)
    halved = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    trained(tmp_path / "callback.zarr", halved, rate=0.01)
    rates = dw.open_run(tmp_path / "callback.zarr").epochs().learning_rate.values
    np.testing.assert_allclose(rates, [0.005, 0.0025, 0.00125], rtol=1e-6)


def test_a_loss_that_is_not_finite_is_nan(tmp_path):
    trained(tmp_path / "run.zarr", rate=1e30)
    assert np.isnan(dw.open_run(tmp_path / "run.zarr").epochs().value.sel(metric="loss")[-1])


def test_live_and_afterwards_say_the_same(tmp_path):
    found = []
    rules = [actions.on("Overfitting", severity="note", do=actions.call(found.append))]
    trained(tmp_path / "run.zarr", Overfits(), epochs=11, every=1, rules=rules)
    every = dw.open_run(tmp_path / "run.zarr").findings()
    (after,) = (each for each in every if each.rule == "Overfitting")
    assert [each.text for each in found] == [after.text]
    assert (
        "lowest in epoch 1 (Keras prints 2), at 1, and ended at 1.9, 9 validations later"
        in after.text
    )
