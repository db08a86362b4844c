"""Further validation sets are phases with names of their own, and metrics of their epoch."""

import keras
import numpy as np
import pytest
from commands import command
from trainings import (
    everything_about,
    fit,
    same_weights,
    small_model,
    strategy_over,
    unlike_rows,
)

import distwatch as dw
from distwatch.errors import ConfigError, UnwatchedWarning, WatcherDisabledWarning
from distwatch.training.watched_functions import WatchedFunctions

#: 4 training batches; sets of 3 and 2 batches, the last ones short.
TRAINED, HARD, EASY = 64, 40, 25
SIGNALS = [dw.activations(reference="none"), dw.loss()]


def rows_of(number):
    return unlike_rows(number, seed=number)


class AtEpochEnd(keras.callbacks.Callback):
    """Does something with the model and the number of the epoch."""

    def __init__(self, action):
        super().__init__()
        self.action = action
        self.found = []

    def on_epoch_end(self, epoch, logs=None):
        self.found.append(self.action(self.model, epoch))


def evaluated(rows):
    return lambda model, epoch: model.evaluate(
        *rows, batch_size=16, verbose=0, return_dict=True
    )


def validated(watch, name, rows, **options):
    return lambda model, epoch: watch.validate(name, *rows, batch_size=16, verbose=0, **options)


def watched(path, **options):
    given = {"phases": ["train", "test"], "signals": SIGNALS, "window": 4, **options}
    return dw.Watch(path, **given)


def trained(watch, *callbacks, replicas=1, spe=1, **options):
    model, _ = small_model(strategy_over(replicas), spe=spe)
    fit(model, *unlike_rows(TRAINED), watch, *callbacks, **options)
    return model


@pytest.mark.fast_cases("1-1")
@pytest.mark.parametrize(("replicas", "spe"), [(1, 1), (2, 1), (1, 2)])
def test_each_set_is_a_phase_with_exact_rows_and_training_is_untouched(tmp_path, replicas, spe):
    x, y = unlike_rows(TRAINED)
    strategy = strategy_over(replicas)
    alone, _ = small_model(strategy, spe=spe)
    hard, easy = (AtEpochEnd(evaluated(rows_of(n))) for n in (HARD, EASY))
    kept = {"epochs": 2, "validation_data": rows_of(TRAINED)}
    losses = fit(alone, x, y, hard, easy, **kept).history

    model, _ = small_model(strategy, spe=spe)
    watch = watched(tmp_path / "run.zarr")
    mine = [
        AtEpochEnd(validated(watch, name, rows_of(n)))
        for name, n in (("hard", HARD), ("easy", EASY))
    ]
    history = fit(model, x, y, watch, *mine, **kept)
    assert same_weights(alone, model)
    assert everything_about(model) == everything_about(alone)
    assert history.history == losses
    assert [each.found for each in mine] == [hard.found, easy.found]

    run = dw.open_run(tmp_path / "run.zarr", phase="hard")
    assert run.phases == ["train", "test", "easy", "hard"]
    assert (run.phase, len(run)) == ("hard", 6)
    assert list(run.to_xarray().epoch.values) == [0, 0, 0, 1, 1, 1]
    assert len(dw.open_run(tmp_path / "run.zarr", phase="easy")) == 4
    assert len(dw.open_run(tmp_path / "run.zarr", phase="test")) == 8
    outputs = model.predict(rows_of(HARD)[0], verbose=0).astype(np.float64)
    batches = np.split(outputs, [16, 32])
    want = [[part.mean() for part in np.array_split(each, replicas)] for each in batches]
    got = run["activation/output"].per_replica("mean").values[3:]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.fast_cases("False")
