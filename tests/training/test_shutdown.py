"""However a process ends, what it recorded is in the store."""

import os
import signal
import subprocess
import sys

import pytest

import distwatch as dw

TRAIN = """
import atexit, os, signal, sys, time
import numpy as np
import keras
import distwatch as dw

{before}
rng = np.random.default_rng(0)
x, y = rng.normal(size=(64, 4)).astype("float32"), rng.integers(0, 2, 64)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="guess")])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

class Then(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 5:
            {then}

model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[dw.Watch({path!r}), Then()])
"""


def run(path, then, before=""):
    """The exit code of a training that does something after its sixth batch."""
    program = TRAIN.format(path=str(path), before=before, then=then)
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=quiet,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.usefixtures("interruptible")
@pytest.mark.fast_cases("SIGTERM")
@pytest.mark.parametrize(
    ("then", "code", "steps"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)", -signal.SIGTERM, 6),
        ("sys.exit(3)", 3, 6),
        ("raise ZeroDivisionError", 1, 6),
        ("os.kill(os.getpid(), signal.SIGINT)", 1, 6),
    ],
    ids=["SIGTERM", "exit", "exception", "SIGINT"],
)
def test_rows_are_brought_home(tmp_path, then, code, steps):
    path = tmp_path / "run.zarr"
    got, err = run(path, then)
    # Python itself dies of an interrupt that nobody catches, by its signal.
    assert got in (code, -signal.SIGINT) if "SIGINT" in then else got == code, err
    assert len(dw.open_run(path)) == steps
    assert dw.open_run(path).ended == "closed"


@pytest.mark.slow
def test_a_handler_that_is_there_already_is_left_alone(tmp_path):
    path = tmp_path / "run.zarr"
    before = "signal.signal(signal.SIGTERM, lambda *_: print('mine', file=sys.stderr))"
    code, err = run(path, "os.kill(os.getpid(), signal.SIGTERM)", before)
    assert (code, err.strip().splitlines()[-1]) == (0, "mine")
    assert len(dw.open_run(path)) == 16


@pytest.mark.slow
def test_a_forked_child_leaves_the_run_alone(tmp_path):
    path = tmp_path / "run.zarr"
    # TensorFlow itself does not survive the end of a child.
    fork = (
        "child = os.fork() or (atexit._run_exitfuncs(), os._exit(0));"
        "assert os.waitpid(child, 0)[1] == 0"
    )
    code, err = run(path, fork)
    assert code == 0, err
    assert len(dw.open_run(path)) == 16
