"""Law 4: what people do to a Watch while they train ends no training."""

import io
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, same_weights, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import (
    DistwatchWarning,
    NothingToWatchError,
    UnwatchedWarning,
    WatcherDisabledWarning,
)
from distwatch.training.session import Session
from distwatch.training.taps.step_capture import StepCapture

X, Y = unlike_rows(64)


def unwatched(epochs=1):
    model, _ = small_model(strategy_over(1))
    fit(model, X, Y, epochs=epochs)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_watches_in_one_fit(tmp_path, replicas):
    model, _ = small_model(strategy_over(replicas))
    watches = [
        dw.Watch(tmp_path / "one.zarr", signals="dense_1", phases=["train", "test"]),
        dw.Watch(
            tmp_path / "two.zarr", signals=[dw.updates("dense_0/*")], schedule=dw.every(2)
        ),
        dw.Watch(tmp_path / "three.zarr", signals=["dense_1"], phases=["test"]),
    ]
    fit(model, X, Y, *watches, epochs=2, validation_data=(X, Y))
    runs = [dw.open_run(tmp_path / f"{name}.zarr") for name in ("one", "two", "three")]
    assert [len(run) for run in runs] == [8, 4, len(dw.open_run(runs[0].path, phase="test"))]
    alone, _ = small_model(strategy_over(replicas))
    fit(alone, X, Y, dw.Watch(tmp_path / "alone.zarr", signals="dense_1"), epochs=2)
    assert same_weights(model, alone)
    assert runs[0].to_xarray().equals(dw.open_run(tmp_path / "alone.zarr").to_xarray())
    assert model.train_function is None
    assert model.test_function is None
    assert all("call" not in vars(layer) for layer in model._flatten_layers())


@pytest.mark.slow
def test_an_interval_of_zero_is_not_taken(tmp_path):
    watch = dw.Watch(tmp_path / "run.zarr", schedule=dw.every(2))

    class SetZero(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            watch.schedule.k = [2, 0, 4][epoch]

    model, _ = small_model(strategy_over(1))
    with pytest.warns(DistwatchWarning, match=r"0 is not .* It stays every\(2\)"):
        fit(model, X, Y, watch, SetZero(), epochs=3)
    assert list(dw.open_run(watch.config.store).to_xarray().step) == [0, 2, 4, 6, 8]
    assert same_weights(model, unwatched(epochs=3))


class Closed(io.StringIO):
    def write(self, text):
        raise ValueError("I/O operation on closed file")


@pytest.mark.fast_cases("stream0")
@pytest.mark.parametrize("stream", [Closed(), io.TextIOWrapper(io.BytesIO(), "ascii")])
def test_the_last_sentences_cannot_be_printed(tmp_path, monkeypatch, stream):
    monkeypatch.setattr(Session, "sentences", lambda self: ["µ = 1", "two"])
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr")
    watch.set_params({"verbose": 1})
    swap = keras.callbacks.LambdaCallback(
        on_train_end=lambda logs: (
            monkeypatch.setattr(sys, "stdout", stream),
            watch.set_params({"verbose": 1}),
        )
    )
    fit(model, X, Y, swap, watch)
    monkeypatch.undo()
    assert len(dw.open_run(tmp_path / "run.zarr")) == 4
    if not isinstance(stream, Closed):
        stream.flush()
        assert stream.buffer.getvalue() == b"? = 1\ntwo\n"


def test_the_last_sentences_cannot_be_made(tmp_path, monkeypatch):
    def fails(self):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Session, "sentences", fails)
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr")
    loud = keras.callbacks.LambdaCallback(
        on_train_end=lambda logs: watch.set_params({"verbose": 1})
    )
    with pytest.warns(DistwatchWarning, match=r"cannot be said \(ZeroDivisionError: planted"):
        fit(model, X, Y, loud, watch)
    assert dw.open_run(tmp_path / "run.zarr").ended == "closed"


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")
def test_other_layers_from_some_step_on_of_one_execution(tmp_path):
    class Later(keras.Model):
        def __init__(self):
            super().__init__()
            self.one = keras.layers.Dense(4, name="one")
            self.other = keras.layers.Dense(4, name="other")
            self.one.build((None, 12))
            self.other.build((None, 12))

        def call(self, x):
            late = int(self.optimizer.iterations) >= 3
            return self.other(x) if late else self.one(x)

    model = Later()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True, steps_per_execution=8)
    with pytest.warns(WatcherDisabledWarning, match="other layers in a later trace"):
        fit(model, X, Y, dw.Watch(tmp_path / "run.zarr"), epochs=2)
    assert int(model.optimizer.iterations) == 8


