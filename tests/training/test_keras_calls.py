"""A Watch hears its fit begin and end, whatever else wraps ``keras.Model.fit``."""

import functools
import subprocess
import sys

import keras
import pytest
from trainings import fit, same_weights, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import DistwatchWarning, UnsupportedTrainingError

X, Y = unlike_rows(64)


@pytest.fixture
def autolog():
    """Starts and stops logging as other tools do, by wrapping ``keras.Model.fit``."""
    before, calls = keras.Model.fit, []

    class Autolog:
        called = calls

        def start(self, *, politely):
            self.original = original = keras.Model.fit

            def logged(self, *args, **kwargs):
                calls.append(self.name)
                return original(self, *args, **kwargs)

            keras.Model.fit = functools.wraps(original)(logged) if politely else logged

        def stop(self):
            keras.Model.fit = self.original

    yield Autolog()
    keras.Model.fit = before


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise ZeroDivisionError


def assert_both_are_called(tmp_path, autolog, calls=1):
    """A fit that raises leaves no taps, also while its traceback is held, and its rows."""
    model, _ = small_model(strategy_over(1))
    before = len(autolog.called)
    watch = {"store": tmp_path / "run.zarr", "overwrite": True}
    with pytest.raises(ZeroDivisionError) as held:
        model.fit(X, Y, batch_size=16, verbose=0, callbacks=[dw.Watch(**watch), Stop()])
    assert held.tb is not None
    assert model.train_function is None
    assert len(dw.open_run(tmp_path / "run.zarr")) == 1
    assert len(autolog.called) - before == calls


@pytest.mark.fast_cases("False")
@pytest.mark.parametrize("politely", [True, False])
def test_another_tool_wraps_fit_before_the_watch_is_made(tmp_path, autolog, politely):
    autolog.start(politely=politely)
    assert_both_are_called(tmp_path, autolog)
    autolog.stop()
    assert_both_are_called(tmp_path, autolog, calls=0)


@pytest.mark.slow
def test_another_tool_wraps_fit_after_the_watch_is_made(tmp_path, autolog):
    watch = dw.Watch(tmp_path / "run.zarr")
    autolog.start(politely=False)
    model, _ = small_model(strategy_over(1))
    fit(model, X, Y, watch)
    assert (len(dw.open_run(tmp_path / "run.zarr")), len(autolog.called)) == (4, 1)
    # What was there before it began may be put back after the Watch is gone.
    autolog.stop()
    del watch
    unwatched, _ = small_model(strategy_over(1))
    fit(unwatched, X, Y)
    assert same_weights(model, unwatched)
    assert_both_are_called(tmp_path, autolog, calls=0)


def test_what_keras_cannot_do_is_refused_behind_another_tool(tmp_path, autolog):
    model, _ = small_model(strategy_over(2))
    autolog.start(politely=False)
    with pytest.raises(UnsupportedTrainingError):
        fit(model, X[:31], Y[:31], dw.Watch(tmp_path / "run.zarr"), batch=31)


def keras_own(method):
    """What Keras defines, which nobody has wrapped."""
    owners = [owner for owner in keras.Model.__mro__[1:] if method in vars(owner)]
    return vars(owners[0])[method]


def test_a_call_that_comes_by_no_wrapper_is_watched(tmp_path):
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr", signals=[dw.loss()], log_to_keras=["loss:mean"])
    logged = {}
    noting = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: logged.update(logs))
    with pytest.warns(DistwatchWarning, match=r"fit did not come by keras\.Model\.fit"):
        keras_own("fit")(model, X, Y, batch_size=16, verbose=0, callbacks=[noting, watch])
    assert len(dw.open_run(tmp_path / "run.zarr")) == 4
    assert "loss/mean" in logged

    watch = dw.Watch(tmp_path / "test.zarr", phases=["test"])
    with pytest.warns(DistwatchWarning, match=r"did not come by keras\.Model\.evaluate"):
        keras_own("evaluate")(model, X, Y, batch_size=16, verbose=0, callbacks=[watch])
    assert len(dw.open_run(tmp_path / "test.zarr")) == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:this fit did not come by:distwatch.errors.DistwatchWarning")
def test_a_call_that_comes_by_no_wrapper_and_raises_leaves_no_taps(tmp_path):
    model, _ = small_model(strategy_over(1))
    with pytest.raises(ZeroDivisionError):
        keras_own("fit")(
            model, X, Y, verbose=0, callbacks=[dw.Watch(tmp_path / "run.zarr"), Stop()]
        )
    assert model.train_function is None
    assert dw.open_run(tmp_path / "run.zarr").ended == "closed"
    assert len(dw.open_run(tmp_path / "run.zarr")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "order", ["distwatch, keras", "keras, distwatch", "distwatch, tensorflow, keras"]
)
def test_the_order_of_imports_does_not_matter(tmp_path, order):
    code = f"""
import {order}
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt
x = keras.ops.ones((8, 2))
try:
    model.fit(x, x[:, :1], verbose=0, callbacks=[distwatch.Watch("run.zarr"), Stop()])
except KeyboardInterrupt as held:
    print(model.train_function, len(distwatch.open_run("run.zarr")))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["None", "1"]
