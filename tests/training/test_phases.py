"""What is not fit's training is recorded when asked for, apart from the training."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
from trainings import (
    everything_about,
    fit,
    same_weights,
    small_model,
    strategy_over,
    unlike_rows,
)

import distwatch as dw
from distwatch.errors import (
    ConfigError,
    NothingToWatchError,
    RoundingWarning,
    UnwatchedWarning,
)

#: 4 training batches and 3 of other data, the last one short.
TRAINED, OTHER = 64, 40
NONE = [dw.activations(reference="none")]


def other_rows():
    return unlike_rows(OTHER, seed=8)


def means_of(outputs, replicas):
    """Mean output of each batch on each replica."""
    batches = np.split(outputs.astype(np.float64), [16, 32])
    return [[part.mean() for part in np.array_split(batch, replicas)] for batch in batches]


@pytest.mark.fast_cases("1-1")
@pytest.mark.parametrize(("replicas", "spe"), [(1, 1), (2, 1), (1, 2)])
def test_validation_is_a_phase_of_its_own(tmp_path, replicas, spe):
    x, y = unlike_rows(TRAINED)
    strategy = strategy_over(replicas)
    alone, _ = small_model(strategy, spe=spe)
    alone.optimizer.learning_rate = 0.01
    losses = fit(alone, x, y, epochs=2, validation_data=other_rows()).history
    model, _ = small_model(strategy, spe=spe)
    model.optimizer.learning_rate = 0.01
    watch = dw.Watch(
        tmp_path / "run.zarr", phases=["train", "test"], signals=[*NONE, dw.loss()], window=4
    )
    history = fit(model, x, y, watch, epochs=2, validation_data=other_rows())
    assert same_weights(alone, model)
    assert history.history == losses
    assert everything_about(model) == everything_about(alone)
    # Activations, with their units, and the loss are in two tables.
    assert watch.status.committed == 2 * (2 * 4 + 2 * 3)

    train = dw.open_run(tmp_path / "run.zarr")
    test = dw.open_run(tmp_path / "run.zarr", phase="test")
    assert train.phases == test.phases == ["train", "test"]
    assert (train.phase, len(train)) == ("train", 8)
    rows = test.to_xarray()
    assert list(rows.step.values) == list(range(6))
    assert list(rows.epoch.values) == [0, 0, 0, 1, 1, 1]
    # The last validation saw the weights that the model ended with.
    outputs = model.predict(other_rows()[0], verbose=0)
    got = test["activation/output"].per_replica("mean").values[3:]
    np.testing.assert_allclose(got, means_of(outputs, replicas), rtol=1e-5)
    # Each replica's mean loss; their mean over equal batches is what Keras reports.
    loss = test["loss"].per_replica("mean").values[3:].mean(axis=1)
    weighed = np.average(loss, weights=[16, 16, 8])
    assert weighed == pytest.approx(history.history["val_loss"][-1], rel=1e-5)


def rounding_warned(jit):
    """XLA rounds anew in evaluate and predict, too: a convolution's output differs by 1e-7."""
    return pytest.warns(RoundingWarning, match="jit_compile=False") if jit else nullcontext()


