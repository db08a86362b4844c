"""A training's run keeps within its bytes: thinned out with a warning, or stopped with one."""

import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, same_weights, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.config import watch_config
from distwatch.errors import ConfigError, RowsThinnedWarning, WatcherDisabledWarning
from distwatch.training import strategies
from distwatch.training.session import Session

#: Ten batches an epoch, the last one short.
ROWS, EPOCHS = 158, 40
X, Y = unlike_rows(ROWS)


def train(path, replicas=2, epochs=EPOCHS, **how):
    tf.keras.utils.set_random_seed(1)
    model, _ = small_model(strategy_over(replicas))
    watch = dw.Watch(path, window=8, **{"signals": dw.activations()} | how)
    fit(model, X, Y, watch, epochs=epochs)
    return model, watch


@pytest.mark.slow
def test_what_is_kept_is_what_would_have_been_there(tmp_path):
    whole, _ = train(tmp_path / "whole.zarr")
    with pytest.warns(RowsThinnedWarning, match="second, fourth") as caught:
        thinned, watch = train(tmp_path / "run.zarr", max_bytes="130kB")
    assert len(caught) == 1
    assert same_weights(whole, thinned)
    run = dw.open_run(tmp_path / "run.zarr")
    kept, full = run.to_xarray(), dw.open_run(tmp_path / "whole.zarr").to_xarray()
    assert 30 < len(run) < 350
    assert watch.status.thinned == run.thinned == len(full.step) - len(run)
    assert watch.status.lost == run.lost == 0
    assert kept.step.values[-1] == full.step.values[-1] == 10 * EPOCHS - 1
    for name in ("mean", "l2", "max", "count"):
        np.testing.assert_array_equal(kept[name], full.sel(step=kept.step)[name])
    size = sum(file.stat().st_size for file in (tmp_path / "run.zarr").rglob("*"))
    assert size <= 130_000 + 4096 * 10  # Folders have sizes of their own.
    assert f"{run.thinned} steps of the old part were removed" in run.summary()


@pytest.mark.slow
def test_it_stops_where_that_was_asked_for(tmp_path):
    with pytest.warns(WatcherDisabledWarning, match="max_bytes") as caught:
        train(tmp_path / "run.zarr", 1, max_bytes="70kB", at_max_bytes="stop")
    assert len(caught) == 1
    run = dw.open_run(tmp_path / "run.zarr")
    steps = run.to_xarray().step.values
    np.testing.assert_array_equal(steps, np.arange(len(steps)))
    assert 50 < len(steps) < 10 * EPOCHS
    assert run.thinned == 0
    assert re.search("BudgetReachedError.*max_bytes", run.ended)


def test_what_would_be_full_at_once_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="4 windows of what is watched"):
        train(tmp_path / "run.zarr", 1, max_bytes="20kB")
    assert not (tmp_path / "run.zarr").exists()


@pytest.mark.slow
def test_a_resumed_run_counts_what_is_there(tmp_path):
    # Enough for a run that begins; of one that goes on, thinning can only make some room.
    train(tmp_path / "new.zarr", 1, epochs=1, max_bytes="40kB")
    train(tmp_path / "run.zarr", 1, epochs=4)
    with pytest.raises(ConfigError, match=r"max_bytes leaves [\d.]+ kB, and 4 windows"):
        train(tmp_path / "run.zarr", 1, resume=True, max_bytes="40kB")


def test_several_workers_cannot_thin_out(tmp_path, monkeypatch):
    several = dataclasses.replace(strategies.facts_of(strategy_over(1)), workers=2)
    monkeypatch.setattr(strategies, "facts_of", lambda strategy: several)
    config = watch_config(store=tmp_path / "run.zarr", max_bytes="1GB")
    with pytest.raises(ConfigError, match='at_max_bytes="stop"'):
        Session(config, strategy_over(1), steps_per_execution=1, iterations=lambda: 0).begin()


@pytest.mark.parametrize(
    ("given", "bytes_"), [("2GB", 2_000_000_000), ("1.5MiB", 1_572_864), (4096, 4096)]
)
def test_sizes_are_read(given, bytes_):
    assert watch_config(store="run.zarr", max_bytes=given).max_bytes == bytes_


@pytest.mark.parametrize("given", ["2 parsecs", "many", 0, -5])
def test_what_is_no_size_is_refused(given):
    with pytest.raises(ConfigError, match="max_bytes"):
        watch_config(store="run.zarr", max_bytes=given)
