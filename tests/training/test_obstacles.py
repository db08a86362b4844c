"""What Keras cannot do under a strategy: reproduced unwatched, and refused watched."""

import functools
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import KnownTrapWarning, UnsupportedTrainingError


def with_collectives():
    strategy_over(2)  # leaves collective keys of its own to what follows
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def several_steps():
    return small_model(with_collectives(), spe=3)[0]


def compiled():
    return small_model(strategy_over(2), jit=True)[0]


def accumulating():
    return optimized_by(gradient_accumulation_steps=2)


def averaging():
    return optimized_by(use_ema=True, ema_overwrite_frequency=2)


def optimized_by(**options):
    model, _ = small_model(strategy_over(2))
    with model.distribute_strategy.scope():
        optimizer = keras.optimizers.SGD(**options)
        model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


@pytest.mark.fast_cases("several_steps-*")
@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (several_steps, "ReductionToOneDevice"),
        (compiled, "jit_compile=False"),
        (accumulating, "use a larger batch"),
        (averaging, "leave ema_overwrite_frequency out"),
    ],
)
def test_keras_fails_and_watch_says_why_first(tmp_path, make, remedy):
    x, y = unlike_rows(48)
    with ThreadPoolExecutor(max_workers=1) as thread:
        # Such a failure leaves the thread's strategy scope entered, so it gets one
        # of its own.
        unwatched = thread.submit(lambda: fit(make(), x, y)).exception()
    assert unwatched is not None
    assert not isinstance(unwatched, UnsupportedTrainingError)
    with pytest.raises(UnsupportedTrainingError, match=remedy):
        fit(make(), x, y, dw.Watch(tmp_path / "run.zarr"))
    assert not (tmp_path / "run.zarr").exists()


def ragged():
    lists = tf.ragged.constant([[1.0, 2.0], [3.0]] * 8)
    return tf.data.Dataset.from_tensor_slices((lists, [0, 1] * 8)).batch(4)


def dense(rows):
    return tf.data.Dataset.from_tensor_slices(unlike_rows(rows))


@pytest.mark.fast_cases("data0-*", "data4-*")
@pytest.mark.parametrize(
    ("data", "more", "reason"),
    [
        (unlike_rows(45), {"batch_size": 15}, "first batch of 15 rows over 2 replicas"),
        (unlike_rows(7), {}, "first batch of 7 rows"),
        (unlike_rows(30), {"validation_split": 0.5}, "first batch of 15 rows"),
        ((dense(45).batch(5, drop_remainder=True),), {}, "first batch of 5 rows"),
        ((ragged(),), {}, "cannot spread ragged or sparse inputs"),
    ],
)
def test_data_that_keras_cannot_spread(tmp_path, data, more, reason):
    def unwatched():
        small_model(strategy_over(2))[0].fit(*data, verbose=0, shuffle=False, **more)

    with ThreadPoolExecutor(max_workers=1) as thread:
        failure = thread.submit(unwatched).exception()
    assert failure is not None
    assert not isinstance(failure, UnsupportedTrainingError)
    with pytest.raises(UnsupportedTrainingError, match=reason):
        watch = dw.Watch(tmp_path / "run.zarr")
        small_model(strategy_over(2))[0].fit(
            *data, verbose=0, shuffle=False, callbacks=[watch], **more
        )


def convolving(layer):
    with strategy_over(4).scope():
        layers = [layer, keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
        model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
        model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.mark.keras
def test_convolutions_cannot_do_without_rows(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(1.0, 1.0, (9, 6, 6, 1)).astype("float32"), rng.integers(0, 3, 9)
    convolution = functools.partial(keras.layers.Conv2D, 4, 3, activation="relu")
    with ThreadPoolExecutor(max_workers=1) as thread:
        training = thread.submit(lambda: fit(convolving(convolution()), x, y, batch=8))
        assert isinstance(training.exception(), tf.errors.InvalidArgumentError)
    with pytest.raises(UnsupportedTrainingError, match="leaves one of 4 replicas without any"):
        fit(convolving(convolution()), x, y, dw.Watch(tmp_path / "run.zarr"), batch=8)
    assert not (tmp_path / "run.zarr").exists()
    # One row over four replicas, but nothing that needs them.
    transposed = convolving(keras.layers.Conv2DTranspose(4, 3, activation="relu"))
    with pytest.warns(KnownTrapWarning, match="split unevenly"):
        fit(transposed, x, y, dw.Watch(tmp_path / "run.zarr"), batch=8)
    assert len(dw.open_run(tmp_path / "run.zarr")) == 2


def test_a_first_batch_of_unknown_size_is_explained(tmp_path):
    def watched():
        watch = dw.Watch(tmp_path / "run.zarr")
        data = dense(45).batch(5)
        small_model(strategy_over(2))[0].fit(data, shuffle=False, callbacks=[watch])

    with ThreadPoolExecutor(max_workers=1) as thread:
        failure = thread.submit(watched).exception()
    assert isinstance(failure, tf.errors.InvalidArgumentError)
    assert "use another batch size" in failure.__notes__[0]


@pytest.mark.slow
def test_data_that_keras_can_spread(tmp_path):
    data = dense(46).batch(16)
    model, _ = small_model(strategy_over(2))
    model.fit(data, verbose=0, shuffle=False, callbacks=[dw.Watch(tmp_path / "run.zarr")])
    assert len(dw.open_run(tmp_path / "run.zarr")) == 3


@pytest.mark.slow
def test_default_collectives_are_fine_one_step_at_a_time(tmp_path):
    x, y = unlike_rows(48)
    model, _ = small_model(with_collectives())
    watch = dw.Watch(tmp_path / "run.zarr", signals=dw.activations(), window=2)
    fit(model, x, y, watch)
    rows = dw.open_run(tmp_path / "run.zarr").to_xarray()
    merged = dw.open_run(tmp_path / "run.zarr").to_xarray(merged=True)
    assert (merged["count"] == rows["count"].sum("replica")).all()
    assert rows.sizes["step"] == 3


@pytest.mark.slow
def test_one_device_strategy(tmp_path):
    x, y = unlike_rows(48)
    model, _ = small_model(tf.distribute.OneDeviceStrategy("CPU:1"), spe=2)
    assert dw.preflight(model) == []
    fit(model, x, y, dw.Watch(tmp_path / "run.zarr"))
    run = dw.open_run(tmp_path / "run.zarr")
    assert len(run) == 3
    assert run.info.strategy == "OneDeviceStrategy over 1 x CPU"


def test_strategies_keras_does_not_know(tmp_path):
    central = tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"])
    model, _ = small_model(central)
    with pytest.raises(UnsupportedTrainingError, match="cannot train under CentralStorage"):
        fit(model, *unlike_rows(48), dw.Watch(tmp_path / "run.zarr"))
