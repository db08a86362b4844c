"""What is done on findings while a training goes on, and that the training does not mind."""

import dataclasses
import itertools
import json
import threading
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, same_weights, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch import actions
from distwatch.errors import ActionFailedWarning, ConfigError
from distwatch.findings import AFTER_EPOCH, AT_END, NOTE, WARNING, Finding, Rule
from distwatch.training import acting, strategies
from distwatch.training.acting import Acting
from distwatch.training.session import Session

X, Y = unlike_rows(320)

#: Has rows drained, and so rules asked, after each execution.
OFTEN = {"drain_every": 1e-3, "signals": [dw.activations(), dw.loss()]}


SAVING = actions.checkpoint("a.keras")


def ten_steps(run):
    """Ten steps were done."""
    if max(table.steps for table in run.tables) >= 10:
        yield Finding("ten", WARNING, "Ten steps.", "loss", 9)


def found(name, severity=WARNING):
    """A finding of a rule."""
    return Finding(name.lower(), severity, f"{name}.", rule=name)


class MadePhase:
    """A phase whose rules find what they are said to, and that notes which were asked."""

    name = "train"

    def __init__(self, **asked):
        self.steps_done = 1
        self.found = [found(name) for name in asked]
        self.rules = [Rule(name, lambda run: [], asked=when) for name, when in asked.items()]

    def findings(self, asked, ended=None):
        now = {rule.name for rule in self.rules if asked(rule)}
        return [each for each in self.found if each.rule in now]


def judge(made, *, steps=1, epochs=0, whole=False, by):
    made.steps_done = steps
    by._next = 0.0
    by.judge([made], epochs=epochs, whole=whole)


def kept(into):
    """An action that keeps findings."""
    return actions.call(lambda finding: into.append(finding.rule))


@pytest.fixture
def always(monkeypatch):
    """Have rules asked at each drain of all rows, however long that takes."""
    monkeypatch.setattr(acting, "MOST_TIME", 1e9)


@pytest.fixture
def briefly(monkeypatch):
    monkeypatch.setattr(acting, "PATIENCE", 0.3)


def test_each_rule_is_asked_when_it_can_be_believed():
    got = []
    made = MadePhase(NonFinite="at once", LossFunction=AFTER_EPOCH, NotLearning=AT_END)
    by = Acting([actions.on("*", do=kept(got))])
    told = []
    for steps, epochs, whole in ((8, 0, False), (16, 1, False), (40, 1, False), (41, 1, True)):
        judge(made, steps=steps, epochs=epochs, whole=whole, by=by)
        told.append({key[1] for key in by._acted})
    by.close()
    assert told == [
        {"NonFinite"},
        {"NonFinite"},
        {"NonFinite", "LossFunction"},
        {"NonFinite", "LossFunction", "NotLearning"},
    ]
    assert got == ["NonFinite", "LossFunction", "NotLearning"]


def test_a_rule_acts_once_and_only_if_it_is_meant_and_severe_enough():
    loud, all_ = [], []
    made = MadePhase(NonFinite="at once", Spike="at once")
    made.found.append(dataclasses.replace(found("NonFinite"), kind="other"))
    made.found[1] = found("Spike", NOTE)
    choices = [
        actions.on("NonFinite", "Spike", do=kept(loud)),
        actions.on("*", do=kept(all_), severity="note"),
    ]
    by = Acting(choices)
    for steps in range(1, 6):
        judge(made, steps=steps, by=by)
    by.close()
    assert (loud, all_) == (["NonFinite"], ["NonFinite", "Spike"])


