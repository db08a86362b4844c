"""A training that ended too early goes on in the same run, as if nothing had been."""

import contextlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, same_weights, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import ConfigError, RowsReplacedWarning, UnsupportedTrainingError
from distwatch.store import locking

#: Ten batches an epoch, the last one short.
ROWS, EPOCHS = 158, 4
X, Y = unlike_rows(ROWS)


class Crash(keras.callbacks.Callback):
    def __init__(self, epoch, batch):
        super().__init__()
        self.epoch, self.batch = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, self.batch) == (self.epoch, batch):
            raise RuntimeError("the power went")


def train(replicas, path, *more, backup=None, epochs=EPOCHS, **how):
    """Fit a new model, from its checkpoint if there is one."""
    model, _ = small_model(strategy_over(replicas))
    how = {"signals": dw.activations()} | how
    callbacks = [dw.Watch(path, resume=True, window=4, **how), *more]
    if backup:
        saving = keras.callbacks.BackupAndRestore(backup, delete_checkpoint=False)
        callbacks.insert(0, saving)
    ended = pytest.raises(RuntimeError, match="power") if more else contextlib.nullcontext()
    with ended:
        fit(model, X, Y, *callbacks, epochs=epochs)
    return model


def rows_of(path, **chosen):
    return dw.open_run(path, **chosen).to_xarray()


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_after_crashes_the_run_is_that_of_one_training(tmp_path, replicas):
    backup, path = tmp_path / "backup", tmp_path / "run.zarr"
    train(replicas, path, Crash(1, 6), backup=backup)  # goes on at step 10
    train(replicas, path, Crash(3, 2), backup=backup)  # goes on at step 30
    model = train(replicas, path, backup=backup)
    whole = train(replicas, tmp_path / "whole.zarr")
    assert same_weights(model, whole)

    run = dw.open_run(path)
    assert run.lost == 0
    assert [(s.start, s.first_step, s.steps) for s in run.segments] == [
        (0, 0, 17),
        (1, 10, 23),
        (2, 30, 10),
    ]
    rows, wanted = rows_of(path), rows_of(tmp_path / "whole.zarr")
    for name in ("step", "epoch", "iteration"):
        np.testing.assert_array_equal(rows[name], wanted[name])
    # The first batch after a start has none before it.
    begun = rows.step.isin([0, 10, 30])
    assert (rows["count"].where(begun, drop=True) == 0).all()
    for name in ("mean", "std", "min", "max", "l2", "count"):
        np.testing.assert_array_equal(
            rows[name].where(~begun, drop=True), wanted[name].where(~begun, drop=True)
        )
    assert "43 steps" not in run.summary()


