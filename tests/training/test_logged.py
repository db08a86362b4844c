"""Numbers that a step names by ``watch.log`` are signals on each replica."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from trainings import fit, same_weights, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import (
    ConfigError,
    NothingToWatchError,
    UnknownSignalError,
    WatcherDisabledWarning,
)

BATCH, STEPS = 16, 6


class Penalized(keras.Model):
    """A model with a train step of its own, which names two parts of its loss."""

    #: Called with the parts of the loss, in each step.
    tell = staticmethod(lambda distance, penalty: None)

    def parts(self, x, y):
        distance = ops.mean(ops.square(self(x, training=True) - ops.one_hot(y, 4)))
        return distance, 0.01 * ops.mean(ops.square(self.get_layer("last").kernel))

    def train_step(self, data):
        with tf.GradientTape() as tape:
            distance, penalty = self.parts(*data)
            self.tell(distance, penalty)
            share = (distance + penalty) / tf.distribute.get_strategy().num_replicas_in_sync
        gradients = tape.gradient(share, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"distance": distance}

    def test_step(self, data):
        distance, penalty = self.parts(*data)
        self.tell(distance, penalty)
        return {"distance": distance}


def penalized(replicas, *, spe=1, jit=False):
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    with strategy_over(replicas).scope():
        x = keras.Input((12,))
        hidden = keras.layers.Dense(8, "tanh", name="hidden")(x)
        model = Penalized(x, keras.layers.Dense(4, name="last")(hidden))
        model.compile("adam", steps_per_execution=spe, jit_compile=jit)
    return model


def trained(model, watch, **more):
    fit(model, *unlike_rows(BATCH * STEPS), watch, batch=BATCH, **more)
    return dw.open_run(watch.path)


def telling(watch):
    def tell(distance, penalty):
        assert watch.log("distance", distance) is distance
        watch.log("loss/penalty", penalty)

    return tell


def parts_by_numpy(replicas):
    """The parts of each step on each replica, by a model that trains beside it unwatched."""
    model, (x, y) = penalized(replicas), unlike_rows(BATCH * STEPS)
    found = []
    for start in range(0, len(x), BATCH):
        rows = slice(start, start + BATCH)
        found.append([
            [float(part) for part in model.parts(*pair)]
            for pair in zip(
                np.split(x[rows], replicas), np.split(y[rows], replicas), strict=True
            )
        ])  # fmt: skip
        fit(model, x[rows], y[rows], batch=BATCH)
    return np.array(found)


# Under XLA the last digits of what is trained may differ, which is warned of.
@pytest.mark.filterwarnings("ignore::distwatch.errors.RoundingWarning")
@pytest.mark.fast_cases("2-1-False")
@pytest.mark.parametrize(
    ("replicas", "spe", "jit"), [(1, 1, False), (2, 1, False), (2, 3, False), (1, 1, True)]
)
def test_each_replica_has_its_own_and_the_merged_one_is_their_mean(
    tmp_path, replicas, spe, jit
):
    model = penalized(replicas, spe=spe, jit=jit)
    watch = dw.Watch(tmp_path / "run.zarr")
    model.tell = telling(watch)
    run = trained(model, watch)
    wanted = parts_by_numpy(replicas)
    assert replicas == 1 or np.ptp(wanted[..., 0], axis=1).min() > 1e-3
    for number, name in enumerate(["log/distance", "log/loss/penalty"]):
        rows = run[name].per_replica("mean")
        np.testing.assert_allclose(rows, wanted[..., number], rtol=1e-5)
        merged = run[name].merged("mean")
        np.testing.assert_allclose(merged, wanted[..., number].mean(axis=1), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_training_comes_out_the_same(tmp_path, replicas):
    alone, model = penalized(replicas), penalized(replicas)
    fit(alone, *unlike_rows(BATCH * STEPS), batch=BATCH)
    watch = dw.Watch(tmp_path / "run.zarr")
    model.tell = telling(watch)
    trained(model, watch)
    assert same_weights(alone, model)


def test_a_selector_says_which_and_when_and_two_calls_are_two_signals(tmp_path):
    model = penalized(1)
    watch = dw.Watch(tmp_path / "run.zarr", signals=[dw.logged("d*", every=2)])

    def tell(distance, penalty):
        watch.log("distance", distance)
        watch.log("distance", distance + 1)
        watch.log("penalty", penalty)

    model.tell = tell
    run = trained(model, watch)
    assert run.signals == ["log/distance", "log/distance#1"]
    assert run["log/distance"].merged("mean").step.values.tolist() == [0, 2, 4]
    first, second = (run[name].merged("mean") for name in run.signals)
    np.testing.assert_allclose(second, first + 1, rtol=1e-6)


@pytest.mark.slow
def test_validation_has_its_own(tmp_path):
    model = penalized(1)
    watch = dw.Watch(tmp_path / "run.zarr", phases=["train", "test"])
    model.tell = telling(watch)
    trained(model, watch, validation_data=unlike_rows(2 * BATCH, seed=9))
    run = dw.open_run(watch.path, phase="test")
    assert "log/distance" in run
    assert len(run) == 2


@pytest.mark.slow
def test_where_nothing_is_logged_nothing_is_missed(tmp_path):
    run = trained(penalized(1), dw.Watch(tmp_path / "run.zarr"))
    assert not [name for name in (*run.signals, *run.unwatched) if "log" in name]
    with pytest.raises(NothingToWatchError, match=r"does not give it to watch\.log"):
        trained(penalized(1), dw.Watch(tmp_path / "none.zarr", signals=[dw.logged()]))


def test_where_nothing_is_watched_it_hands_the_value_on(tmp_path):
    watch = dw.Watch(tmp_path / "run.zarr")
    assert watch.log("distance", 2.5) == 2.5
    model = penalized(1)
    model.tell = telling(watch)
    fit(model, *unlike_rows(BATCH), batch=BATCH)
    assert watch.path is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("a b", 1.0, "letters, digits"),
        (3, 1.0, "letters, digits"),
        ("rows", tf.ones(3), r"shape \(3,\), not one number"),
        ("text", object(), "of which TensorFlow makes no tensor"),
    ],
    ids=["a space", "no text", "several", "no tensor"],
)
def test_what_cannot_be_a_number_is_refused_before_the_first_step(tmp_path, name, value, says):
    model = penalized(2)
    before = [weight.numpy() for weight in model.trainable_variables]
    watch = dw.Watch(tmp_path / "run.zarr")
    model.tell = lambda distance, penalty: watch.log(name, value)
    with pytest.raises(ConfigError, match=says):
        trained(model, watch)
    for weight, was in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), was)


def test_a_name_that_no_step_gives_is_refused(tmp_path):
    model = penalized(1)
    watch = dw.Watch(tmp_path / "run.zarr", signals=[dw.logged("distanec")])
    model.tell = telling(watch)
    with pytest.raises(UnknownSignalError, match="distance"):
        trained(model, watch)


@pytest.mark.slow
def test_what_is_logged_inside_a_condition_is_listed_with_the_reason(tmp_path):
    model = penalized(1)
    watch = dw.Watch(tmp_path / "run.zarr")

    def tell(distance, penalty):
        watch.log("distance", distance)
        tf.cond(distance > 0, lambda: watch.log("inside", distance), lambda: distance)

    model.tell = tell
    run = trained(model, watch)
    assert "log/distance" in run
    assert "watch.log inside a condition" in run.unwatched["inside"]


def test_a_name_that_is_given_at_some_steps_only_is_named(tmp_path):
    model = penalized(1)
    model.compile("adam", run_eagerly=True)
    watch = dw.Watch(tmp_path / "run.zarr")
    steps = itertools.count()

    def tell(distance, penalty):
        watch.log("distance", distance)
        if next(steps) % 2:
            watch.log("penalty", penalty)

    model.tell = tell
    with pytest.warns(WatcherDisabledWarning, match=r"watch\.log was not given the same names"):
        trained(model, watch)


def test_a_loop_of_ones_own_logs_too(tmp_path):
    strategy = strategy_over(2)
    keras.utils.clear_session()
    with strategy.scope():
        model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(4, name="only")])
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)

    with dw.watching(model, optimizer, tmp_path / "run.zarr", strategy=strategy) as watch:

        @watch.wrap
        def step(x):
            with tf.GradientTape() as tape:
                size = tf.reduce_mean(tf.square(model(x)))
                watch.log("size", size)
                share = size / 2
            gradients = tape.gradient(share, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
            return size

        @tf.function
        def whole(x):
            return strategy.run(step, args=(x,))

        sizes = []
        for seed in range(3):
            both = np.split(unlike_rows(8, seed=seed)[0], 2)
            x = strategy.experimental_distribute_values_from_function(
                lambda context, both=both: both[context.replica_id_in_sync_group]
            )
            results = strategy.experimental_local_results(whole(x))
            sizes.append([float(each) for each in results])
            watch.after_step()
    rows = dw.open_run(tmp_path / "run.zarr")["log/size"].per_replica("mean")
    assert np.ptp(sizes, axis=1).min() > 1e-3
    np.testing.assert_allclose(rows, sizes, rtol=1e-6)