@pytest.mark.fast_cases("1-True")
@pytest.mark.parametrize(("replicas", "jit"), [(1, False), (2, False), (1, True)])
def test_evaluate_and_predict(tmp_path, replicas, jit):
    model, _ = small_model(strategy_over(replicas), jit=jit)
    x, y = other_rows()
    plain = model.predict(x, batch_size=16, verbose=0)
    loss = model.evaluate(x, y, batch_size=16, verbose=0)
    before = everything_about(model)
    functions = model.test_function, model.predict_function
    stores = [tmp_path / f"{name}.zarr" for name in ("test", "predict")]
    watches = [dw.Watch(store, phases=[store.stem], signals=NONE, window=2) for store in stores]
    with rounding_warned(jit):
        again = model.evaluate(x, y, batch_size=16, verbose=0, callbacks=[watches[0]])
    with rounding_warned(jit):
        outputs = model.predict(x, batch_size=16, verbose=0, callbacks=[watches[1]])
    if jit:
        np.testing.assert_allclose(again, loss, rtol=1e-6)
        np.testing.assert_allclose(outputs, plain, rtol=1e-5, atol=1e-6)
    else:
        assert loss == again
        np.testing.assert_array_equal(outputs, plain)
    assert everything_about(model) == before
    assert (model.test_function, model.predict_function) == functions
    for store in stores:
        run = dw.open_run(store)
        assert (run.phase, len(run)) == (store.stem, 3)
        got = run["activation/output"].per_replica("mean")
        np.testing.assert_allclose(got, means_of(plain, replicas), rtol=1e-5)
        assert list(run.to_xarray().iteration.values) == [0, 0, 0]


@pytest.mark.slow
def test_nothing_is_recorded_that_was_not_asked_for(tmp_path):
    model, _ = small_model(strategy_over(1))
    x, y = other_rows()
    watch = dw.Watch(tmp_path / "run.zarr")
    with pytest.warns(UnwatchedWarning, match="nothing of evaluate is recorded"):
        model.evaluate(x, y, verbose=0, callbacks=[watch])
    with pytest.warns(UnwatchedWarning, match="nothing of predict is recorded"):
        model.predict(x, verbose=0, callbacks=[watch])
    assert not (tmp_path / "run.zarr").exists()
    # And the Watch is still there for the fit that it is for.
    fit(model, x, y, watch, validation_data=(x, y))
    run = dw.open_run(tmp_path / "run.zarr")
    assert (run.phases, len(run)) == (["train"], 3)
    with pytest.raises(ConfigError, match="has no phase 'test'; it has: train"):
        dw.open_run(tmp_path / "run.zarr", phase="test")


class ByHand(keras.callbacks.Callback):
    """Trains on one batch more after every second one, from inside fit."""

    def on_train_batch_end(self, batch, logs=None):
        if batch % 2:
            x, y = other_rows()
            self.model.train_on_batch(x[:10], y[:10])


@pytest.mark.slow
def test_batches_trained_on_by_hand_are_not_mixed_in(tmp_path):
    x, y = unlike_rows(TRAINED)
    alone, _ = small_model(strategy_over(1))
    fit(alone, x, y, ByHand())
    rows = {}
    for phases in (["train"], ["train", "train_on_batch"]):
        store = tmp_path / f"{len(phases)}.zarr"
        model, _ = small_model(strategy_over(1))
        fit(model, x, y, dw.Watch(store, phases=phases, signals=NONE), ByHand())
        assert same_weights(model, alone)
        assert model.train_function is None
        run = dw.open_run(store)
        assert run.phases == phases
        rows[len(phases)] = run.to_xarray()
        # The optimizer's count goes on by hand, distwatch's own does not.
        assert list(run.to_xarray().iteration.values) == [1, 2, 4, 5]
        assert list(run.to_xarray().step.values) == [0, 1, 2, 3]
    assert rows[1].equals(rows[2])
    by_hand = dw.open_run(tmp_path / "2.zarr", phase="train_on_batch")
    assert list(by_hand.to_xarray().iteration.values) == [3, 6]
    assert list(by_hand["activation/dense_0"].merged("count").values) == [160, 160]


