"""Law 6: what cannot be watched rightly is refused, with the reason and the remedy."""

import dataclasses
import os
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import zarr
from trainings import fit, same_weights, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import (
    BackendError,
    ConfigError,
    FormatVersionError,
    NotARunError,
    NothingToWatchError,
    NotWritableError,
    RunExistsError,
    UnknownSignalError,
    UnwatchableError,
    UnwatchedWarning,
    WatchInUseError,
)
from distwatch.training.strategies import facts_of

X, Y = unlike_rows(32)


def model_and_fit(watch):
    model, _ = small_model(strategy_over(1))
    before = model.get_weights()
    try:
        fit(model, X, Y, watch)
    finally:
        unchanged = zip(before, model.get_weights(), strict=True)
        model.was_not_trained = all(np.array_equal(a, b) for a, b in unchanged)
    return model


def test_a_path_that_holds_a_run_already(tmp_path):
    path = tmp_path / "run.zarr"
    model_and_fit(dw.Watch(path))
    with pytest.raises(RunExistsError, match=r"holds a run already.*overwrite=True"):
        model_and_fit(dw.Watch(path))
    assert len(dw.open_run(path)) == 2
    model_and_fit(dw.Watch(path, overwrite=True, signals="dense_1"))
    assert dw.open_run(path).signals == ["activation/dense_1"]
    assert [child.name for child in tmp_path.iterdir()] == ["run.zarr"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_run_is_never_deleted(tmp_path, overwrite):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunExistsError, match=r"no distwatch run, so it is left alone"):
        model_and_fit(dw.Watch(tmp_path, overwrite=overwrite))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(NotARunError, match=r"there is no such folder"):
        dw.open_run(tmp_path / "nowhere.zarr")
    with pytest.raises(NotARunError, match=r"is no distwatch run"):
        dw.open_run(tmp_path)
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(NotARunError, match=r"no 'distwatch' attribute"):
        dw.open_run(tmp_path / "other.zarr")


def test_a_store_of_a_newer_format(tmp_path):
    path = tmp_path / "run.zarr"
    zarr.create_group(path, attributes={"distwatch": {"format": 9}})
    with pytest.raises(FormatVersionError, match=r"format 9, this distwatch reads format 1"):
        dw.open_run(path)
    with pytest.raises(RunExistsError, match=r"holds a run already"):
        model_and_fit(dw.Watch(path))