@pytest.mark.parametrize("first", [True, False])
def test_metrics_are_those_of_the_epoch_wherever_the_callback_stands(tmp_path, first):
    watch = watched(tmp_path / "run.zarr")
    hard = AtEpochEnd(validated(watch, "hard", rows_of(HARD)))
    callbacks = [hard, watch] if first else [watch, hard]
    model, _ = small_model(strategy_over(1))
    fit(model, *unlike_rows(TRAINED), *callbacks, epochs=2)
    losses = dw.open_run(tmp_path / "run.zarr").epochs().value.sel(metric="hard_loss")
    assert len(losses) == 2
    np.testing.assert_allclose(losses, [each["loss"] for each in hard.found])


@pytest.mark.slow
def test_a_set_may_come_late_and_twice_in_an_epoch(tmp_path):
    watch = watched(tmp_path / "run.zarr")

    def late(model, epoch):
        if epoch == 2:
            validated(watch, "hard", rows_of(EASY))(model, epoch)
            return validated(watch, "hard", rows_of(HARD))(model, epoch)
        return None

    action = AtEpochEnd(late)
    trained(watch, action, epochs=3)
    run = dw.open_run(tmp_path / "run.zarr", phase="hard")
    assert list(run.to_xarray().epoch.values) == [2] * 5
    losses = dw.open_run(tmp_path / "run.zarr").epochs().value.sel(metric="hard_loss")
    assert np.isnan(losses[:2]).all()
    assert losses[2] == pytest.approx(action.found[2]["loss"])


def test_without_the_phase_test_only_metrics_are_kept(tmp_path):
    watch = watched(tmp_path / "run.zarr", phases=["train"])
    with pytest.warns(UnwatchedWarning, match="steps .* no 'test'") as said:
        trained(watch, AtEpochEnd(validated(watch, "hard", rows_of(HARD))), epochs=2)
    assert len(said) == 1
    run = dw.open_run(tmp_path / "run.zarr")
    assert run.phases == ["train"]
    assert len(run.epochs().value.sel(metric="hard_loss")) == 2


@pytest.mark.slow
@pytest.mark.fast_cases("Hard", "../x")
@pytest.mark.parametrize(
    "name", ["test", "val", "val_hard", "Hard", "a-b", "", "1st", "x" * 41, "../x"]
)
def test_a_wrong_name_is_warned_of_and_evaluated(tmp_path, name):
    watch = watched(tmp_path / "run.zarr")
    action = AtEpochEnd(validated(watch, name, rows_of(HARD)))
    with pytest.warns(UnwatchedWarning, match="no name of a validation set") as said:
        trained(watch, action, epochs=2)
    assert len(said) == 1
    assert all("loss" in found for found in action.found)
    assert dw.open_run(tmp_path / "run.zarr").phases == ["train"]


@pytest.mark.slow
def test_one_set_within_another_is_not_recorded(tmp_path):
    watch = watched(tmp_path / "run.zarr")
    inner = keras.callbacks.LambdaCallback(
        on_test_begin=lambda logs: validated(watch, "easy", rows_of(EASY))(None, 0)
    )
    outer = AtEpochEnd(validated(watch, "hard", rows_of(HARD), callbacks=[inner]))
    with pytest.warns(UnwatchedWarning, match="'hard' is being evaluated"):
        trained(watch, outer)
    run = dw.open_run(tmp_path / "run.zarr", phase="hard")
    assert run.phases == ["train", "hard"]
    assert len(run) == 3


def test_an_evaluate_without_a_name_within_a_set_is_not_mixed_in(tmp_path):
    watch = watched(tmp_path / "run.zarr")
    inner = keras.callbacks.LambdaCallback(
        on_test_batch_begin=lambda batch, logs: evaluated(rows_of(EASY))(watch.model, 0),
    )
    outer = AtEpochEnd(validated(watch, "hard", rows_of(HARD), callbacks=[inner]))
    with pytest.warns(UnwatchedWarning, match="on its own"):
        trained(watch, outer)
    run = dw.open_run(tmp_path / "run.zarr", phase="hard")
    assert len(run) == 3
    counts = run["loss"].per_replica("count").values
    np.testing.assert_array_equal(counts.sum(axis=1), [1, 1, 1])