@pytest.mark.slow
def test_train_on_batch_alone(tmp_path):
    x, y = unlike_rows(TRAINED)
    batches = [(x[i : i + 16], y[i : i + 16]) for i in range(0, TRAINED, 16)]
    alone, _ = small_model(strategy_over(1))
    for batch in batches:
        alone.train_on_batch(*batch)
    model, ears = small_model(strategy_over(1), ears=True)
    watch = dw.Watch(
        tmp_path / "run.zarr", signals=dw.activations(), phases=["train_on_batch"], window=3
    )
    before = everything_about(model)
    with watch.attached(model) as attached:
        assert attached is watch
        for batch in batches:
            model.train_on_batch(*batch)
    assert same_weights(model, alone)
    assert everything_about(model)["attributes"] == before["attributes"]
    assert watch.status.committed == 4
    run = dw.open_run(tmp_path / "run.zarr")
    recorded = np.stack(ears[0].recorded[0]).astype(np.float64)
    expected = np.diff(recorded, axis=0).mean(axis=(1, 2))
    np.testing.assert_allclose(
        run["activation/dense_0"].merged("mean").values[1:], expected, rtol=1e-5
    )
    model.train_on_batch(*batches[0])  # no longer watched
    assert len(dw.open_run(tmp_path / "run.zarr")) == 4


def test_attached_needs_its_phase_and_keeps_rows_of_what_raised(tmp_path):
    x, y = other_rows()
    model, _ = small_model(strategy_over(1))
    with (
        pytest.raises(ConfigError, match=r'phases=\["train_on_batch"\]'),
        dw.Watch(tmp_path / "run.zarr").attached(model),
    ):
        pass
    watch = dw.Watch(tmp_path / "run.zarr", phases=["train_on_batch"])
    with pytest.raises(KeyboardInterrupt), watch.attached(model):
        model.train_on_batch(x, y)
        raise KeyboardInterrupt
    assert len(dw.open_run(tmp_path / "run.zarr")) == 1
    assert model.train_function is None


class BoomError(RuntimeError):
    pass


class Raise(keras.callbacks.Callback):
    def on_test_batch_end(self, batch, logs=None):
        raise BoomError

    on_predict_batch_end = on_test_batch_end


@pytest.mark.fast_cases("test")
@pytest.mark.parametrize("phase", ["test", "predict"])
def test_no_trace_is_left_when_it_raised(tmp_path, phase):
    x, y = other_rows()
    model, _ = small_model(strategy_over(1))
    call = {
        "test": lambda *callbacks: model.evaluate(x, y, 16, callbacks=callbacks, verbose=0),
        "predict": lambda *callbacks: model.predict(x, 16, callbacks=callbacks, verbose=0),
    }[phase]
    expected = call()
    before = everything_about(model), model.test_function, model.predict_function
    watch = dw.Watch(tmp_path / "run.zarr", phases=[phase])
    with pytest.raises(BoomError):
        call(watch, Raise())
    assert (everything_about(model), model.test_function, model.predict_function) == before
    assert len(dw.open_run(tmp_path / "run.zarr")) == 1
    np.testing.assert_array_equal(call(), expected)


def test_what_does_not_happen_in_a_phase_is_left_out_or_refused(tmp_path):
    x, y = other_rows()
    model, _ = small_model(strategy_over(1))
    both = [*NONE, dw.gradients(), dw.loss()]
    watch = dw.Watch(tmp_path / "run.zarr", phases=["predict"], signals=both)
    model.predict(x, verbose=0, callbacks=[watch])
    assert dw.open_run(tmp_path / "run.zarr").signals == [
        "activation/dense_0",
        "activation/dense_1",
        "activation/dense_2",
        "activation/output",
    ]
    watch = dw.Watch(tmp_path / "none.zarr", phases=["test"], signals=[dw.gradients()])
    with pytest.raises(NothingToWatchError, match="none of the chosen signals"):
        model.evaluate(x, y, verbose=0, callbacks=[watch])
    assert not (tmp_path / "none.zarr").exists()


@pytest.mark.parametrize(
    ("phases", "says"),
    [
        (["tests"], "unknown phase 'tests'; nearest: 'test'"),
        ([], "at least one"),
        (["test", "test"], "each once"),
    ],
)
def test_phases_that_are_none(tmp_path, phases, says):
    with pytest.raises(ConfigError, match=says):
        dw.Watch(tmp_path / "run.zarr", phases=phases)
