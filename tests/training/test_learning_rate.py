"""The learning rate of each step is a signal: by schedules, callbacks, several optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_optimizers import Gan
from trainings import fit, same_weights, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import NothingToWatchError, UnwatchedWarning
from distwatch.training.taps.learning_rates import current_rate

STEPS, BATCH = 6, 16
DECAY = keras.optimizers.schedules.ExponentialDecay(0.02, decay_steps=2, decay_rate=0.5)


class Lowering(keras.callbacks.Callback):
    """Halves the learning rate after the third batch, as a callback of a user might."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            self.model.optimizer.learning_rate = 0.005


def optimized_by(optimizer, replicas=1):
    """A small model with this optimizer, made where the replicas are."""
    strategy = strategy_over(replicas)
    model, _ = small_model(strategy)
    with strategy.scope():
        model.compile(optimizer(), model.loss)
    return model


def rates_of(model, path, *callbacks, x=None):
    rows, labels = unlike_rows(BATCH * STEPS)
    watch = dw.Watch(path, signals=[dw.learning_rate()])
    fit(model, rows if x is None else x, labels, *callbacks, watch, batch=BATCH)
    return dw.open_run(path)


@pytest.mark.fast_cases("2")
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_schedule_is_seen_step_by_step_and_changes_nothing(tmp_path, replicas):
    def adam():
        return keras.optimizers.Adam(DECAY)

    watched = optimized_by(adam, replicas)
    run = rates_of(watched, tmp_path / "run.zarr")
    rates = run["learning_rate"].per_replica("mean")
    wanted = np.float32(0.02) * 0.5 ** (np.arange(STEPS) / 2)
    np.testing.assert_allclose(rates, np.tile(wanted[:, None], replicas), rtol=1e-6)
    assert [signal for signal in run.signals if "rate" in signal] == ["learning_rate"]

    unwatched = optimized_by(adam, replicas)
    fit(unwatched, *unlike_rows(BATCH * STEPS), batch=BATCH)
    assert same_weights(watched, unwatched)


def test_a_callback_that_lowers_it_is_seen_at_the_step_after(tmp_path):
    model = optimized_by(lambda: keras.optimizers.SGD(0.01))
    run = rates_of(model, tmp_path / "run.zarr", Lowering())
    rates = run["learning_rate"].per_replica("mean")[:, 0]
    np.testing.assert_array_equal(rates, np.float32([0.01] * 3 + [0.005] * 3))


def test_under_a_loss_scale_it_is_that_of_the_inner_optimizer(tmp_path):
    def scaling():
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(DECAY))

    rates = rates_of(optimized_by(scaling), tmp_path / "run.zarr")["learning_rate"]
    wanted = np.float32(0.02) * 0.5 ** (np.arange(STEPS) / 2)
    np.testing.assert_allclose(rates.per_replica("mean")[:, 0], wanted, rtol=1e-6)


def test_each_time_that_an_optimizer_is_applied_has_its_own(tmp_path):
    keras.utils.clear_session()
    model = Gan()
    model.compile(keras.optimizers.SGD(0.03), keras.optimizers.Adam(0.07))
    watch = dw.Watch(tmp_path / "run.zarr", signals=[dw.learning_rate()])
    model.fit(np.ones((32, 4), "f"), batch_size=16, verbose=0, callbacks=[watch])
    run = dw.open_run(tmp_path / "run.zarr")
    rates = {name: run[name].per_replica("mean")[0, 0] for name in run.signals}
    assert rates == {
        "learning_rate": np.float32(0.03),
        "learning_rate#1": np.float32(0.03),
        "learning_rate#2": np.float32(0.07),
    }


def test_a_function_that_gives_it_is_not_called_to_look(tmp_path):
    calls = []

    def rate():
        calls.append(1)
        return 0.01

    unwatched = optimized_by(lambda: keras.optimizers.SGD(rate))
    fit(unwatched, *unlike_rows(BATCH), batch=BATCH)
    alone = len(calls)
    assert alone >= 1

    calls.clear()
    model = optimized_by(lambda: keras.optimizers.SGD(rate))
    watch = dw.Watch(tmp_path / "run.zarr", signals=[dw.loss(), dw.learning_rate()])
    with pytest.warns(UnwatchedWarning, match="gets it from a function"):
        fit(model, *unlike_rows(BATCH), watch, batch=BATCH)
    assert len(calls) == alone
    run = dw.open_run(tmp_path / "run.zarr")
    assert run.signals == ["loss"]
    assert "keras.optimizers.schedules can be watched" in run.unwatched["learning_rate"]
    assert np.isnan(run.epochs()["learning_rate"]).all()


def test_nor_is_one_within_a_loss_scale():
    calls = []
    inner = keras.optimizers.SGD(lambda: calls.append(1) or 0.01)
    scaling = keras.optimizers.LossScaleOptimizer(inner)
    calls.clear()
    assert current_rate(scaling) is None
    assert not calls


class Random(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule of the user's own: one call more gives later steps other numbers."""

    calls = 0

    def __call__(self, step):
        Random.calls += 1
        return 0.01 * tf.random.uniform([], 0.5, 1.5)


def trained_at_random(*watch):
    """A model of such a schedule, and how often it was called."""
    Random.calls = 0
    model = optimized_by(lambda: keras.optimizers.SGD(Random()))
    fit(model, *unlike_rows(BATCH * STEPS), *watch, batch=BATCH)
    return model, Random.calls


def test_a_schedule_of_the_users_own_is_not_called_to_look(tmp_path):
    alone, calls = trained_at_random()
    assert calls > 0
    watched, again = trained_at_random(dw.Watch(tmp_path / "a.zarr", signals=[dw.gradients()]))
    assert (same_weights(alone, watched), again) == (True, calls)
    watch = dw.Watch(tmp_path / "b.zarr", signals=[dw.loss(), dw.learning_rate()])
    with pytest.warns(UnwatchedWarning, match="a schedule of your own"):
        watched, again = trained_at_random(watch)
    assert (same_weights(alone, watched), again) == (True, calls)


def test_where_nothing_else_is_asked_for_that_is_an_error(tmp_path):
    model = optimized_by(lambda: keras.optimizers.SGD(lambda: 0.01))
    with pytest.raises(NothingToWatchError, match="gets it from a function"):
        rates_of(model, tmp_path / "none.zarr")
