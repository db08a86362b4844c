"""When an error or an interrupt ends the watching, rows are kept or counted, never gone."""

import functools
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import RowsLostWarning, WatcherDisabledWarning, WatcherError
from distwatch.store import BackgroundWriter, StoreWriter, background
from distwatch.training import sinks
from distwatch.training.device.ring import TableRecorder


def loop(strategy):
    """A model, and a step that calls it once or twice."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a")])
        optimizer = keras.optimizers.SGD(0.01)
        optimizer.build(model.trainable_variables)

    def step(x, calls):
        with tf.GradientTape() as tape:
            errors = sum(tf.reduce_mean((model(x) - 3.0) ** 2, -1) for _ in range(calls))
            loss = tf.nn.compute_average_loss(errors)
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    return model, optimizer, step


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_later_trace_that_cannot_be_watched(tmp_path, replicas):
    """The error comes inside a trace, where nothing can be read from a device."""
    strategy = strategy_over(replicas)
    model, optimizer, step = loop(strategy)
    x = np.random.default_rng(0).normal(2.0, size=(8, 4)).astype("float32")
    path, how = tmp_path / "run.zarr", {"strategy": strategy, "signals": dw.activations()}
    with dw.watching(model, optimizer, path, **how) as watch:
        watched = watch.wrap(step)

        @tf.function
        def train(x, calls):
            strategy.run(watched, args=(x, calls))

        for _ in range(20):
            train(x, 1)
            watch.after_step()
        with pytest.warns(WatcherDisabledWarning, match="called other layers"):
            train(x, 2)
        watch.after_step()
    run = dw.open_run(tmp_path / "run.zarr")
    assert (len(run), run.lost) == (20, 0)
    assert run.ended.startswith("WatcherError: the model called other layers")
    assert (watch.status.committed, watch.status.lost) == (20, 0)
    assert isinstance(watch.status.error, WatcherError)


def test_what_cannot_be_drained_any_more_is_counted(tmp_path, monkeypatch):
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr", signals=dw.activations(), window=2)
    original = TableRecorder.drain

    def drain(self, *args, **kwargs):
        if watch.status.steps == 4:
            raise ZeroDivisionError("planted")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(TableRecorder, "drain", drain)
    with pytest.warns(WatcherDisabledWarning, match="planted"):
        fit(model, *unlike_rows(8 * 16), watch)
    run = dw.open_run(tmp_path / "run.zarr")
    assert (len(run), run.lost, run.ended) == (4, 2, "ZeroDivisionError: planted")
    assert watch.status.lost == 2


@pytest.mark.fast_cases("taking")
@pytest.mark.parametrize("place", ["reading", "taking"])
def test_an_interrupt_in_a_drain(tmp_path, monkeypatch, place):
    """While rows are read from the devices, or while a full queue is waited for."""
    path, interrupts = tmp_path / "run.zarr", [KeyboardInterrupt()]
    owner, name = (
        (TableRecorder, "_drain_tensors") if place == "reading" else (sinks.StoreSink, "write")
    )
    original = getattr(owner, name)

    def interrupted(self, *args):
        if interrupts and watch.status.steps >= 2:
            raise interrupts.pop()
        return original(self, *args)

    watch = dw.Watch(path, window=2)
    monkeypatch.setattr(owner, name, interrupted)
    model, _ = small_model(strategy_over(1))
    with pytest.raises(KeyboardInterrupt):
        fit(model, *unlike_rows(8 * 16), watch)
    run = dw.open_run(path)
    steps = int(model.optimizer.iterations)
    assert (len(run), run.lost, run.ended) == (steps, 0, "closed")
    np.testing.assert_array_equal(run.to_xarray().step, np.arange(steps))


def test_after_a_failed_writer_the_store_knows_all_that_is_lost(tmp_path, monkeypatch):
    """Also of the blocks that came after the error and before it was noticed."""
    failed = threading.Event()
    original = StoreWriter.append

    def append(self, block):
        if block.step[0] >= 4:
            failed.set()
            raise OSError(28, "No space left on device")
        original(self, block)

    class Later(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 8:
                assert failed.wait(10)

    monkeypatch.setattr(StoreWriter, "append", append)
    watch = dw.Watch(tmp_path / "run.zarr", signals=dw.activations(), window=4)
    model, _ = small_model(strategy_over(1))
    with pytest.warns(WatcherDisabledWarning, match="No space left"):
        fit(model, *unlike_rows(16 * 16), watch, Later())
    run = dw.open_run(tmp_path / "run.zarr")
    assert (len(run), watch.status.committed) == (4, 4)
    # Of the ninth batch on, nothing was drained when the error was noticed.
    assert run.lost == watch.status.lost == watch.status.steps - 4 >= 5
    assert run.ended == "OSError: [Errno 28] No space left on device"


def test_a_disk_that_hangs_does_not_hang_the_fit(tmp_path, monkeypatch):
    answers = threading.Event()
    original = StoreWriter.append

    def append(self, block):
        if block.step[0] >= 4:
            answers.wait(60)
        original(self, block)

    monkeypatch.setattr(StoreWriter, "append", append)
    monkeypatch.setattr(sinks, "PATIENCE", 0.2)
    watch = dw.Watch(tmp_path / "run.zarr", signals=dw.activations(), window=4)
    model, _ = small_model(strategy_over(1))
    with pytest.warns(
        RowsLostWarning, match="4 steps are committed; 6 are lost, unless"
    ) as told:
        fit(model, *unlike_rows(10 * 16), watch)
    assert len(told) == 1
    assert (watch.status.committed, watch.status.lost) == (4, 6)
    assert int(model.optimizer.iterations) == 10
    answers.set()
    for thread in threading.enumerate():
        if thread.name == "distwatch-writer":
            thread.join(10)
    # It answered after all, before the process ended.
    assert len(dw.open_run(tmp_path / "run.zarr")) == 10


@pytest.mark.slow
def test_a_full_queue_of_a_disk_that_hangs_does_not_hang_the_training(tmp_path, monkeypatch):
    """The queue is waited for once; then rows are dropped until the disk answers."""
    path, answers, waits = tmp_path / "run.zarr", threading.Event(), []
    original, submit = StoreWriter.append, BackgroundWriter.submit

    def append(self, block):
        if 4 <= block.step[0] < 12:
            answers.wait(60)
        original(self, block)

    def timed(self, block):
        began = time.monotonic()
        taken = submit(self, block)
        waits.append((taken, time.monotonic() - began))
        return taken

    class Answers(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 20:
                answers.set()
                until = time.monotonic() + 10.0
                while len(dw.open_run(path)) < 8 and time.monotonic() < until:
                    time.sleep(0.01)

    monkeypatch.setattr(StoreWriter, "append", append)
    monkeypatch.setattr(BackgroundWriter, "submit", timed)
    small = functools.partial(BackgroundWriter, max_bytes=1)
    monkeypatch.setattr(sinks, "BackgroundWriter", small)
    monkeypatch.setattr(sinks, "PATIENCE", 0.3)
    monkeypatch.setattr(background, "MAX_WAIT", 0.01)
    watch = dw.Watch(path, signals=dw.activations(), window=4, on_full="wait", drain_every=None)
    model, _ = small_model(strategy_over(1))
    with pytest.warns(RowsLostWarning) as told:
        fit(model, *unlike_rows(32 * 16), watch, Answers())
    assert int(model.optimizer.iterations) == 32
    said = [str(each.message) for each in told]
    assert "nothing could be written for 0.3 seconds, so the training goes on" in said[0]
    assert "4 steps are lost by now" in said[0]
    # The third block waits; those that come while the disk hangs do not.
    assert [taken for taken, _ in waits[:4]] == [True, True, False, False]
    assert 0.3 <= waits[2][1] < 5
    assert waits[3][1] < 0.3
    # When it answers, everything is written again, and the gap is counted.
    assert waits[-1][0]
    run = dw.open_run(path)
    assert run.lost == watch.status.lost > 4
    assert len(run) + run.lost == 32


def test_more_steps_in_one_call_than_the_devices_keep(tmp_path):
    """The cause is not the disk, and what is said to help does."""
    model, optimizer, step = loop(strategy_over(1))

    def train(path, **options):
        with dw.watching(model, optimizer, path, window=16, **options) as watch:
            watched = watch.wrap(step)

            @tf.function
            def epoch(steps):
                for _ in tf.range(steps):
                    watched(tf.ones((8, 4)), 1)

            epoch(tf.constant(50))
            watch.after_step(50)
            epoch(tf.constant(50))
            watch.after_step(50)
        return watch.status

    with pytest.warns(RowsLostWarning) as told:
        status = train(tmp_path / "short.zarr")
    # On Python 3.13 AutoGraph itself is warned of what will change in Python.
    told = [each for each in told if each.category is RowsLostWarning]
    assert len(told) == 1
    assert "18 steps are missing" in str(told[0].message)
    assert "50 were recorded between two looks at the devices, which keep 32" in str(
        told[0].message
    )
    assert "steps_per_execution=50" in str(told[0].message)
    assert "disk" not in str(told[0].message)
    run = dw.open_run(tmp_path / "short.zarr")
    assert (len(run), run.lost, status.lost, status.overwritten) == (64, 36, 36, 36)
    train(tmp_path / "whole.zarr", steps_per_execution=50)
    assert len(dw.open_run(tmp_path / "whole.zarr")) == 100