@pytest.mark.slow
def test_validation_goes_on_too(tmp_path):
    backup, path = tmp_path / "backup", tmp_path / "run.zarr"

    def train_and_validate(*more):
        model, _ = small_model(strategy_over(1))
        saving = keras.callbacks.BackupAndRestore(backup, delete_checkpoint=False)
        watch = dw.Watch(path, resume=True, phases=["train", "test"])
        ended = pytest.raises(RuntimeError, match="power") if more else contextlib.nullcontext()
        with ended:
            fit(model, X, Y, saving, watch, *more, epochs=3, validation_data=(X[:40], Y[:40]))

    class AfterValidation(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise RuntimeError("the power went")

    # The checkpoint of epoch 1 is there: it comes first among the callbacks.
    train_and_validate(AfterValidation())
    train_and_validate()
    rows = rows_of(path, phase="test")
    np.testing.assert_array_equal(rows.step, np.arange(9))
    np.testing.assert_array_equal(rows.iteration, np.repeat([10, 20, 30], 3))
    np.testing.assert_array_equal(rows_of(path).step, np.arange(30))


class Leaves(keras.callbacks.Callback):
    """Copies a folder at one moment: this is what a kill would leave of it."""

    def __init__(self, folder, copy, moment):
        super().__init__()
        self._folder, self._copy = folder, copy
        self._moment = moment
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._look("epoch", epoch)

    def on_train_batch_end(self, batch, logs=None):
        self._look("train", self._epoch, batch)

    def on_test_batch_end(self, batch, logs=None):
        self._look("test", self._epoch, batch)

    def _look(self, *now):
        if now == self._moment:
            # Nothing is written meanwhile, as after a kill.
            with contextlib.ExitStack() as held:
                for lock in locking._held.values():
                    held.enter_context(lock.writing())
                shutil.copytree(self._folder, self._copy)


def train_and_validate(folder, *more, spe=1, epochs=4):
    """Ten steps an epoch and three of validation; every second window comes to the store."""
    model, _ = small_model(strategy_over(1), spe=spe)
    saving = keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)
    how = {"phases": ["train", "test"], "signals": dw.activations()}
    watch = dw.Watch(folder / "run.zarr", resume=True, window=4, drain_every=None, **how)
    data = {"validation_data": (X[:40], Y[:40]), "validation_batch_size": 16}
    fit(model, X, Y, saving, watch, *more, epochs=epochs, **data)
    return dw.open_run(folder / "run.zarr"), dw.open_run(folder / "run.zarr", phase="test")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return train_and_validate(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [("epoch", 1), ("epoch", 2), ("train", 2, 6), ("test", 1, 1)],
)
def test_after_a_kill_every_step_has_its_number(tmp_path, uninterrupted, moment):
    """Also of a validation, of which a kill takes steps that nobody sees again."""
    leaves = Leaves(tmp_path / "killed", tmp_path / "left", moment)
    train_and_validate(tmp_path / "killed", leaves, epochs=moment[1] + 1)
    for run, whole in zip(train_and_validate(tmp_path / "left"), uninterrupted, strict=True):
        rows, wanted = run.to_xarray(), whole.to_xarray()
        assert len(wanted.step) == run.lost + len(rows.step)
        assert rows.step[-1] == wanted.step[-1]
        wanted = wanted.sel(step=rows.step)
        for name in ("epoch", "iteration"):
            np.testing.assert_array_equal(rows[name], wanted[name])
        compared = rows["count"] > 0
        for name in ("mean", "l2", "count"):
            np.testing.assert_array_equal(
                rows[name].where(compared), wanted[name].where(compared)
            )
        assert "are not counted" not in run.summary()


@pytest.mark.slow
def test_of_several_batches_in_one_call_each_is_counted(tmp_path):
    """Keras names the last batch that there might be: three of validation, not seven."""
    leaves = Leaves(tmp_path / "killed", tmp_path / "left", ("epoch", 1))
    train_and_validate(tmp_path / "killed", leaves, spe=7, epochs=2)
    _, test = train_and_validate(tmp_path / "left", spe=7, epochs=2)
    assert test.segments[-1].first_step == 3


@pytest.mark.slow
def test_steps_that_nobody_saw_leave_a_gap(tmp_path):
    """The checkpoint is younger than the last row that was committed."""
    path = tmp_path / "run.zarr"
    model, _ = small_model(strategy_over(1))
    fit(model, X, Y, dw.Watch(path, schedule=dw.every(4)))  # steps 0, 4, 8
    fit(model, X, Y)  # 10 steps unwatched
    fit(model, X, Y, dw.Watch(path, schedule=dw.every(4), resume=True))
    assert rows_of(path).step.values.tolist() == [0, 4, 8, 20, 24, 28]
    assert rows_of(path).iteration.values.tolist() == [1, 5, 9, 21, 25, 29]


@pytest.mark.slow
def test_a_model_that_was_not_restored_is_said(tmp_path):
    path = tmp_path / "run.zarr"
    train(1, path, epochs=1)
    with pytest.warns(RowsReplacedWarning, match=r"all 10 steps .* are replaced"):
        train(1, path, epochs=2)
    np.testing.assert_array_equal(rows_of(path).step, np.arange(20))