class Evaluates(keras.callbacks.Callback):
    """Evaluates other data in the middle of a fit."""

    def __init__(self, callbacks=()):
        super().__init__()
        self.callbacks = list(callbacks)

    def on_epoch_end(self, epoch, logs=None):
        callbacks = self.callbacks[epoch : epoch + 1]
        self.loss = self.model.evaluate(
            X + 100, Y, batch_size=8, verbose=0, callbacks=callbacks
        )


@pytest.mark.slow
def test_evaluating_other_data_within_a_fit_is_no_validation(tmp_path):
    rows = {}
    for name in ("alone", "both"):
        model, _ = small_model(strategy_over(1))
        watch = dw.Watch(
            tmp_path / f"{name}.zarr", signals=[dw.inputs()], phases=["train", "test"]
        )
        options = {"validation_data": (X[:24], Y[:24]), "validation_batch_size": 8, "epochs": 2}
        if name == "alone":
            fit(model, X, Y, watch, **options)
        else:
            with pytest.warns(UnwatchedWarning, match="is called within this fit") as warned:
                fit(model, X, Y, Evaluates(), watch, **options)
            assert len(warned) == 1
        rows[name] = dw.open_run(tmp_path / f"{name}.zarr", phase="test")
    assert len(rows["both"]) == 6
    assert rows["both"].to_xarray().equals(rows["alone"].to_xarray())


@pytest.mark.slow
def test_evaluating_other_data_is_recorded_by_a_watch_of_its_own(tmp_path):
    model, _ = small_model(strategy_over(1))
    own = [
        dw.Watch(tmp_path / f"own-{i}.zarr", phases=["test"], signals=[dw.inputs()])
        for i in (0, 1)
    ]
    watch = dw.Watch(tmp_path / "run.zarr", signals=[dw.inputs()], phases=["train", "test"])
    fit(model, X, Y, Evaluates(own), watch, epochs=2, validation_data=(X, Y))
    for each in own:
        run = dw.open_run(each.config.store)
        assert len(run) == 8
        assert (run["input"].merged("mean") > 50).all()
    validated = dw.open_run(tmp_path / "run.zarr", phase="test")
    assert (validated["input"].merged("mean") < 50).all()
    assert model.test_function is None


@pytest.mark.slow
def test_a_finish_that_raises_leaves_no_taps(tmp_path, monkeypatch):
    def full(self):
        raise OSError("planted")

    monkeypatch.setattr(Session, "finish", full)
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr", phases=["train_on_batch"])
    with pytest.raises(OSError, match="planted"), watch.attached(model):
        model.train_on_batch(X, Y)
    assert model.train_function is None


def second_optimizer(strategy):
    """A step whose optimizer makes its variables in the trace, and whose loss is unheard."""

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = keras.layers.Dense(4, name="head")
            self.head.build((None, 12))

        def call(self, x):
            return self.head(x)

        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self(data[0])))
            variables = self.trainable_variables
            self.second.apply(tape.gradient(loss, variables), variables)
            return {"loss": loss}

    with strategy.scope():
        model = Own()
        model.built = True
        model.compile("adam")
        model.second = keras.optimizers.Adam()
    return model


@pytest.mark.slow
def test_a_refusal_is_the_same_on_one_device_and_on_two(tmp_path):
    said = set()
    for replicas in (1, 2):
        model = second_optimizer(strategy_over(replicas))
        model.name = "model"
        with pytest.raises(NothingToWatchError, match="does not call compute_loss") as error:
            fit(model, X, Y, dw.Watch(tmp_path / "run.zarr", signals=[dw.loss()]))
        said.add(str(error.value))
        fit(model, X, Y)
        assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert len(said) == 1


@pytest.mark.fast_cases("add_call")
@pytest.mark.parametrize("broken", ["order_of", "add_call", "note_gradients"])
def test_an_error_while_a_step_is_captured(tmp_path, monkeypatch, broken):
    """It comes inside of Keras's own step, whose error it must not be."""
    original, calls = getattr(StepCapture, broken), []

    def fails_later(self, *args):
        calls.append(args)
        if len(calls) > 20:
            raise ZeroDivisionError("planted")
        return original(self, *args)

    monkeypatch.setattr(StepCapture, broken, fails_later)
    models = []
    for watches in [], [dw.Watch(tmp_path / "run.zarr")]:
        model, _ = small_model(strategy_over(1))
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
        if watches:
            with pytest.warns(WatcherDisabledWarning, match="ZeroDivisionError: planted"):
                fit(model, X, Y, *watches, batch=2)
        else:
            fit(model, X, Y, batch=2)
        models.append(model)
    assert same_weights(*models)
    run = dw.open_run(tmp_path / "run.zarr")
    assert run.ended == "ZeroDivisionError: planted"
    assert 0 < len(run) < 32