def test_what_goes_wrong_with_a_set_ends_the_watching_alone(tmp_path, monkeypatch):
    def broken(functions, model, session, name, expected):
        raise RuntimeError("no room for a phase")

    watch = watched(tmp_path / "run.zarr")
    monkeypatch.setattr(WatchedFunctions, "add_validation", broken)
    hard = AtEpochEnd(validated(watch, "hard", rows_of(HARD)))
    with pytest.warns(WatcherDisabledWarning, match="no room for a phase"):
        trained(watch, hard, epochs=2)
    assert [set(each) for each in hard.found] == [{"loss"}] * 2
    assert str(watch.status.error) == "no room for a phase"


def test_what_cannot_be_recorded_is_evaluated_all_the_same(tmp_path):
    """Before the fit begins, and with another Watch that records the same batches."""

    class Early(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.found = watch.validate("early", *rows_of(HARD), verbose=0)

    watch, other = watched(tmp_path / "run.zarr"), watched(tmp_path / "b.zarr", phases=["test"])
    early = Early()
    twice = AtEpochEnd(validated(watch, "twice", rows_of(HARD), callbacks=[other]))
    model, _ = small_model(strategy_over(1))
    with pytest.warns(UnwatchedWarning) as said:
        fit(model, *unlike_rows(TRAINED), early, watch, twice)
    words = " ".join(str(each.message) for each in said)
    assert "the fit has not begun" in words and "a Watch among its callbacks" in words
    assert [set(early.found), set(twice.found[0])] == [{"loss"}, {"loss"}]
    run = dw.open_run(tmp_path / "run.zarr")
    assert (run.ended, len(run), run.phases) == ("closed", 4, ["train"])
    assert len(dw.open_run(tmp_path / "b.zarr")) == 3


def test_what_the_fit_has_under_a_name_is_kept(tmp_path):
    """As of a model with an output that is called like a set."""
    x, y = unlike_rows(TRAINED)
    taken = keras.Input((12,))
    parts = {name: keras.layers.Dense(4, name=name)(taken) for name in ("a", "b")}
    model = keras.Model(taken, parts)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", {"a": loss, "b": loss})
    watch = watched(tmp_path / "run.zarr")
    rows, labels = rows_of(HARD)
    mine = AtEpochEnd(
        lambda model, epoch: watch.validate(
            "a", 9 * rows, {"a": labels, "b": labels}, verbose=0
        )
    )
    with pytest.warns(UnwatchedWarning, match="a_loss: the fit itself has metrics"):
        history = fit(model, x, {"a": y, "b": y}, watch, mine)
    (kept,) = dw.open_run(tmp_path / "run.zarr").epochs().value.sel(metric="a_loss")
    assert float(kept) == pytest.approx(history.history["a_loss"][0])


def test_outside_a_fit(tmp_path):
    watch = watched(tmp_path / "run.zarr")
    with pytest.raises(ConfigError, match="callbacks=\\[watch"):
        watch.validate("hard", *rows_of(HARD))
    trained(watch)
    with pytest.warns(UnwatchedWarning, match="no fit is watched now"):
        assert "loss" in watch.validate("hard", *rows_of(HARD), verbose=0)
    assert dw.open_run(tmp_path / "run.zarr").phases == ["train"]


def test_the_warning_about_an_evaluate_names_the_remedy(tmp_path):
    watch = watched(tmp_path / "run.zarr")
    with pytest.warns(UnwatchedWarning, match=r"watch\.validate\("):
        trained(watch, AtEpochEnd(evaluated(rows_of(HARD))))


def test_a_resumed_run_goes_on_counting_a_set(tmp_path):
    path = tmp_path / "run.zarr"
    model, _ = small_model(strategy_over(1))
    for _ in range(2):
        watch = watched(path, resume=True)
        hard = AtEpochEnd(validated(watch, "hard", rows_of(HARD)))
        fit(model, *unlike_rows(TRAINED), watch, hard)
    rows = dw.open_run(path, phase="hard").to_xarray()
    assert list(rows.step.values) == list(range(6))
    assert len(dw.open_run(path).epochs().value.sel(metric="hard_loss")) == 2


@pytest.mark.slow
def test_the_command_line_reads_such_phases(tmp_path):
    path = str(tmp_path / "run.zarr")
    watch = watched(path, tensorboard=str(tmp_path / "logs"))
    trained(watch, AtEpochEnd(validated(watch, "hard", rows_of(HARD))))
    assert list((tmp_path / "logs" / "test-hard").rglob("events.out.*"))
    for arguments, says in (
        (["info", path], "hard"),
        (["info", path, "--phase", "hard"], "hard"),
        (["ls", tmp_path], "run.zarr"),
        (["verify", path], ""),
        (["diff", path, path, "--phase", "hard"], ""),
        (["tail", path, "--phase", "hard", "--once"], "loss"),
        (["report", path, "--phase", "hard", "--output", tmp_path / "run.html"], ""),
    ):
        done = command(*arguments)
        assert (done.returncode, done.stderr.count("Error")) == (0, 0), (arguments, done)
        assert says in done.stdout
    assert "hard" in (tmp_path / "run.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_all_arguments_may_be_given_by_their_places(tmp_path):
    seen = []
    mine = keras.callbacks.LambdaCallback(
        on_test_batch_end=lambda batch, logs: seen.append(batch)
    )
    watch = watched(tmp_path / "run.zarr")

    def validate(model, epoch):
        return watch.validate("hard", *rows_of(HARD), 16, 0, None, 2, [mine], False)

    at_end = AtEpochEnd(validate)
    trained(watch, at_end)
    assert seen == [0, 1]
    assert len(dw.open_run(tmp_path / "run.zarr", phase="hard")) == 2
    assert at_end.found[0].keys() == {"loss"}


def test_what_is_given_twice_is_refused_by_evaluate_itself(tmp_path):
    watch = watched(tmp_path / "run.zarr")
    at_end = AtEpochEnd(lambda *_: watch.validate("hard", *rows_of(HARD), 16, batch_size=16))
    with pytest.raises(TypeError, match="batch_size"):
        trained(watch, at_end)


@pytest.mark.slow
def test_metrics_without_epochs_of_training_are_warned_of(tmp_path):
    watch = watched(tmp_path / "run.zarr", phases=["test"])
    at_end = AtEpochEnd(validated(watch, "hard", rows_of(HARD)))
    with pytest.warns(UnwatchedWarning, match="metrics .* phases has no 'train'"):
        trained(watch, at_end)
    run = dw.open_run(tmp_path / "run.zarr", phase="hard")
    assert len(run) == 3


class AtEpochBegin(AtEpochEnd):
    """The same at the beginning of an epoch, and not at its end."""

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_end(epoch)

    def on_epoch_end(self, epoch, logs=None):
        pass


@pytest.mark.fast_cases("True-*")
@pytest.mark.parametrize(("first", "epochs"), [(True, [0, 1]), (False, [0])])
def test_at_the_beginning_of_an_epoch_a_set_is_of_the_watchs_epoch(tmp_path, first, epochs):
    watch = watched(tmp_path / "run.zarr")
    mine = AtEpochBegin(validated(watch, "hard", rows_of(HARD)))
    model, _ = small_model(strategy_over(1))
    listed = [watch, mine] if first else [mine, watch]
    fit(model, *unlike_rows(TRAINED), *listed, epochs=2)
    found = dw.open_run(tmp_path / "run.zarr").epochs()
    values = found.value.sel(metric="hard_loss")
    kept = dict(zip([each["loss"] for each in mine.found], (0, 1), strict=True))
    assert list(values.epoch[np.isfinite(values)].values) == epochs
    # Before the Watch, the second call is the one of the epoch before.
    assert [kept[v] for v in values.values if np.isfinite(v)] == ([0, 1] if first else [1])
