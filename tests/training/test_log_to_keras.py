"""What a Watch adds to Keras's logs, and that every other callback finds it there."""

import csv
import dataclasses

import keras
import numpy as np
import pytest
from trainings import fit, same_weights, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import ConfigError, UnknownSignalError, WatcherDisabledWarning
from distwatch.training import strategies
from distwatch.training.device.ring import TableRecorder

X, Y = unlike_rows(118)
STEPS = 8
LOGGED = ["dense_0:l2", "activation/*:max", "update/dense_1/kernel:ratio", "loss:mean"]
KEYS = [
    "activation/dense_0/l2",
    "activation/dense_0/max",
    "activation/dense_1/max",
    "activation/dense_2/max",
    "activation/output/max",
    "update/dense_1/kernel/ratio",
    "loss/mean",
]
SIGNALS = [dw.activations(), dw.updates(every=3), dw.loss()]


def train(path, *others, replicas=1, spe=1, epochs=3, first=True, **how):
    """The Watch stands first among the callbacks, or last."""
    model, _ = small_model(strategy_over(replicas), spe=spe)
    how = {"signals": SIGNALS, "log_to_keras": LOGGED} | how
    watch = dw.Watch(path, window=3, **how)
    history = fit(
        model, X, Y, *([watch, *others] if first else [*others, watch]), epochs=epochs
    )
    return history.history, model


@pytest.mark.fast_cases("1-1")
@pytest.mark.parametrize(("replicas", "spe"), [(1, 1), (2, 3)])
def test_values_are_merged_over_steps_and_replicas(tmp_path, replicas, spe):
    history, _ = train(tmp_path / "run.zarr", replicas=replicas, spe=spe)
    assert list(history) == ["loss", *KEYS]
    rows = dw.open_run(tmp_path / "run.zarr").to_xarray()
    for epoch in range(3):
        own = rows.sel(step=rows.epoch == epoch)
        assert own.sizes["step"] == STEPS
        l2 = np.sqrt((own.l2.sel(signal="activation/dense_0") ** 2).sum())
        assert history["activation/dense_0/l2"][epoch] == pytest.approx(float(l2), rel=1e-9)
        for layer in ("dense_0", "dense_1", "dense_2", "output"):
            largest = float(own["max"].sel(signal=f"activation/{layer}").max())
            assert history[f"activation/{layer}/max"][epoch] == largest
        loss = own.sel(signal="loss")
        mean = float((loss["mean"] * loss["count"]).sum() / loss["count"].sum())
        assert history["loss/mean"][epoch] == pytest.approx(mean, rel=1e-9)
        # Of a ratio of norms: both are summed over what was looked at.
        update = own.sel(signal="update/dense_1/kernel").dropna("step", how="all")
        weights = (update.l2 / update.ratio) ** 2
        ratio = float(np.sqrt((update.l2**2).sum() / weights.sum()))
        assert history["update/dense_1/kernel/ratio"][epoch] == pytest.approx(ratio, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_other_callbacks_find_them_wherever_they_stand(tmp_path, first):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    stopping = keras.callbacks.EarlyStopping(
        "activation/dense_0/l2", mode="min", min_delta=1e9, patience=2
    )
    name = "{epoch}-{activation/dense_0/l2:.3f}.weights.h5"
    saving = keras.callbacks.ModelCheckpoint(tmp_path / name, save_weights_only=True)
    others = (logger, stopping, saving)
    history, _ = train(tmp_path / "run.zarr", *others, first=first, epochs=9)

    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert set(rows[0]) >= {"epoch", "loss", *KEYS}
    for key in KEYS:
        assert [float(row[key]) for row in rows] == history[key]

    l2 = history["activation/dense_0/l2"]
    assert (len(l2), stopping.best) == (3, l2[0])

    wanted = {f"{epoch}-{value:.3f}.weights.h5" for epoch, value in enumerate(l2, 1)}
    assert {path.name for path in tmp_path.glob("*.h5")} == wanted


@pytest.mark.fast_cases("CallbackList")
@pytest.mark.parametrize("given", ["list", "tuple", "nested", "CallbackList"])
def test_however_callbacks_are_given(tmp_path, given):
    seen = []

    class Reader(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(logs["loss/mean"])

    model, _ = small_model(strategy_over(1))
    reader = Reader()
    watch = dw.Watch(tmp_path / "run.zarr", signals=SIGNALS, log_to_keras="loss:mean")
    listed = {
        "list": [reader, watch],
        "tuple": (reader, watch),
        "nested": [[reader, [watch]]],
        "CallbackList": keras.callbacks.CallbackList(
            [reader, watch], add_history=True, model=model, epochs=2, verbose=0, steps=STEPS
        )
        if given == "CallbackList"
        else None,
    }[given]
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=listed)
    assert len(seen) == 2
    assert seen == model.history.history["loss/mean"]
    # The caller's own list is as it was.
    if given == "list":
        assert listed == [reader, watch]


@pytest.mark.slow
def test_an_epoch_without_a_look_is_not_known(tmp_path):
    """The columns are there from the first epoch on, all the same."""
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history, _ = train(
        tmp_path / "run.zarr",
        logger,
        signals=[dw.loss(every=dw.at(10, 11)), dw.activations(every=1000)],
        log_to_keras=["loss:mean", "dense_0:l2"],
    )
    known = np.isfinite(history["loss/mean"])
    np.testing.assert_array_equal(known, [False, True, False])
    # Step 0 has no step before it, and 1000 never comes.
    assert np.isnan(history["activation/dense_0/l2"]).all()
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["loss/mean"] for row in rows] == ["nan", str(history["loss/mean"][1]), "nan"]


