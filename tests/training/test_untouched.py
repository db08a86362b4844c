"""Law 3: a watched training is the training it would have been, bit by bit."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import (
    contents_of,
    everything_about,
    fit,
    small_model,
    strategy_over,
    unlike_rows,
)

import distwatch as dw
from distwatch.errors import KnownTrapWarning


@pytest.mark.fast_cases("2")
@pytest.mark.parametrize("replicas", [1, 2])
def test_model_and_its_file_are_unchanged(tmp_path, replicas):
    x, y = unlike_rows(64)
    strategy = strategy_over(replicas)
    files = []
    saver = keras.callbacks.LambdaCallback
    seen = []
    for name, watches in (("alone", []), ("watched", [dw.Watch(tmp_path / "run.zarr")])):
        model, _ = small_model(strategy)
        during = tmp_path / f"{name}-during.keras"
        save = saver(on_epoch_end=lambda epoch, logs, m=model, p=during: m.save(p))
        fit(model, x, y, *watches, save)
        model.save(tmp_path / f"{name}.keras")
        seen.append(everything_about(model))
        files.append((contents_of(during), contents_of(tmp_path / f"{name}.keras")))
    assert seen[0] == seen[1]
    assert files[0] == files[1]


class BoomError(RuntimeError):
    pass


class RaiseAt(keras.callbacks.Callback):
    def __init__(self, event, error):
        super().__init__()
        setattr(self, event, self._raise)
        self.error = error

    def _raise(self, *args, **kwargs):
        raise self.error()


@pytest.mark.fast_cases("on_train_batch_end-BoomError")
@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ("on_train_begin", BoomError),
        ("on_train_batch_end", BoomError),
        ("on_train_batch_end", KeyboardInterrupt),
        ("on_epoch_end", KeyboardInterrupt),
        ("on_test_begin", BoomError),
    ],
)
def test_no_trace_is_left_when_fit_raised(tmp_path, event, kind):
    x, y = unlike_rows(64)
    model, _ = small_model(strategy_over(1))
    # What Keras itself leaves behind after such an end is not ours.
    with pytest.raises(kind):
        fit(model, x, y, RaiseAt(event, kind), validation_data=(x, y))
    before, function = everything_about(model), model.train_function
    watch = dw.Watch(tmp_path / "run.zarr")
    with pytest.raises(kind) as held:
        fit(model, x, y, watch, RaiseAt(event, kind), validation_data=(x, y))
    assert held.tb is not None  # a held traceback keeps fit's frame alive

    assert everything_about(model) == before
    assert model.train_function is function
    weights = model.get_weights()
    fit(model, x, y)
    assert any((a != b).any() for a, b in zip(weights, model.get_weights(), strict=True))


def test_rows_of_an_interrupted_fit_are_kept(tmp_path):
    x, y = unlike_rows(64)
    model, _ = small_model(strategy_over(2))
    stop = RaiseAt("on_epoch_end", KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(model, x, y, stop, dw.Watch(tmp_path / "run.zarr", signals=dw.activations()))
    run = dw.open_run(tmp_path / "run.zarr")
    assert len(run) == 4
    # Merged by the host, since no collective is entered after an interrupt.
    counts = run.to_xarray()["count"].sum("replica")
    np.testing.assert_array_equal(run.to_xarray(merged=True)["count"], counts)


@pytest.mark.slow
def test_a_training_that_breaks_inside_the_step_keeps_its_own_error(tmp_path):
    x, y = unlike_rows(64)
    y %= 3
    y[40] = 3

    class Checked(keras.losses.Loss):
        def call(self, y_true, y_pred):
            tf.debugging.assert_less(y_true, 3.0, "no such class")
            return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, True)

    model, _ = small_model(strategy_over(1))
    model.compile("sgd", Checked())
    with pytest.raises(tf.errors.InvalidArgumentError, match="no such class"):
        fit(model, x, y, dw.Watch(tmp_path / "run.zarr"))
    assert model.train_function is None
    # The step that broke may have been recorded before it did.
    assert len(dw.open_run(tmp_path / "run.zarr")) in (2, 3)


@pytest.mark.slow
def test_a_second_fit_with_another_watch(tmp_path):
    x, y = unlike_rows(64)
    model, _ = small_model(strategy_over(1))
    fit(model, x, y, dw.Watch(tmp_path / "one.zarr"))
    fit(model, x, y, dw.Watch(tmp_path / "two.zarr"), epochs=2)
    fit(model, x, y)
    assert len(dw.open_run(tmp_path / "one.zarr")) == 4
    second = dw.open_run(tmp_path / "two.zarr").to_xarray()
    assert list(second.step.values) == list(range(8))
    # distwatch counts its own steps; the optimizer goes on where it was.
    assert list(second.iteration.values) == list(range(5, 13))


@pytest.mark.slow
def test_what_the_owner_put_on_an_instance_stays(tmp_path):
    """Textbooks patch ``layer.call``; that patch is the owner's, and is recorded through."""
    x, y = unlike_rows(64)
    model, _ = small_model(strategy_over(1))
    layer = model.layers[0]
    original_call, original_step, steps = layer.call, model.train_step, []

    def call(*args, **kwargs):
        return original_call(*args, **kwargs) * 2.0

    def train_step(data):
        steps.append(data)
        return original_step(data)

    layer.__dict__["call"], model.__dict__["train_step"] = call, train_step
    fit(model, x, y, dw.Watch(tmp_path / "run.zarr", reference="none"))
    assert layer.__dict__["call"] is call
    assert model.__dict__["train_step"] is train_step
    assert steps
    ours = dw.open_run(tmp_path / "run.zarr")["activation/dense_0"].merged("mean").values[0]

    plain, _ = small_model(strategy_over(1))
    fit(plain, x, y, dw.Watch(tmp_path / "plain.zarr", reference="none"))
    its = dw.open_run(tmp_path / "plain.zarr")["activation/dense_0"].merged("mean").values[0]
    assert ours == pytest.approx(2 * its, rel=1e-5)


def test_validation_and_predict_do_not_move_the_reference(tmp_path):
    x, y = unlike_rows(64)
    rows = []
    for name, more in (("plain", {}), ("validated", {"validation_data": (x[::-1], y)})):
        model, _ = small_model(strategy_over(1))
        predict = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda e, logs, m=model: m.predict(x * 9, verbose=0)
        )
        fit(model, x, y, dw.Watch(tmp_path / f"{name}.zarr"), predict, epochs=2, **more)
        rows.append(dw.open_run(tmp_path / f"{name}.zarr").to_xarray())
    assert len(rows[0].step) == 8
    assert rows[0].equals(rows[1])


@pytest.mark.slow
def test_a_watch_that_is_made_within_the_call_is_told_too(tmp_path):
    """Python looks ``model.fit`` up before it makes the first Watch."""
    model, _ = small_model(strategy_over(2))
    with model.distribute_strategy.scope():
        model.compile(keras.optimizers.SGD(clipnorm=1.0), "sparse_categorical_crossentropy")
    with (
        pytest.warns(KnownTrapWarning, match="clipnorm"),
        pytest.raises(ZeroDivisionError),
    ):
        model.fit(
            *unlike_rows(32),
            verbose=0,
            callbacks=[
                dw.Watch(tmp_path / "run.zarr"),
                keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: 1 / 0),
            ],
        )
    assert model.train_function is None
    assert all("call" not in vars(layer) for layer in model._flatten_layers())
    assert len(dw.open_run(tmp_path / "run.zarr")) == 1
