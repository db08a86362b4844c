"""Errors that cannot be refused beforehand say what they mean, and what to do."""

import subprocess
import sys

import keras
import pytest
import tensorflow as tf
from trainings import strategy_over

from distwatch.training.traps import explain

MISMATCH = "Shape mismatch in the collective instance 100. Op at device ... expected shape [32]"


def notes(replicas, error, **how):
    with strategy_over(replicas).scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    explain(model, error, **how)
    return getattr(error, "__notes__", [])


def test_reductions_of_two_strategies_are_told_apart():
    (note,) = notes(2, tf.errors.InvalidArgumentError(None, None, MISMATCH))
    assert "another MirroredStrategy over the same devices" in note
    assert not notes(1, tf.errors.InvalidArgumentError(None, None, MISMATCH))
    assert not notes(2, tf.errors.InvalidArgumentError(None, None, "something else"))
    assert not notes(2, ValueError(MISMATCH))


def test_a_first_batch_that_cannot_be_spread():
    error = tf.errors.InvalidArgumentError(None, None, "all must have the same size and shape")
    assert not notes(2, error)
    (note,) = notes(2, error, begun=False)
    assert "over 2 replicas that 2 does not divide; use another batch size" in note


PROGRAM = """
import sys
from distwatch.testing import virtual_devices
devices = virtual_devices(2)
import keras, numpy as np, tensorflow as tf
import distwatch as dw

operations = tf.distribute.ReductionToOneDevice if sys.argv[1] == "one" else lambda: None
for number, units in enumerate([4, 5]):
    strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops=operations())
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])
        model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(number + 1, 1, (64, 3))
    watch = [dw.Watch(f"{sys.argv[2]}/{number}.zarr")] if number or sys.argv[1] == "one" else []
    model.fit(x, x[:, :1] * np.ones((1, units)), batch_size=16, verbose=0, callbacks=watch)
print("both are trained")
"""


@pytest.mark.slow
@pytest.mark.parametrize("operations", ["usual", "one"])
def test_a_second_strategy_in_one_process(tmp_path, operations):
    """It fails without distwatch's doing, also after a first training that was not watched."""
    asked = [sys.executable, "-c", PROGRAM, operations, str(tmp_path)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=300, check=False)
    if operations == "one":
        assert "both are trained" in done.stdout, done.stderr
    else:
        assert done.returncode == 1
        assert "distwatch: this is so where another MirroredStrategy" in done.stderr