def test_an_unknown_signal_pattern_names_the_nearest(tmp_path):
    with pytest.raises(UnknownSignalError, match=r"'dnse_1' matches no layer.*'dense_1'"):
        model_and_fit(dw.Watch(tmp_path / "run.zarr", signals=["dense_0", "dnse_1"]))
    with pytest.raises(UnknownSignalError, match=r"'loss' matches no .*distwatch\.loss\)"):
        model_and_fit(dw.Watch(tmp_path / "run.zarr", signals=["loss"]))
    assert not (tmp_path / "run.zarr").exists()
    model_and_fit(dw.Watch(tmp_path / "run.zarr"))
    nearest = r"no signal 'dense_8'.*'activation/dense_1'"
    with pytest.raises(UnknownSignalError, match=nearest):
        dw.open_run(tmp_path / "run.zarr")["dense_8"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference": "last"}, "unknown reference 'last'.*'previous', .*'none'"),
        ({"window": 0}, "window=0: expected a whole number from 1"),
        ({"window": 2.5}, "window=2.5"),
        ({"signals": []}, "give None for the usual layers"),
        ({"signals": [7]}, "give None for the usual layers"),
        ({"schedule": "10"}, r"schedule '10': write one of \{every: 10\}"),
        ({"schedule": 0}, r"every\(k\): 0 is not a whole number from 1"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        dw.Watch(tmp_path / "run.zarr", **arguments)


def test_a_model_without_layers_to_watch(tmp_path):
    class Hidden(keras.Model):
        """Trains a bare variable, in a step that calls no layer and not itself."""

        def __init__(self):
            super().__init__()
            self.scale = self.add_weight(shape=())

        def train_step(self, data):
            self.scale.assign_add(1.0)
            return {"scale": self.scale}

    model = Hidden()
    model.compile("sgd", "mse")
    with pytest.raises(NothingToWatchError, match=r"nothing to watch.*Give it a layer"):
        fit(model, X, Y, dw.Watch(tmp_path / "run.zarr"))
    # A fit that ended before its first row leaves the path free for the next.
    assert not (tmp_path / "run.zarr").exists()


def test_an_output_that_cannot_be_compared(tmp_path):
    inputs = keras.Input((12,))
    positive = keras.layers.Lambda(lambda x: x > 0, name="positive")(inputs)
    hidden = keras.ops.cast(positive, "float32")
    model = keras.Model(inputs, keras.layers.Dense(4, name="head")(hidden))
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(UnwatchableError, match=r"/positive' was asked for.*dtype bool"):
        fit(model, X, Y, dw.Watch(tmp_path / "run.zarr", signals=["head", "positive"]))
    fit(model, X, Y, dw.Watch(tmp_path / "two.zarr", signals="*"))
    unwatched = dw.open_run(tmp_path / "two.zarr").unwatched
    assert unwatched == {"positive": "it is of dtype bool, not of real numbers"}
    assert dw.open_run(tmp_path / "two.zarr").signals == [
        "activation/head",
        "activation/output",
    ]


def test_tensors_are_not_reduced_over_one_worker_only(tmp_path, monkeypatch):
    two = dataclasses.replace(facts_of(strategy_over(1)), workers=2)
    monkeypatch.setattr("distwatch.training.taps.kinds.facts_of", lambda strategy: two)
    reduced = dw.tensors("dense_1", every=2, reduce="mean")
    with pytest.raises(UnwatchableError, match="over its own replicas only; leave reduce out"):
        model_and_fit(dw.Watch(tmp_path / "run.zarr", signals=[reduced]))


def test_a_model_that_was_not_built_can_be_fitted_after_a_refusal(tmp_path):
    """Its variables are made in the trace that is refused."""

    def unbuilt():
        keras.utils.clear_session()
        keras.utils.set_random_seed(5)
        positive = keras.layers.Lambda(lambda x: x > 0, name="positive")
        number = keras.layers.Lambda(lambda x: keras.ops.cast(x, "float32"))
        stack = [positive, number, keras.layers.Dense(4)]
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model = keras.Sequential(stack)
        model.compile("adam", loss, metrics=["accuracy"])
        return model

    model = unbuilt()
    with pytest.raises(UnwatchableError, match="/positive' was asked for"):
        fit(model, X, Y, dw.Watch(tmp_path / "run.zarr", signals="positive"))
    history = fit(model, X, Y, epochs=2).history
    never_refused = unbuilt()
    assert fit(never_refused, X, Y, epochs=2).history == history
    assert same_weights(model, never_refused)


def test_what_is_passed_over_is_said(tmp_path):
    class Lazy(keras.Model):
        def __init__(self):
            super().__init__()
            self.used = keras.layers.Dense(4, name="used")
            self.unused = keras.layers.Dense(4, name="unused")
            self.unused.build((None, 12))
            self.unused.trainable = False

        def call(self, x):
            return self.used(x)

    model = Lazy()
    model.compile("sgd", "sparse_categorical_crossentropy")
    fit(model, X, Y, dw.Watch(tmp_path / "run.zarr"))
    info = dw.open_run(tmp_path / "run.zarr").info
    assert info.unwatched == {"unused": "frozen: name it to watch"}


@pytest.mark.slow
def test_one_watch_in_two_fits_at_once(tmp_path):
    watch = dw.Watch(tmp_path / "run.zarr")
    inner_error = []

    class FitAgain(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            model, _ = small_model(strategy_over(1))
            with pytest.raises(WatchInUseError, match=r"give every fit a Watch of its own"):
                fit(model, X, Y, watch)
            inner_error.append(True)

    model, _ = small_model(strategy_over(1))
    fit(model, X, Y, watch, FitAgain())
    assert inner_error == [True]
    assert len(dw.open_run(tmp_path / "run.zarr")) == 2
    assert not [t for t in threading.enumerate() if t.name == "distwatch-writer"]


def test_a_watch_given_to_evaluate_watches_nothing(tmp_path):
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr")
    with pytest.warns(UnwatchedWarning, match=r"nothing of evaluate .*phases=\['test'\]"):
        model.evaluate(X, Y, verbose=0, callbacks=[watch])
    with pytest.warns(UnwatchedWarning, match=r"nothing of predict .*phases=\['predict'\]"):
        model.predict(X, verbose=0, callbacks=[watch])
    assert not (tmp_path / "run.zarr").exists()
    fit(model, X, Y, watch)
    assert len(dw.open_run(tmp_path / "run.zarr")) == 2


def test_a_path_that_cannot_be_written_is_found_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritableError, match=r"cannot be written"):
        model_and_fit(dw.Watch(tmp_path / "file" / "run.zarr"))
    if os.geteuid() == 0:
        # The superuser may write anywhere, so a folder's bits refuse nothing.
        def refuse(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(NotWritableError, match=r"Permission denied.*where you may write"):
        model_and_fit(dw.Watch(tmp_path / "run.zarr"))


def test_another_backend_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(BackendError, match=r"runs on the 'jax' backend.*KERAS_BACKEND=tensor"):
        dw.Watch(tmp_path / "run.zarr")


def test_without_tensorflow_the_remedy_is_named():
    code = (
        "import sys; sys.modules['tensorflow'] = None; sys.modules['keras'] = None\n"
        "import distwatch as dw\nfrom distwatch.errors import BackendError\n"
        "print(dw.open_run.__name__)\n"
        "try:\n    dw.Watch\nexcept BackendError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("open_run\n")
    assert 'which is not installed: pip install "distwatch[tensorflow]"' in done.stdout