@pytest.mark.slow
def test_without_a_run_one_is_begun(tmp_path):
    train(1, tmp_path / "run.zarr", epochs=1)
    assert len(dw.open_run(tmp_path / "run.zarr")) == 10


@pytest.mark.slow
def test_a_loop_of_ones_own(tmp_path):
    strategy = strategy_over(2)
    path = tmp_path / "run.zarr"

    def loop(model, optimizer):
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
        with dw.watching(
            model, optimizer, path, strategy=strategy, resume=True, signals=[dw.loss()]
        ) as watch:

            @watch.wrap
            def step(x, y):
                with tf.GradientTape() as tape:
                    each = keras.losses.sparse_categorical_crossentropy(
                        y, model(x), from_logits=True
                    )
                    loss = tf.nn.compute_average_loss(each, global_batch_size=16)
                    watch.loss(loss)
                weights = model.trainable_variables
                optimizer.apply(tape.gradient(loss, weights), weights)

            distributed = tf.function(lambda x, y: strategy.run(step, args=(x, y)))
            for x, y in strategy.experimental_distribute_dataset(data):
                distributed(x, y)
                watch.after_step()

    model, _ = small_model(strategy)
    loop(model, model.optimizer)
    loop(model, model.optimizer)
    np.testing.assert_array_equal(rows_of(path).step, np.arange(20))
    assert [s.start for s in dw.open_run(path).segments] == [0, 1]


@pytest.mark.fast_cases("2-change2-*")
@pytest.mark.parametrize(
    ("replicas", "change", "says"),
    [
        (1, {"signals": ["dense_0"]}, r"other signals than this Watch \(activation/dense_1"),
        (1, {"reference": "none"}, "the same ones, otherwise"),
        (2, {}, "started on default strategy and cannot be resumed on MirroredStrategy"),
    ],
)
def test_what_does_not_continue_a_run_is_refused(tmp_path, replicas, change, says):
    train(1, tmp_path / "run.zarr", epochs=1)
    with pytest.raises(ConfigError, match=says):
        train(replicas, tmp_path / "run.zarr", **change)
    assert len(dw.open_run(tmp_path / "run.zarr")) == 10


@pytest.mark.slow
def test_an_optimizer_that_is_too_young_is_refused(tmp_path):
    model, _ = small_model(strategy_over(1))
    fit(model, X, Y)
    fit(model, X, Y, dw.Watch(tmp_path / "run.zarr", signals=dw.activations()))
    with pytest.raises(ConfigError, match="the optimizer's count was 10, and now it is 0"):
        train(1, tmp_path / "run.zarr")


def test_accumulation_does_not_tell_where_it_stands(tmp_path):
    model, _ = small_model(strategy_over(1))
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=2), "mse")
    with pytest.raises(UnsupportedTrainingError, match="does not tell the step"):
        fit(model, X, Y, dw.Watch(tmp_path / "run.zarr", resume=True))


def test_a_run_is_deleted_or_continued():
    with pytest.raises(ConfigError, match="either deleted or continued"):
        dw.Watch("run.zarr", overwrite=True, resume=True)


@pytest.mark.slow
def test_references_that_begin_anew_are_named(tmp_path):
    """Those of the first start are in its memory only."""
    model, _ = small_model(strategy_over(1))
    x, y = unlike_rows(32)
    signals = [dw.activations("dense_0", reference="first"), dw.activations("dense_1")]

    def train():
        fit(model, x, y, dw.Watch(tmp_path / "run.zarr", resume=True, signals=signals))

    train()
    with pytest.warns(dw.errors.DistwatchWarning, match=r"step 2, where.*anew.*\(.*dense_0\)"):
        train()
    counts = dw.open_run(tmp_path / "run.zarr")["activation/dense_0"].merged("count")
    assert (counts == 0).values.tolist() == [True, False, True, False]
