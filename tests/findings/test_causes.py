"""A finding names where it began, and what follows from it is told with it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from made_runs import healthy, run_of, table_of

from distwatch.findings import NOTE, WARNING, Digest, Finding
from distwatch.findings.causes import folded
from distwatch.findings.reasons import UNRELATED
from distwatch.records import NO_GRADIENT, Origin

STEPS = 40


def findings_of(info, blocks, **known):
    digest = Digest(info)
    for block in blocks:
        digest.observe(block)
    return digest.findings(**known)


def only(findings, kind):
    return [each for each in findings if each.kind == kind]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(0.5, 1.0, shape)


#: Table -> (signal -> what else is known of it).
OF_A_STEP = {
    "weights": {"weight/b/kernel": {"order": 2}, "weight/a/kernel": {"order": 1}},
    "applied": {"gradient/a/kernel": {"order": 1}, "gradient/b/kernel": {"order": 2}},
    "local": {"gradient_local/a/kernel": {"order": 1}, "gradient_local/b/kernel": {"order": 2}},
    "loss": {"loss": {}},
    "activations": {
        "activation/output": {"order": 2},
        "activation/b": {"order": 2},
        "activation/a": {"order": 1},
    },
    "inputs": {"input": {}},
}
#: What has NaN at step 9, and what is first among it.
FIRSTS = [
    (["inputs", "activations", "loss", "local", "applied", "weights"], "input"),
    (["activations", "loss", "local", "applied", "weights"], "activation/a"),
    (["loss", "local", "applied", "weights"], "loss"),
    (["local", "applied", "weights"], "gradient_local/b/kernel"),
    (["applied", "weights"], "gradient/b/kernel"),
    (["weights"], "weight/b/kernel"),
]


def broken_step(broken, order, replicas=3, on=(1,)):
    """NaN at step 9 on some replicas; weights and applied gradients exist once."""
    tables = []
    for number, name in enumerate(order):
        signals = OF_A_STEP[name]
        values = noise(STEPS, replicas, 6, len(signals), seed=number)
        if name in ("applied", "weights"):
            # Equal copies, of which gradients keep the first one only.
            values[:] = values[:, :1]
        if name in broken:
            once = name in ("applied", "weights")
            values[9:, slice(None) if once else list(on)] = np.nan
        known = {key: {"copied": name == "weights", **how} for key, how in signals.items()}
        table, block = table_of(number, values, dict.fromkeys(signals, "none"), known=known)
        if name == "applied":
            block.rows[:, 1:] = 0.0
        tables.append((table, block))
    return run_of(*tables)


@pytest.mark.parametrize("order", list(itertools.permutations(OF_A_STEP))[::71])
@pytest.mark.parametrize(("broken", "first"), FIRSTS)
def test_the_first_nan_is_the_cause_in_whatever_order_signals_are_given(broken, first, order):
    (found,) = only(findings_of(*broken_step(broken, order)), "not_finite")
    assert (found.signal, found.step) == (first, 9)
    exists_once = first.startswith(("gradient/", "weight/"))
    assert found.replica == (None if exists_once else 1)
    assert ("on replica 1, in" in found.text) is not exists_once
    assert len(found.others) + 1 == sum(len(OF_A_STEP[name]) for name in broken)


@pytest.mark.parametrize(
    ("on", "words"),
    [([0, 2], "on replicas 0 and 2, in loss"), ([0, 1, 2], "on all 3 replicas, in loss")],
)
def test_of_several_replicas_none_is_named_alone(on, words):
    (found,) = only(findings_of(*broken_step(["loss"], OF_A_STEP, on=on)), "not_finite")
    assert found.replica is None
    assert words in found.text


def test_what_each_replica_keeps_for_itself_has_a_replica():
    values = noise(STEPS, 3, 6, 1)
    values[7:, 2] = np.nan
    table = table_of(0, values, {"weight/bn/moving_mean": "none"}, known={
        "weight/bn/moving_mean": {"copied": False}})  # fmt: skip
    (found,) = only(findings_of(*run_of(table)), "not_finite")
    assert (found.step, found.replica) == (7, 2)


def test_the_signal_itself_counts_where_that_is_known():
    """A change has NaN of the step before in it, and the first one nothing at all."""
    values = noise(STEPS, 2, 6, 1)
    values[0] = np.nan
    values[6, 1] = np.nan
    special = np.zeros((STEPS, 2, 1))
    special[5, 1] = 2.0
    run = run_of(table_of(0, values, {"activation/a": "previous"}, special=special))
    (found,) = only(findings_of(*run), "not_finite")
    assert (found.step, found.replica) == (5, 1)
    assert "1 step, most recently at step 5" in found.text


def test_a_change_that_is_broken_by_its_reference_alone():
    values = noise(STEPS, 2, 6, 1)
    values[20, 0, 0] = np.inf
    run = run_of(
        table_of(0, values, {"activation/a": "previous"}, special=np.zeros((STEPS, 2)))
    )
    found = findings_of(*run)
    (told,) = only(found, "not_finite")
    assert "activation/a itself has none there" in told.text
    assert told.step == 20
    assert not any("No NaN" in each.text for each in found)


@pytest.mark.parametrize("known", [False, True])
def test_no_all_clear_is_given_where_nothing_was_seen(known):
    """Of the first batch there is no change; an older store does not count its NaN."""
    values = noise(STEPS, 2, 6, 1)
    special = np.full((STEPS, 2), 0.0 if known else np.nan)
    table, block = table_of(0, values, {"activation/a": "previous"}, special=special)
    block.rows[0, ..., :11] = block.merged[0, ..., :11] = 0.0
    (sound,) = only(findings_of(*run_of((table, block))), "sound")
    assert sound.text.startswith(
        "No NaN and no Inf in what is recorded."
        if known
        else "No NaN and no Inf in the changes that were measured"
    )


def test_what_follows_from_nan_is_told_with_it():
    def plant(made):
        made["gradients"][60:, :, 0, 1] = np.nan
        made["gradients"][61:, ..., 0] = 0.0
        made["activations"][61:, ..., 0] = 0.0
        made["updates"][61:, ..., 0] = 0.0

    found = findings_of(*healthy(plant=plant))
    (warning,) = [each for each in found if each.severity == WARNING]
    assert warning.kind == "not_finite"
    assert {each.kind for each in warning.follows} == {"dead", "no_gradient", "update_ratio"}
    for each in warning.follows:
        assert each.brief in warning.text
    assert "gradient_local/hidden was exactly zero from step 61 on" in warning.text
    assert "learning rate" not in warning.text


def test_what_was_there_before_does_not_follow():
    def plant(made):
        made["gradients"][50, :, :, 0] *= 300
        made["gradients"][60:, :, 0, 1] = np.nan

    found = findings_of(*healthy(plant=plant))
    assert only(found, "not_finite")[0].follows == ()
    assert [each.step for each in only(found, "spike")] == [50]


def test_what_follows_from_nan_and_is_older_says_by_when_they_began():
    """As where NaN are in data that only every tenth step looks at."""
    nan = Finding("not_finite", WARNING, "NaN first appeared at step 60.", step=60)
    learning = Finding("not_learning", WARNING, "It does not learn.", brief="it does not learn")
    dead = Finding("dead", WARNING, "Units are zero.", step=5, brief="units are zero")
    (told,) = folded([nan, learning, dead])
    assert told.text.endswith("units are zero; so they may have begun by step 5.")
    (told,) = folded([nan, learning, replace(dead, step=60)])
    assert "begun" not in told.text


def test_different_data_explain_what_differs():
    def plant(made):
        made["inputs"][:, 2] += 3.0
        made["gradients"][:, 2] += 1.0

    (warning,) = [e for e in findings_of(*healthy(plant=plant)) if e.severity == WARNING]
    assert (warning.kind, warning.replica) == ("skewed_inputs", 2)
    assert [each.kind for each in warning.follows] == ["odd_replica"]


def overflowing(at, *, skipped=True, iteration=None, steps=80):
    """Gradients that overflow at some steps, which the optimizer takes or skips."""
    values = noise(steps, 1, 6, 1)
    values[at] = np.inf
    taken = np.ones(steps, int)
    taken[at] = 0 if skipped else 1
    count = np.cumsum(taken) if iteration is None else iteration
    table = table_of(0, values, {"gradient_local/a/kernel": "none"}, iteration=count)
    weights = table_of(1, noise(steps, 1, 6, 1), {"weight/a/kernel": "none"}, iteration=count)
    return run_of(table, weights, origin=Origin(0, 0, 0))


def test_overflows_that_a_loss_scale_skips_are_no_fault():
    found = findings_of(*overflowing([0, 1, 50]))
    assert not [each for each in found if each.severity == WARNING]
    (note,) = only(found, "overflow_skipped")
    assert (note.step, note.severity) == (0, NOTE)
    assert "at 3 steps, first at step 0" in note.text


@pytest.mark.parametrize("how", [{"skipped": False}, {"at": list(range(20, 80))}])
def test_overflows_that_are_taken_or_never_end_are_one(how):
    (found,) = only(findings_of(*overflowing(**{"at": [20], **how})), "not_finite")
    assert (found.step, found.signal) == (20, "gradient_local/a/kernel")


def drifting(replicas, odd, start, copied=True, by=1e-7):
    """A weight whose copy on some replica is another one from a step on."""
    values = np.repeat(noise(STEPS, 1, 9, 1), replicas, axis=1)
    values[start:, odd, 4] += by
    known = {"weight/a/kernel": {"copied": copied}}
    weights = table_of(0, values, {"weight/a/kernel": "none"}, known=known)
    return run_of(weights, table_of(1, noise(STEPS, replicas, 5, 1), {"loss": "none"}))


@pytest.mark.parametrize(("replicas", "odd", "named"), [(2, 1, None), (2, 0, None), (4, 2, 2)])
def test_copies_that_differ_by_anything_are_told(replicas, odd, named):
    (found,) = only(findings_of(*drifting(replicas, odd, 17)), "copies_differ")
    assert (found.severity, found.signal) == (WARNING, "weight/a/kernel")
    assert (found.step, found.replica) == (17, named)
    who = f"replica {named} and the others" if named else "replicas 0 and 1"
    assert f"on {who} differ from step 17 on" in found.text


@pytest.mark.parametrize("copied", [False, None])
def test_what_replicas_keep_for_themselves_may_differ(copied):
    """In older stores it is not known which weights are copies."""
    found = findings_of(*drifting(4, 1, 0, copied, by=50.0))
    assert not [each for each in found if each.severity == WARNING]


def test_variables_without_a_gradient_are_named():
    why = {"enc/kernel": NO_GRADIENT, "other": "made while the first step was traced"}
    info, blocks = run_of(table_of(0, noise(20, 1, 5, 1), {"loss": "none"}), unwatched=why)
    (found,) = only(findings_of(info, blocks), "without_gradient")
    assert (found.severity, found.signal, found.others) == (WARNING, "enc/kernel", ())
    assert only(findings_of(info, []), "without_gradient") == [found]


def test_of_a_run_that_was_not_closed_no_all_clear_is_given():
    run = run_of(table_of(0, noise(20, 1, 5, 1), {"loss": "none"}))
    found = findings_of(*run, ended=None)
    (note,) = only(found, "unclosed")
    assert (note.step, note.severity) == (19, NOTE)
    assert "no step after 19; later ones may be missing, and are not counted" in note.text
    assert only(found, "sound")[0].text == "No NaN and no Inf at the steps that are recorded."
    (ended,) = only(findings_of(*run, ended="OSError: no space"), "ended_by_error")
    assert (ended.severity, "OSError: no space" in ended.text) == (WARNING, True)


@pytest.mark.parametrize("every", [1, 5])
def test_steps_that_were_not_looked_at_are_not_cleared(every):
    run = run_of(table_of(0, noise(20, 1, 5, 1), {"loss": "none"}, every=every))
    (sound,) = only(findings_of(*run), "sound")
    where = "in what is recorded" if every == 1 else "at the steps that are recorded"
    assert sound.text.startswith(f"No NaN and no Inf {where}.")


@pytest.mark.parametrize("of", ["weight/a/kernel", "gradient/a/kernel", "update/a/kernel"])
def test_where_what_is_trained_is_watched_nothing_is_left_to_be_seen(of):
    """ReLU makes a 0 of NaN: without these they may be in the weights alone."""
    run = run_of(table_of(0, noise(20, 1, 5, 1), {of: "none"}))
    (sound,) = only(findings_of(*run), "sound")
    assert sound.text.startswith("No NaN and no Inf.")


@pytest.mark.parametrize("kind", ["desync", "canary", "skewed_inputs"])
def test_what_is_wrong_on_one_replica_explains_nothing_of_another(kind):
    def odd(replica):
        return Finding("odd_replica", WARNING, "odd", "activation/a", None, replica)

    cause = Finding(kind, WARNING, "cause", "x", None, 1)
    assert [each.kind for each in folded([cause, odd(1)])] == [kind]
    assert [each.kind for each in folded([cause, odd(3)])] == [kind, "odd_replica"]
    several = Finding(kind, WARNING, "cause", "x", None, None)
    assert [each.kind for each in folded([several, odd(3)])] == [kind]


def test_what_follows_from_what_is_explained_is_told_too():
    """A dead layer explains that nothing is learnt, and that explains further findings."""
    dead = Finding("dead", WARNING, "Dead.", "activation/a", 0, share=1.0,
                   faults=("dead_relu",), brief="dead")  # fmt: skip
    nothing = Finding("not_learning", WARNING, "Nothing.", "loss", brief="nothing",
                      faults=UNRELATED.faults)  # fmt: skip
    spike = Finding("spike", WARNING, "Spike.", "input", 90, brief="a spike")
    for order in itertools.permutations([dead, nothing, spike]):
        (found,) = folded(order)
        assert found.kind == "dead"
        assert {each.kind for each in found.follows} == {"not_learning", "spike"}