def test_judging_takes_a_hundredth_of_the_time_at_most(monkeypatch):
    clock, asked = [0.0], []

    class Slow(MadePhase):
        def findings(self, asked_, ended=None):
            asked.append(clock[0])
            clock[0] += 0.5
            return []

    monkeypatch.setattr(acting.time, "monotonic", lambda: clock[0])
    made, by = Slow(), Acting([actions.on("*", do=actions.stop())])
    for made.steps_done in range(1, 1200):
        by.judge([made], epochs=0)
        clock[0] += 0.1
    assert len(asked) == 3
    assert all(after - before >= 50 for before, after in itertools.pairwise(asked))
    by.judge([made], epochs=0, whole=True)
    assert len(asked) == 4


def test_an_action_that_takes_long_delays_no_other(monkeypatch, tmp_path):
    """A model of a minute is saved, and NaN that comes after it stops the training at once."""
    clock = [0.0]
    monkeypatch.setattr(acting.time, "monotonic", lambda: clock[0])

    def save(path):
        clock[0] += 60.0

    choices = [
        actions.on("Desync", do=actions.checkpoint(tmp_path / "m.keras")),
        actions.on("NonFinite", do=actions.stop()),
    ]
    made, by = MadePhase(Desync="at once"), Acting(choices, save=save)
    by.judge([made], epochs=0)
    assert clock[0] == 60.0
    later = MadePhase(NonFinite="at once")
    later.steps_done = 2
    by.judge([later], epochs=0)
    assert by.stops


def test_after_an_interrupt_no_model_is_saved(tmp_path):
    saved, got = [], []
    choice = actions.on("NonFinite", do=[actions.checkpoint(tmp_path / "m.keras"), kept(got)])
    by = Acting([choice], save=saved.append)
    by.leaves = True
    judge(MadePhase(NonFinite="at once"), steps=1, by=by)
    by.close()
    assert (saved, got) == ([], ["NonFinite"])


def test_no_rule_is_asked_where_nothing_is_to_be_done():
    made = MadePhase(NonFinite="at once")
    made.findings = None
    judge(made, by=Acting([]))


@pytest.mark.parametrize("wrong", [lambda run: 1 / 0, lambda run: ["text"], lambda run: None])
def test_a_rule_that_fails_is_said_once_and_asked_no_more(wrong):
    wrong.__name__ = "wrong"
    changes = []
    by = Acting([actions.on(wrong, do=actions.stop())])
    by.declare = changes.append
    (rule,) = by.rules
    with pytest.warns(ActionFailedWarning, match="the rule wrong failed, and is not asked"):
        assert rule.find(None) == []
    assert rule.find(None) == []
    assert [(each.by, each.what) for each in changes] == [("rule", "failed")]


def test_what_raises_hangs_or_is_slow_is_said_and_nothing_waits(briefly):
    """Also what would end a program, in the thread it is called in."""
    hang, got, changes = threading.Event(), [], []

    def raises(finding):
        raise SystemExit(finding.rule)

    def hangs(finding):
        hang.wait(20)

    made = MadePhase(NonFinite="at once", Desync="at once")
    by = Acting([actions.on("*", do=[*map(actions.call, (raises, hangs)), kept(got)])])
    by.declare = changes.append
    judge(made, by=by)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        by.close()
    hang.set()
    assert got == ["NonFinite", "Desync"]
    failed = [each.why for each in changes if each.what == "failed"]
    assert failed == [
        "call(raises) raised SystemExit: NonFinite",
        "call(raises) raised SystemExit: Desync",
        "call(hangs) has not returned, and is waited for no longer; 1 further finding not "
        "given to it",
    ]
    assert [str(each.message) for each in said] == [
        f"{each}. The training and its record go on." for each in failed
    ]
    assert {each.category for each in said} == {ActionFailedWarning}


def test_no_more_findings_wait_than_a_bound(briefly):
    hang, changes = threading.Event(), []
    made = MadePhase(**{f"Rule{i}": "at once" for i in range(acting.WAITING + 20)})
    by = Acting([actions.on("*", do=actions.call(lambda finding: hang.wait(20)))])
    by.declare = changes.append
    judge(made, by=by)
    (beside,) = by._beside.values()
    assert beside._queue.qsize() <= acting.WAITING
    with pytest.warns(ActionFailedWarning, match=f"{acting.WAITING + 19} further findings not"):
        by.close()
    hang.set()


