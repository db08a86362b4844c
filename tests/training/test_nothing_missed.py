"""Law 2: rows kept = batches x replicas, and what is missing is declared."""

import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.records import Table, TensorLayout
from distwatch.signals import Signal
from distwatch.training.device.cadence import StepInput, TablePlan
from distwatch.training.device.ring import Recorder


# Uneven shards are a known fault, which a Watch says; here they are what is tried.
@pytest.mark.fast_cases("1-100-3")
@pytest.mark.filterwarnings(
    "ignore:this training runs into known faults of Keras:distwatch.errors.KnownTrapWarning"
)
@pytest.mark.parametrize(
    ("replicas", "spe", "window"), [(1, 100, 3), (2, 1, 5), (2, 7, 3), (2, 100, 256)]
)
def test_every_batch_on_every_replica(tmp_path, replicas, spe, window):
    x, y = unlike_rows(23 * 8 - 3)  # 23 batches an epoch, the last one short
    model, _ = small_model(strategy_over(replicas), spe=spe)
    watch = dw.Watch(tmp_path / "run.zarr", signals=dw.activations(), window=window)
    fit(model, x, y, watch, batch=8, epochs=3)

    assert watch.status.lost == 0
    rows = dw.open_run(tmp_path / "run.zarr").to_xarray()
    assert rows.sizes == {"step": 69, "replica": replicas, "signal": 4}
    np.testing.assert_array_equal(rows.step, np.arange(69))
    np.testing.assert_array_equal(rows.epoch, np.repeat([0, 1, 2], 23))
    np.testing.assert_array_equal(rows.iteration, np.arange(1, 70))
    # Only the very first batch has nothing to be measured against.
    assert (rows["count"].isel(step=0) == 0).all()
    assert (rows["count"].isel(step=slice(1, None)) > 0).all()


def test_a_ring_that_ran_over_says_how_much_it_lost():
    table = Table("table-00", (Signal("activation/dense"),), "every(1)", window=2)
    feed = TablePlan(table, dw.every(1), tensor_index=(0,), references=("previous",))
    recorder = Recorder(tf.distribute.get_strategy(), [feed], steps_per_execution=1)
    for step in range(11):
        values = tf.fill([2, 3], float(step**2))
        recorder.record([StepInput([values])], tf.constant(step, tf.int64))
    drained = recorder.tables[0].drain()
    assert drained.lost == 7
    assert list(drained.step) == [7, 8, 9, 10]
    mean = drained.rows[:, 0, 0, 5]
    assert list(mean) == [13.0, 15.0, 17.0, 19.0]


def test_raw_deltas_do_not_stay_on_the_devices_once_they_were_read():
    layout = TensorLayout((3,), None, "float32")
    signals = (Signal("tensor/dense"),)
    table = Table("table-00", signals, "every(1)", window=2, tensor=layout)
    feed = TablePlan(table, dw.every(1), tensor_index=(0,), references=("none",))
    recorder = Recorder(tf.distribute.get_strategy(), [feed], steps_per_execution=1)
    for step in range(3):
        recorder.record([StepInput([tf.fill([2, 3], 1.5)])], tf.constant(step, tf.int64))
    (recorded,) = recorder.tables
    (ring,) = recorded._cadence.rings.made.values()
    slots = ring.slots["table-00"]

    def held():
        return sum(delta.size for delta in slots.read(range(recorded.capacity)))

    assert held() == 3 * 2 * 3
    assert recorded.drain().tensors.values.shape == (3, 1, 2, 3)
    assert held() == 0


def test_a_short_window_is_drained_when_it_is_full():
    """And not after as many steps, of which the schedule leaves most out."""
    table = Table("table-00", (Signal("activation/dense"),), "every(5)", window=2)
    feed = TablePlan(
        table, dw.every(5), tensor_index=(0,), references=("none",), drained_after=256
    )
    recorder = Recorder(tf.distribute.get_strategy(), [feed], steps_per_execution=1)
    (recorded,) = recorder.tables
    due, pending = [], 0
    for step in range(32):
        recorder.record([StepInput([tf.fill([2, 3], 1.5)])], tf.constant(step, tf.int64))
        pending += 1
        if recorded.is_due(pending):
            due.append((step, list(recorded.drain().step)))
            pending = 0
    assert due == [(5, [0, 5]), (15, [10, 15]), (25, [20, 25])]
    assert not recorded.is_due(255)
    assert recorded.is_due(256)


def test_eager_training_is_watched_too(tmp_path):
    x, y = unlike_rows(40)
    model, _ = small_model(strategy_over(1))
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    fit(model, x, y, dw.Watch(tmp_path / "run.zarr"))
    rows = dw.open_run(tmp_path / "run.zarr").to_xarray()
    assert list(rows["count"].sel(signal="activation/dense_0", replica=0)) == [0, 256, 128]


def test_a_training_that_ends_without_an_end_of_epoch(tmp_path):
    class Abrupt(dw.Watch):
        def on_epoch_end(self, epoch, logs=None):
            pass

    x, y = unlike_rows(40)
    model, _ = small_model(strategy_over(1))
    fit(model, x, y, Abrupt(tmp_path / "run.zarr"))
    assert len(dw.open_run(tmp_path / "run.zarr")) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("spe", [1, 2])
def test_a_dataset_of_unknown_length_ends_without_a_step(tmp_path, spe):
    """TensorFlow begins one more step there, which gets no batch: it counts as none."""
    x, y = unlike_rows(15)
    signature = tf.TensorSpec([None, 12]), tf.TensorSpec([None], tf.int64)
    batches = [(x[:7], y[:7]), (x[7:], y[7:])]
    dataset = tf.data.Dataset.from_generator(lambda: batches, output_signature=signature)
    model, _ = small_model(strategy_over(1), spe=spe)
    watch = dw.Watch(tmp_path / "run.zarr", signals="dense_0")
    model.fit(dataset, epochs=3, verbose=0, shuffle=False, callbacks=[watch])
    rows = dw.open_run(tmp_path / "run.zarr").to_xarray()
    assert rows.step.values.tolist() == [0, 1, 2, 3, 4, 5]
    assert rows.epoch.values.tolist() == [0, 0, 1, 1, 2, 2]
    assert rows["count"].values.ravel().tolist() == [0, *([7 * 16] * 5)]
