"""Signals are turned off, on and to another cadence while a training runs."""

import dataclasses
import functools
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import Ear, fit, same_weights, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import ConfigError, DistwatchWarning
from distwatch.records import RunInfo
from distwatch.signals import Adjustable
from distwatch.signals.schedules import at, every, first
from distwatch.store import Requests, ask, claim_new, location_of, request
from distwatch.store.requests import NAME
from distwatch.store.schema import root_attributes
from distwatch.training import strategies
from distwatch.training.session import Session


class Doing(keras.callbacks.Callback):
    """Does something after the batches of these numbers."""

    def __init__(self, actions):
        super().__init__()
        self.actions = actions

    def on_train_batch_end(self, batch, logs=None):
        if batch in self.actions:
            self.actions[batch]()


def train(path, actions=None, *, replicas=1, spe=1, batches=60, **options):
    """Two groups of signals: the first layer's, and those of the others."""
    x, y = unlike_rows(8 * batches)
    model, _ = small_model(strategy_over(replicas), ears=True, spe=spe)
    signals = [dw.activations("dense_0"), dw.activations("dense_[12]", every=1)]
    watch = dw.Watch(path, signals=signals, window=4, drain_every=None, **options)
    steps = {} if actions is None else actions(watch)
    # Before the Watch, which so takes up what is asked for after the same batch.
    fit(model, x, y, Doing(steps), watch, batch=8)
    return model, watch


