"""What a run will take is told beforehand, within a fifth, and without a step being done."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import (
    everything_about,
    fit,
    same_weights,
    small_model,
    strategy_over,
    unlike_rows,
)
from typer.testing import CliRunner

import distwatch as dw
from distwatch.cli.conventions import app
from distwatch.errors import ConfigError, UnknownSignalError
from distwatch.testing.fake import fake_run

ROWS, BATCH = 160, 16
X, Y = unlike_rows(ROWS)


def size_of(path):
    """Without what the root and the segment say, which is no row."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


CASES = {
    "usual": {},
    # Not of the data, whose rows come again in each epoch, and take less than new ones.
    "every second": {"schedule": dw.every(2), "signals": dw.activations()},
    "gradients, weights and updates": {
        "signals": [dw.gradients(), dw.weights(reference="first"), dw.updates()]
    },
    "histograms": {"signals": [dw.activations(statistics=[dw.histogram()])]},
    "raw tensors": {"signals": [dw.tensors("dense_1", every=1)]},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "replicas"),
    [
        ("usual", 2),
        ("every second", 1),
        ("gradients, weights and updates", 1),
        ("gradients, weights and updates", 2),
        ("histograms", 1),
        ("raw tensors", 2),
    ],
)
def test_it_comes_within_a_fifth(tmp_path, case, replicas):
    model, _ = small_model(strategy_over(replicas))
    watch = dw.Watch(tmp_path / "run.zarr", window=64, **CASES[case])
    batch = (X[: BATCH // replicas], Y[: BATCH // replicas])
    epochs = 26
    steps = epochs * ROWS // BATCH
    told = watch.estimate(model, batch, steps=steps)
    fit(model, X, Y, watch, batch=BATCH, epochs=epochs)
    assert len(dw.open_run(tmp_path / "run.zarr")) == watch.schedule.looks(steps)
    assert told == pytest.approx(size_of(tmp_path / "run.zarr"), rel=0.2)


@pytest.mark.slow
def test_nothing_is_trained_by_it(tmp_path):
    plain, _ = small_model(strategy_over(2))
    model, _ = small_model(strategy_over(2))
    watch = dw.Watch(tmp_path / "run.zarr")
    before = [weight.copy() for weight in model.get_weights()]
    watch.estimate(model, (X[:8], Y[:8]), steps=1000)
    assert all(map(np.array_equal, before, model.get_weights()))
    assert not (tmp_path / "run.zarr").exists()
    fit(plain, X, Y)
    fit(model, X, Y, watch)
    assert same_weights(plain, model)
    assert everything_about(plain)["attributes"] == everything_about(model)["attributes"]


@pytest.mark.slow
def test_more_steps_take_more(tmp_path):
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr")
    short, long = (watch.estimate(model, (X, Y), steps=n) for n in (10_000, 1_000_000))
    assert 50 < long / short < 101


def test_what_cannot_be_told_is_refused(tmp_path):
    watch = dw.Watch(tmp_path / "run.zarr", signals=["dense_7"])
    model, _ = small_model(strategy_over(1))
    with pytest.raises(UnknownSignalError, match="dense_7"):
        watch.estimate(model, (X, Y), steps=10)
    unbuilt = keras.Sequential([keras.layers.Dense(3)])
    with pytest.raises(ConfigError, match="not built"):
        watch.estimate(unbuilt, (X, Y), steps=10)
    unbuilt.build((None, 12))
    with pytest.raises(ConfigError, match="not compiled"):
        watch.estimate(unbuilt, (X, Y), steps=10)


class DecidesByItsLoss(keras.Model):
    """A step that runs eagerly, and asks a tensor in Python."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        if loss > 0.0:
            weights = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def test_a_step_that_runs_eagerly_can_be_told_of(tmp_path):
    inputs = keras.Input((12,))
    model = DecidesByItsLoss(inputs, keras.layers.Dense(4)(inputs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    signals = [dw.activations(), dw.gradients()]
    watch = dw.Watch(tmp_path / "run.zarr", signals=signals)
    assert watch.estimate(model, (X[:16], Y[:16]), steps=10) > 0


def told_by(*arguments):
    ended = CliRunner().invoke(app, ["estimate", *arguments, "--json"])
    assert ended.exit_code == 0, ended.output
    return json.loads(ended.output)["bytes"]


@pytest.mark.slow
def test_the_command_line_tells_it_without_a_model(tmp_path):
    model, _ = small_model(strategy_over(2))
    watch = dw.Watch(tmp_path / "run.zarr")
    of_model = watch.estimate(model, (X[:8], Y[:8]), steps=100_000)
    four = ("--signals", "4", "--replicas", "2")
    assert told_by("--steps", "100000", *four) == pytest.approx(of_model, rel=0.4)
    thinner = told_by("--steps", "100000", *four, "--every", "10")
    assert thinner == pytest.approx(of_model / 10, rel=0.4)
    assert told_by("--steps", "100000", *four, "--histogram") > 2 * of_model


def test_the_command_line_tells_it_of_a_run_there_is(tmp_path):
    fake_run(tmp_path / "run.zarr", steps=200)
    size = size_of(tmp_path / "run.zarr")
    assert told_by("--steps", "1000", "--like", str(tmp_path / "run.zarr")) == 5 * size
    ended = CliRunner().invoke(app, ["estimate", "--steps", "1000000", "--signals", "100"])
    assert re.fullmatch(r"1,000,000 steps take about [\d.,]+ GB\.\n", ended.output)


def test_the_command_line_refuses_a_run_without_steps(tmp_path):
    fake_run(tmp_path / "run.zarr", steps=0)
    arguments = ["estimate", "--steps", "10", "--like", str(tmp_path / "run.zarr")]
    assert isinstance(CliRunner().invoke(app, arguments).exception, ConfigError)
    assert CliRunner().invoke(app, ["estimate", "--steps", "0"]).exit_code == 2
