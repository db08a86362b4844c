"""Law 4: after the first step an error of the watcher ends the watching, not the training."""

import functools
import os
import time

import keras
import numpy as np
import pytest
from trainings import (
    broken_disk,
    fit,
    same_weights,
    small_model,
    strategy_over,
    unlike_rows,
)

import distwatch as dw
from distwatch.errors import RowsLostWarning, WatcherDisabledWarning, WriteFailedError
from distwatch.store import BackgroundWriter, StoreWriter, folders
from distwatch.training import sinks
from distwatch.training.device.ring import Recorder, TableRecorder
from distwatch.training.taps import Taps


def unwatched(epochs=3):
    x, y = unlike_rows(64)
    model, _ = small_model(strategy_over(1))
    fit(model, x, y, epochs=epochs)
    return model


def test_a_full_disk_ends_the_watching_only(tmp_path, monkeypatch):
    monkeypatch.setattr(StoreWriter, "append", broken_disk(StoreWriter, after=1))
    x, y = unlike_rows(64)
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr", window=2)
    with pytest.warns(WatcherDisabledWarning, match="No space left on device") as warned:
        fit(model, x, y, watch, epochs=3)
    assert len(warned) == 1

    assert same_weights(model, unwatched())
    assert isinstance(watch.status.error, WriteFailedError)
    assert watch.status.committed == 2
    assert watch.status.lost > 0
    run = dw.open_run(tmp_path / "run.zarr")
    assert len(run) == 2
    # The disk had room for these words.
    assert run.ended == "OSError: [Errno 28] No space left on device"
    assert run.lost == watch.status.lost


def test_strict_raises_instead(tmp_path, monkeypatch):
    monkeypatch.setattr(StoreWriter, "append", broken_disk(StoreWriter, after=1))
    x, y = unlike_rows(64)
    model, _ = small_model(strategy_over(1))
    with pytest.raises(WriteFailedError, match="No space left"):
        fit(model, x, y, dw.Watch(tmp_path / "run.zarr", window=2, strict=True), epochs=9)
    assert model.train_function is None


def test_an_error_in_a_drain(tmp_path, monkeypatch):
    drains = []
    original = TableRecorder.drain

    def drain(self, *args, **kwargs):
        drains.append(kwargs)
        if len(drains) == 3:
            raise ZeroDivisionError("planted")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(TableRecorder, "drain", drain)
    x, y = unlike_rows(64)
    model, _ = small_model(strategy_over(1))
    with pytest.warns(WatcherDisabledWarning, match="after 6 steps.*Error: planted"):
        fit(
            model,
            x,
            y,
            dw.Watch(tmp_path / "run.zarr", signals=dw.activations(), window=2),
            epochs=3,
        )
    assert same_weights(model, unwatched())
    run = dw.open_run(tmp_path / "run.zarr")
    # What could not be drained then can be drained at the end.
    assert (len(run), run.lost, run.ended) == (6, 0, "ZeroDivisionError: planted")


def test_an_error_in_a_later_step(tmp_path, monkeypatch):
    """In eager training every step is recorded in Python anew."""
    watch = dw.Watch(tmp_path / "run.zarr", window=1)
    original = Taps.choose

    def choose(self, capture):
        if watch.status.steps:
            raise ZeroDivisionError("planted")
        return original(self, capture)

    monkeypatch.setattr(Taps, "choose", choose)
    x, y = unlike_rows(64)
    model, _ = small_model(strategy_over(1))
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    with pytest.warns(WatcherDisabledWarning, match="after 1 steps.*Error: planted"):
        fit(model, x, y, watch)
    assert int(model.optimizer.iterations) == 4
    assert len(dw.open_run(tmp_path / "run.zarr")) == 1


@pytest.mark.slow
def test_a_train_function_that_someone_replaces(tmp_path):
    class Replace(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.make_train_function(force=True)

    x, y = unlike_rows(64)
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr")
    with pytest.warns(WatcherDisabledWarning, match="train function was replaced"):
        fit(model, x, y, watch, Replace(), epochs=3)
    assert same_weights(model, unwatched())
    assert len(dw.open_run(tmp_path / "run.zarr")) == 4


def test_before_the_first_step_it_raises(tmp_path, monkeypatch):
    def record(self, tensors, iteration, batch):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Recorder, "record", record)
    x, y = unlike_rows(64)
    model, _ = small_model(strategy_over(1))
    before = model.get_weights()
    with pytest.raises(ZeroDivisionError, match="planted"):
        fit(model, x, y, dw.Watch(tmp_path / "run.zarr"))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def slow_disk(monkeypatch):
    """A disk slower than training, behind a queue that holds one block."""
    original = StoreWriter.append

    def append(self, block):
        time.sleep(0.4)
        original(self, block)

    monkeypatch.setattr(StoreWriter, "append", append)
    monkeypatch.setattr(sinks, "MAX_WAIT", 0.01)
    small = functools.partial(BackgroundWriter, max_bytes=1)
    monkeypatch.setattr(sinks, "BackgroundWriter", small)


def test_a_slow_disk_drops_whole_blocks_and_says_so(tmp_path, monkeypatch):
    slow_disk(monkeypatch)
    x, y = unlike_rows(64)
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr", signals=dw.activations(), window=2)
    with pytest.warns(RowsLostWarning, match=r"steps are missing from .*run\.zarr"):
        fit(model, x, y, watch, epochs=4)
    run = dw.open_run(tmp_path / "run.zarr")
    assert run.lost == watch.status.lost > 0
    assert len(run) + run.lost == 16
    # The gaps are visible: steps are missing in pairs, none is doubled.
    steps = run.to_xarray().step.values
    assert (np.diff(steps) > 0).all()
    assert f"{run.lost} steps lost" in run.summary()


@pytest.mark.slow
def test_a_slow_disk_can_be_waited_for(tmp_path, monkeypatch):
    slow_disk(monkeypatch)
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr", window=2, on_full="wait")
    fit(model, *unlike_rows(64), watch, epochs=2)
    assert (len(dw.open_run(tmp_path / "run.zarr")), watch.status.lost) == (8, 0)


@pytest.mark.slow
def test_power_may_fail_after_each_commit(tmp_path, monkeypatch):
    """Every file is synced under another name first, and then the folder of its name."""
    events = []

    def noting(name, original):
        def call(*args):
            events.append((name, args))
            return original(*args)

        monkeypatch.setattr(folders.os, name, call)

    noting("fsync", os.fsync)
    model, _ = small_model(strategy_over(1))
    fit(model, *unlike_rows(64), dw.Watch(tmp_path / "plain.zarr", window=2))
    assert not events
    model, _ = small_model(strategy_over(1))
    fit(model, *unlike_rows(64), dw.Watch(tmp_path / "run.zarr", window=2, durability="power"))
    files = [file for file in (tmp_path / "run.zarr").rglob("*") if file.is_file()]
    assert len(events) >= 2 * len(files)
    assert not list((tmp_path / "run.zarr").rglob("*.partial"))
    rows = [dw.open_run(tmp_path / name).to_xarray() for name in ("plain.zarr", "run.zarr")]
    assert rows[0].equals(rows[1])
