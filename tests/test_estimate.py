"""What a run will take is told beforehand, within a fifth, and without a step being done."""

import keras
import numpy as np
import pytest
from training import (
    everything_about,
    fit,
    same_weights,
    small_model,
    strategy_over,
    unlike_rows,
)

import distwatch as dw
from distwatch.errors import ConfigError, UnknownSignalError

ROWS, BATCH = 160, 16
X, Y = unlike_rows(ROWS)


def size_of(path):
    """Without what the root and the segment say, which is no row."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


CASES = {
    "usual": {},
    "every second": {"schedule": dw.every(2)},
    "gradients, weights and updates": {
        "signals": [dw.gradients(), dw.weights(reference="first"), dw.updates()]
    },
    "histograms": {"signals": [dw.activations(statistics=[dw.histogram()])]},
    "raw tensors": {"signals": [dw.tensors("dense_1", every=1)]},
}


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("case", CASES)
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