def test_a_line_of_json_for_each_finding(tmp_path):
    made = MadePhase(NonFinite="at once", Spike="at once")
    made.found[1] = dataclasses.replace(found("Spike"), value=float("inf"), advice="Look.")
    by = Acting([actions.on("*", do=actions.log_json(tmp_path / "new" / "f.jsonl"))], worker=3)
    judge(made, steps=7, by=by)
    by.close()
    first, second = map(json.loads, (tmp_path / "new" / "f.jsonl").read_text().splitlines())
    assert (first["rule"], first["phase"], first["steps"], first["worker"]) == (
        "NonFinite", "train", 7, 3,
    )  # fmt: skip
    assert (second["value"], second["advice"]) == (None, "Look.")


def test_a_file_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    by = Acting([actions.on("*", do=actions.log_json(tmp_path / "file" / "f.jsonl"))])
    judge(MadePhase(NonFinite="at once"), by=by)
    with pytest.warns(ActionFailedWarning, match=r"log_json\('.*f.jsonl'\) raised"):
        by.close()


@pytest.mark.usefixtures("always")
@pytest.mark.fast_cases("1-1")
@pytest.mark.parametrize(("replicas", "spe"), [(1, 1), (2, 1), (2, 4)])
def test_a_stop_leaves_the_model_as_it_was_at_that_step(tmp_path, replicas, spe):
    """That of an unwatched training that has no more steps, and so does what is saved."""
    path = tmp_path / "at-{step}-{rule}.keras"
    do = [actions.checkpoint(path), actions.stop()]
    model, _ = small_model(strategy_over(replicas), spe=spe)
    watch = dw.Watch(tmp_path / "run.zarr", rules=actions.on(ten_steps, do=do), **OFTEN)
    history = fit(model, X, Y, watch, epochs=50)
    run = dw.open_run(tmp_path / "run.zarr")
    steps = len(run)
    assert 10 <= steps < 20 and len(history.epoch) == 1
    assert [(each["what"], each["step"]) for each in run.changes] == [
        ("checkpoint", steps),
        ("stop", steps),
    ]
    unwatched, _ = small_model(strategy_over(replicas), spe=spe)
    fit(unwatched, X[: 16 * steps], Y[: 16 * steps])
    assert same_weights(model, unwatched)
    assert same_state(model.optimizer, unwatched.optimizer)
    saved = keras.saving.load_model(tmp_path / f"at-{steps}-ten_steps.keras")
    assert same_weights(saved, model)
    assert same_state(saved.optimizer, model.optimizer)


def same_state(a, b):
    """Whether two optimizers keep the same, bit by bit."""
    pairs = zip(a.variables, b.variables, strict=True)
    return all(x.numpy().tobytes() == y.numpy().tobytes() for x, y in pairs)


@pytest.mark.slow
def test_a_training_with_failing_actions_is_the_one_without(tmp_path, briefly):
    """Its weights, and its run, which says what failed."""
    hang = threading.Event()
    (tmp_path / "file").touch()

    def broken(run):
        """A rule with a mistake in it."""
        return run.nothing

    def post(finding):
        raise OSError("no such host")

    do = [
        actions.call(post),
        actions.call(lambda finding: hang.wait(20)),
        actions.checkpoint(tmp_path / "file" / "a.weights.h5"),
    ]
    rules = [broken, actions.on(ten_steps, do=do)]
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr", rules=rules, **OFTEN)
    with pytest.warns(ActionFailedWarning) as said:
        fit(model, X, Y, watch)
    hang.set()
    run = dw.open_run(tmp_path / "run.zarr")
    failed = [each["why"] for each in run.changes if each["what"] == "failed"]
    assert [str(each.message) for each in said] == [
        f"{each}. The training and its record go on." for each in failed
    ]
    for part in ("the rule broken", "call(post) raised OSError: no such", "call(<lambda>) has",
                 "checkpoint("):  # fmt: skip
        assert sum(part in each for each in failed) == 1, part
    assert len(run) == 20 and run.ended == "closed"
    unwatched, _ = small_model(strategy_over(1))
    fit(unwatched, X, Y)
    assert same_weights(model, unwatched)