def test_after_an_error_nothing_is_known_and_training_goes_on(tmp_path, monkeypatch):
    drains, original = [], TableRecorder.drain

    def drain(self, *args, **kwargs):
        drains.append(kwargs)
        # The second epoch begins with the 5th drain of the only table.
        if len(drains) > 4:
            raise ZeroDivisionError("planted")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(TableRecorder, "drain", drain)
    with pytest.warns(WatcherDisabledWarning, match="planted"):
        history, _ = train(
            tmp_path / "run.zarr", signals=[dw.loss()], log_to_keras=["loss:mean"]
        )
    np.testing.assert_array_equal(np.isfinite(history["loss/mean"]), [True, False, False])


@pytest.mark.slow
def test_logs_and_weights_are_those_without_it(tmp_path):
    history, without = train(tmp_path / "without.zarr", log_to_keras=[])
    assert list(history) == ["loss"]
    more, with_it = train(tmp_path / "with.zarr")
    assert more["loss"] == history["loss"]
    assert same_weights(without, with_it)


@pytest.mark.slow
def test_validation_has_no_part_in_it(tmp_path):
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(
        tmp_path / "run.zarr",
        signals=[dw.activations()],
        phases=["test", "train"],
        log_to_keras=["dense_0:count"],
    )
    history = fit(model, X, Y, watch, validation_data=(X[:32], Y[:32])).history
    # 118 rows of 16 units, without the first batch of 16, whose change is not known.
    assert history["activation/dense_0/count"] == [(118 - 16) * 16]


@pytest.mark.fast_cases("dens_0*", "dense_0:spread*")
@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ("dens_0:l2", UnknownSignalError, r"matches no signal of this Watch.*dense_0"),
        ("dense_0:l3", ConfigError, r"activation/dense_0 has no statistic 'l3'.*nearest: 'l"),
        ("dense_0:ratio", ConfigError, "activation/dense_0 has no statistic 'ratio'"),
        ("dense_0:spread", ConfigError, "merged over the steps of an epoch"),
    ],
)
def test_what_is_not_there_is_refused_before_the_first_step(tmp_path, asked, error, says):
    with pytest.raises(error, match=says):
        train(tmp_path / "run.zarr", log_to_keras=[asked])
    assert not (tmp_path / "run.zarr").exists()


@pytest.mark.parametrize("asked", ["dense_0", ":l2", "dense_0:", 5, [5], {"dense_0": "l2"}])
def test_what_names_no_signal_and_statistic_is_refused(asked):
    with pytest.raises(ConfigError, match=r"log_to_keras=.*'activation/dense:l2'"):
        dw.Watch("run.zarr", log_to_keras=asked)


@pytest.mark.slow
def test_names_that_a_format_could_not_hold(tmp_path):
    """Keys are for ModelCheckpoint, too, where a dot means something."""
    keras.utils.clear_session()
    inputs = keras.Input((12,))
    outputs = keras.layers.Dense(4, name="a.b")(inputs)
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    watch = dw.Watch(tmp_path / "run.zarr", log_to_keras=["a.b:l2"])
    history = fit(model, X, Y, watch).history
    assert "activation/a_b/l2" in history
    assert float("{activation/a_b/l2:.4f}".format(**{k: v[0] for k, v in history.items()}))


def test_two_keys_that_would_be_one_are_refused(tmp_path):
    keras.utils.clear_session()
    layers = [keras.layers.Dense(4, name=name) for name in ("a.b", "a_b")]
    model = keras.Sequential([keras.Input((12,)), *layers])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    watch = dw.Watch(tmp_path / "run.zarr", log_to_keras=["a?b:l2"])
    with pytest.raises(ConfigError, match=r"a\.b and activation/a_b would both be logged"):
        fit(model, X, Y, watch)


def test_only_of_the_phase_train():
    with pytest.raises(
        ConfigError, match='of the phase "train" are logged, so record that, too'
    ):
        dw.Watch("run.zarr", phases=["predict"], log_to_keras=["loss:mean"])


def test_a_loop_has_no_logs():
    model, _ = small_model(strategy_over(1))
    with pytest.raises(ConfigError, match="a loop of your own has no Keras logs"):
        dw.watching(model, None, "run.zarr", log_to_keras=["loss:mean"])


def test_not_on_several_workers(tmp_path, monkeypatch):
    """Each would know its own replicas only, and stop on its own."""
    second = dataclasses.replace(
        strategies.facts_of(strategy_over(1)), worker=1, workers=2, replicas=(1,)
    )
    monkeypatch.setattr(strategies, "facts_of", lambda strategy: second)
    with pytest.raises(ConfigError, match="EarlyStopping would stop one of them"):
        train(tmp_path / "run.zarr")
    assert not (tmp_path / "run.zarr").exists()