def steps_of(run, name):
    return run[name].merged("l2").step.values.tolist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training in which nothing is changed."""
    path = tmp_path_factory.mktemp("whole") / "run.zarr"
    return train(path, replicas=2)[0], dw.open_run(path)


def test_off_on_and_to_another_cadence(tmp_path, whole, monkeypatch):
    calls, traced = [], []
    monkeypatch.setattr(Ear, "call", _counted(Ear.call, calls))

    def actions(watch):
        return {
            0: lambda: traced.append(len(calls)),
            9: lambda: watch.set("dense_[12]", every=4),
            20: lambda: watch.set(["activation/dense_1", "re:dense_2"], every=None),
            29: lambda: watch.set("dense_0", every=10),
            39: lambda: watch.set("dense_[12]", every="on"),
            49: lambda: watch.set("dense_0", every="off"),
        }

    model, watch = train(tmp_path / "run.zarr", actions, replicas=2)
    run = dw.open_run(tmp_path / "run.zarr")
    later = [*range(10), 12, 16, 20, *range(40, 60)]
    assert steps_of(run, "activation/dense_1") == later
    assert steps_of(run, "activation/dense_0") == [*range(30), 30, 40]
    # Nothing was traced once more, and nothing learned otherwise.
    assert traced == [len(calls)]
    assert same_weights(model, whole[0])
    # Each row is that of the same step there, on each replica; the first one after a pause
    # has nothing to be measured against.
    seen, there = (each["activation/dense_1"].per_replica("l2") for each in (run, whole[1]))
    known = [step for step in later if step != 40]
    pairs = [each.sel(step=known).values for each in (seen, there)]
    assert np.array_equal(*pairs, equal_nan=True)
    assert np.isnan(seen.sel(step=40).values).all()
    # What was left out is declared, and is not lost.
    assert watch.status.lost == 0
    assert [(c["step"], c["schedule"], c["by"]) for c in run.changes] == [
        (10, "every(4)", "call"), (21, "off", "call"), (30, "every(10)", "call"),
        (40, "every(1)", "call"), (50, "off", "call"),
    ]  # fmt: skip
    assert run.changes[0]["signals"] == ["activation/dense_1", "activation/dense_2"]
    assert "steps lost" not in run.summary()


def _counted(call, calls):
    def counted(self, *args, **kwargs):
        calls.append(1)
        return call(self, *args, **kwargs)

    return counted


@pytest.mark.slow
def test_executions_of_many_steps_follow_between_two_of_them(tmp_path):
    def actions(watch):
        return {
            19: lambda: watch.set("dense_0", every=7),
            29: lambda: watch.set("dense_0", every="on"),
            # What was possible before is declared, too.
            39: lambda: setattr(watch.schedule, "k", 4),
        }

    train(tmp_path / "run.zarr", actions, spe=10)
    run = dw.open_run(tmp_path / "run.zarr")
    steps = [*range(20), 21, 28, *range(30, 40), *range(40, 60, 4)]
    assert steps_of(run, "activation/dense_0") == steps
    assert [(each["step"], each["schedule"]) for each in run.changes] == [
        (20, "every(7)"), (30, "every(1)"), (40, "every(4)"),
    ]  # fmt: skip


def test_a_file_in_the_run_tells_a_training(tmp_path):
    path = tmp_path / "run.zarr"

    def told(text):
        with (path / NAME).open("a") as file:
            file.write(text)
        time.sleep(0.05)

    def actions(watch):
        return {
            9: lambda: told('{"signals": "dense_[12]", "every": "off"}\n'),
            19: lambda: told('no JSON\n{"signals": "loss"}\n{"signals": "x", "every": 0}\n'),
            29: lambda: told('{"signals": "dense_1", "every": 3}\n{"signals": "n*", "ev'),
            39: lambda: told('ery": 2}\n{"signals": ["re:.*dense_[12]"], "every": "on"}'),
        }

    _, watch = train(path, actions, batches=80)
    assert watch.status.error is None
    changes = dw.open_run(path).changes
    assert [(each["what"], each["by"]) for each in changes] == [
        ("set", "file"), *[("refused", "file")] * 5, ("set", "file"),
    ]  # fmt: skip
    reasons = [each["why"] for each in changes if each["what"] == "refused"]
    assert reasons[0].startswith("'no JSON' is no request: name signals by a pattern")
    assert "'dense_1' matches some of the signals" in reasons[3]
    assert "every(1), and not activation/dense_2; they can only" in reasons[3]
    assert "'n*' matches no signal" in reasons[4]
    off, on = changes[0]["step"], changes[-1]["step"]
    steps = steps_of(dw.open_run(path), "activation/dense_1")
    assert steps == [*range(off), *range(on, 80)]
    assert 10 <= off <= 20


def test_a_later_start_does_not_do_what_an_earlier_one_was_asked(tmp_path):
    location = location_of(tmp_path)
    ask(location, request(signals="a", every=2))
    resumed, new = Requests(location, skip=True), Requests(location)
    assert [each.signals for each in new.read()] == [("a",)]
    ask(location, request(signals=["b", "re:c"], every=None))
    for requests in (resumed, new):
        (asked,) = requests.read()
        assert (asked.written, asked.every) == (("b", "re:c"), "off")
        assert requests.read() == []


@pytest.mark.parametrize("address", ["folder", "memory"])
def test_requests_of_several_processes_are_all_there(tmp_path, address):
    path = tmp_path if address == "folder" else "memory://requests.zarr"
    for k in range(1, 6):
        ask(location_of(path), request(signals="a", every=k))
    assert [each.every for each in Requests(location_of(path)).read()] == [1, 2, 3, 4, 5]


REFUSED = {
    1: ({"signals": "dense_1", "every": 2}, "they can only be changed together"),
    2: ({"signals": "nothing", "every": 2}, "matches no signal of the phase train"),
    3: ({"signals": "dense_0", "every": 0}, "every=0: name signals by a pattern"),
    4: ({"signals": "dense_0", "every": "often"}, "every='often': name signals"),
    5: ({"signals": None, "every": 2}, "signals=None"),
    6: ({"signals": 5, "every": 2}, "signals=5: name signals"),
}


@pytest.mark.slow
def test_what_is_refused_is_warned_of_and_changes_nothing(tmp_path):
    warned = []

    def actions(watch):
        def ask_for(wanted):
            with pytest.warns(DistwatchWarning) as caught:
                watch.set(**wanted)
            warned.extend(str(each.message) for each in caught)

        return {k: functools.partial(ask_for, wanted) for k, (wanted, _) in REFUSED.items()}

    _, watch = train(tmp_path / "run.zarr", actions, batches=10)
    assert watch.status.error is None
    for message, (_, said) in zip(warned, REFUSED.values(), strict=True):
        assert message.startswith("nothing is changed: ")
        assert said in message
    run = dw.open_run(tmp_path / "run.zarr")
    assert steps_of(run, "activation/dense_0") == [*range(10)]
    assert run.changes == []


def test_before_and_after_a_training_there_is_nothing_to_change(tmp_path):
    watch = dw.Watch(tmp_path / "run.zarr")
    with pytest.raises(ConfigError, match=r"watch\.set changes a training that runs"):
        watch.set("dense_*", every=2)


@pytest.mark.slow
def test_a_validation_that_begins_later_follows_too(tmp_path):
    x, y = unlike_rows(64)
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr", signals="dense_*", phases=["train", "test"])
    fit(
        model, x, y, Doing({1: lambda: watch.set("dense_*", every=3)}), watch,
        batch=8, validation_data=(x, y), validation_batch_size=8,
    )  # fmt: skip
    runs = [dw.open_run(tmp_path / "run.zarr", phase=phase) for phase in ("train", "test")]
    assert steps_of(runs[0], "activation/dense_0") == [0, 1, 3, 6]
    # It takes effect between two executions, and so after the first one of the phase.
    assert steps_of(runs[1], "activation/dense_0") == [0, 3, 6]
    assert [len(run.changes) for run in runs] == [1, 1]


def test_a_loop_of_its_own(tmp_path):
    strategy = strategy_over(1)
    model, _ = small_model(strategy)
    x, y = unlike_rows(96)
    with dw.watching(
        model, model.optimizer, tmp_path / "run.zarr", strategy=strategy, signals="dense_*"
    ) as watch:

        @watch.wrap
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model.compute_loss(y=y, y_pred=model(x, training=True)))
            weights = model.trainable_variables
            model.optimizer.apply(tape.gradient(loss, weights), weights)

        run_step = tf.function(lambda x, y: strategy.run(step, args=(x, y)))
        for batch in range(12):
            run_step(x[:8] * (1 + batch), y[:8])
            if batch == 5:
                watch.set("activation/*", every=4)
            watch.after_step()
    run = dw.open_run(tmp_path / "run.zarr")
    assert steps_of(run, "activation/dense_0") == [*range(6), 8]


def test_several_workers_are_refused(tmp_path, monkeypatch):
    several = dataclasses.replace(strategies.facts_of(strategy_over(1)), workers=2)
    monkeypatch.setattr(strategies, "facts_of", lambda strategy: several)
    config = dw.Watch(tmp_path / "run.zarr", max_overhead=0.05).config
    with pytest.raises(ConfigError, match="max_overhead on several workers"):
        Session(config, strategy_over(1), steps_per_execution=1, iterations=lambda: 0).begin()


CHOSEN = [every(1), every(3), first(5), at(2, 7, 30)]


@pytest.mark.parametrize("chosen", CHOSEN, ids=str)
def test_every_kind_of_schedule_can_be_adjusted(chosen):
    def looks(schedule):
        return [step for step in range(40) if schedule(step)]

    schedule = Adjustable(chosen)
    as_chosen = [step for step in range(40) if chosen(step)]
    assert looks(schedule) == as_chosen
    schedule.is_on = False
    assert looks(schedule) == []
    assert schedule.now == "off"
    schedule.is_on, schedule.every = True, 6
    assert looks(schedule) == [*range(0, 40, 6)]
    schedule.widening = 2
    assert looks(schedule) == [*range(0, 40, 12)]
    assert schedule.now == "every(12)"
    schedule.every, schedule.widening = None, 1
    assert looks(schedule) == as_chosen
    assert len(schedule.parameters) == len(Adjustable(chosen).parameters)


def test_a_run_without_rows_leaves_no_requests_behind(tmp_path):
    path = tmp_path / "run.zarr"
    info = RunInfo((), (0,), "none", {})
    claimed = claim_new(path, root_attributes(info, "2026-01-01T00:00:00+00:00", "a"))
    ask(location_of(path), request(signals="a", every=2))
    claimed.release(undo=True)
    assert not path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("spe", [1, 7])
def test_a_budget_widens_what_is_dear_and_declares_it(tmp_path, spe):
    """How far depends on the machine, not that the rows are those that are declared."""
    x, y = unlike_rows(8 * 2800)
    plain, _ = small_model(strategy_over(1), spe=spe)
    fit(plain, x, y, batch=8)
    model, _ = small_model(strategy_over(1), spe=spe)
    dear = dw.activations("dense_*", statistics=[dw.histogram()])
    watch = dw.Watch(tmp_path / "run.zarr", signals=[dear, dw.loss()], max_overhead=0.01)
    fit(model, x, y, watch, batch=8)

    run = dw.open_run(tmp_path / "run.zarr")
    assert (watch.status.error, watch.status.lost, run.lost) == (None, 0, 0)
    assert same_weights(plain, model)
    assert "widened" in [each["what"] for each in run.changes]
    for name in ("activation/dense_0", "loss"):
        declared, measuring = looked_at(run, name, 2800)
        steps = set(steps_of(run, name))
        assert {step for step in steps if step not in measuring} == declared - measuring
    assert len(steps_of(run, "activation/dense_0")) < 2800


def looked_at(run, name, steps):
    """The steps at which a run says that a signal is looked at, and those of measurements."""
    about = [each for each in run.changes if name in each["signals"]]
    k, declared, measuring = 1, set(), set()
    for step in range(steps):
        for each in about:
            if each["schedule"] and each["step"] == step:
                k = int(each["schedule"].removeprefix("every(").removesuffix(")"))
        if step % k == 0:
            declared.add(step)
    ends = {each["step"]: each["until"] for each in about if each["what"] == "measured"}
    for each in about:
        if each["what"] == "measuring":
            measuring |= {*range(each["step"], ends.get(each["step"], steps))}
    return declared, measuring
