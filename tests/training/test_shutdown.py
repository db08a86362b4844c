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


SLOW_CLOSE = """
from distwatch.store import StoreWriter
original = StoreWriter.close

def close(self, *ended):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)
    original(self, *ended)

StoreWriter.close = close
"""


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_a_signal_while_the_last_rows_are_written(tmp_path):
    path = tmp_path / "run.zarr"
    code, err = run(path, "pass", SLOW_CLOSE)
    assert code == -signal.SIGTERM, err
    assert (len(dw.open_run(path)), dw.open_run(path).ended) == (16, "closed")


UNCLOSED = """
import sys
import keras, tensorflow as tf
import distwatch as dw

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
optimizer = keras.optimizers.SGD()
watch = dw.watching(model, optimizer, sys.argv[1]).__enter__()

@watch.wrap
def step(x):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(x) ** 2)
    weights = model.trainable_variables
    optimizer.apply(tape.gradient(loss, weights), weights)

step = tf.function(step)
for _ in range(20):
    step(tf.ones((3, 4)))
    watch.after_step()
"""

POOL = """
from concurrent.futures import ThreadPoolExecutor
from distwatch.training import shutdown

def close():
    print(ThreadPoolExecutor().submit(lambda: "written").result())

shutdown.register(close)
"""


def output_of(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 3),
    reason="Python 3.12.0 to 3.12.2 start no thread any more when a process exits",
)
def test_at_exit_runs_are_closed_while_threads_still_take_work():
    """Zarr reads on a pool of threads, which is shut down before atexit's functions."""
    assert output_of(POOL) == "written\n"


@pytest.mark.slow
def test_a_loop_that_is_never_closed(tmp_path):
    path = tmp_path / "run.zarr"
    output_of(UNCLOSED, path)
    assert (len(dw.open_run(path)), dw.open_run(path).ended) == (20, "closed")