@pytest.mark.slow
def test_what_was_found_before_an_error_is_acted_on(tmp_path):
    """The rows that no drain had brought yet are judged, too."""

    class Raise(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 12:
                raise KeyError("mine")

    path = tmp_path / "found.jsonl"
    x = X.copy()
    x[16 * 10] = np.nan
    model, _ = small_model(strategy_over(1))
    rules = [{"rule": "NonFinite", "do": {"log_json": str(path)}}]
    watch = dw.Watch(tmp_path / "run.zarr", rules=rules)
    with pytest.raises(KeyError, match="mine"):
        fit(model, x, Y, watch, Raise())
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["rule"], line["first_step"], line["steps"]) == ("NonFinite", 10, 13)
    assert dw.open_run(tmp_path / "run.zarr").changes[0]["what"] == "log_json"


@pytest.mark.slow
def test_a_rule_of_ones_own_is_in_the_summary(tmp_path, capsys):
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr", rules=[ten_steps], signals=[dw.loss()])
    model.fit(X, Y, batch_size=16, verbose=2, callbacks=[watch])
    assert "\nTen steps.\n" in capsys.readouterr().out
    run = dw.open_run(tmp_path / "run.zarr")
    assert "ten" in [each.kind for each in run.findings(rules=[ten_steps])]
    assert "ten" not in [each.kind for each in run.findings()]


@pytest.mark.usefixtures("always")
def test_a_loop_is_told_to_stop(tmp_path):
    model, _ = small_model(strategy_over(1))
    how = {**OFTEN, "signals": [dw.activations()]}
    how["rules"] = [actions.on(ten_steps, do=actions.stop())]
    with dw.watching(model, model.optimizer, tmp_path / "run.zarr", **how) as watch:

        @tf.function
        @watch.wrap
        def step(x):
            model(x)

        done = 0
        while not watch.stop_training and done < 500:
            step(X[:16] + done)
            watch.after_step()
            done += 1
    assert 10 <= done < 500
    assert len(dw.open_run(tmp_path / "run.zarr")) == done


def test_a_loop_saves_its_models_itself(tmp_path):
    rules = actions.on("NonFinite", do=actions.checkpoint("a.keras"))
    with pytest.raises(ConfigError, match="saves its models itself"):
        dw.watching(small_model(strategy_over(1))[0], None, tmp_path / "run.zarr", rules=rules)


def test_several_workers_save_nothing(tmp_path, monkeypatch):
    several = dataclasses.replace(strategies.facts_of(strategy_over(1)), workers=2)
    monkeypatch.setattr(strategies, "facts_of", lambda strategy: several)
    config = dw.Watch(tmp_path / "run.zarr", rules=actions.on("Desync", do=SAVING)).config
    with pytest.raises(ConfigError, match="rules with checkpoint on several workers"):
        Session(config, strategy_over(1), steps_per_execution=1, iterations=lambda: 0).begin()


def test_a_function_that_is_not_there_is_refused_before_the_first_step(tmp_path):
    model, _ = small_model(strategy_over(1))
    before = [each.copy() for each in model.get_weights()]
    watch = dw.Watch(tmp_path / "run.zarr", rules=[{"do": {"call": "none_such.py:post"}}])
    with pytest.raises(ConfigError, match=r"none_such\.py:post' cannot be imported"):
        fit(model, X, Y, watch)
    assert all(map(np.array_equal, before, model.get_weights()))
    assert not (tmp_path / "run.zarr").exists()
