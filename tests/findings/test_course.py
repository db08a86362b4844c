"""Rules about a training as a whole: its parts, its data, its loss."""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_runs import run_of, table_of
from made_trainings import (
    AT_REST,
    BINARY,
    CLASSES,
    FAULTY,
    RANDOM,
    REGRESSION,
    SOUND,
    STEPS,
    card_of,
    falling,
    findings_of,
    made_training,
    one_of,
    probabilities,
    warned,
)

from distwatch.findings import RULES, Digest
from distwatch.records import Layer


@pytest.mark.parametrize("name", SOUND)
def test_what_learns_is_not_warned_of(name):
    card, loss, data = SOUND[name]
    found = findings_of(card, loss, **data)
    assert warned(found) == {}
    assert all(each.faults == () for each in found)


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_told_by_its_rule(name):
    card, loss, data, rule, fault, words = FAULTY[name]
    found = warned(findings_of(card, loss, **data))
    assert rule in found
    assert fault in found[rule].faults and words in found[rule].text
    named = {fault for each in found.values() for fault in each.faults}
    assert len(named) <= 4


@pytest.mark.parametrize(
    "known",
    [{"own_loss": True}, {"loss": None}, {"loss": "mean_squared_error"},
     {"loss": "binary_crossentropy"}, {"phase": "test"}],
    ids=str,
)  # fmt: skip
def test_targets_need_not_vary_where_that_may_be_meant(known):
    """Such as a residual that is to be 0, what a GAN's generator is to reach, or a set of
    examples of one class."""
    phase = known.get("phase", "train")
    of_card = {key: value for key, value in known.items() if key != "phase"}
    card = card_of(*CLASSES, **{"loss": "categorical_crossentropy", **of_card})
    data = {"targets": 0 * BINARY, "said": probabilities(4), "phase": phase}
    assert warned(findings_of(card, falling(2.0, 0.1), **data)) == {}


BASE = Layer("base", "Dense", "relu", 8, "GlorotUniform", False, fresh=True)


@pytest.mark.parametrize(
    ("deep", "end", "named"),
    [
        (replace(BASE, path="deep"), 0.3, "layers base and 1 more are"),
        (replace(BASE, path="deep", fresh=None), 0.3, "layer base is"),
        # It was trained before.
        (replace(BASE, path="deep", fresh=False), 0.3, None),
        # Random layers that do.
        (replace(BASE, path="deep"), 0.05, None),
    ],
)
def test_frozen_layers_that_were_never_trained_are_a_note(deep, end, named):
    found = findings_of(card_of(BASE, deep, REGRESSION[-1]), falling(2.0, end))
    told = [each for each in found if each.rule == "FreshAndFrozen"]
    assert bool(told) == bool(named) and warned(found) == {}
    assert not told or (f"The {named} not trained" in told[0].text and not told[0].faults)


def test_inputs_that_are_not_scaled_are_why_a_loss_begins_high():
    card = card_of(*CLASSES, loss="categorical_crossentropy")
    data = {"targets": one_of(4), "said": probabilities(4)}
    (found,) = warned(findings_of(card, 9 * AT_REST, **data)).values()
    assert "initialisation" in found.faults
    (found,) = warned(findings_of(card, 9 * AT_REST, inputs=(0, 255), **data)).values()
    assert found.faults[0] == "missing_normalisation"
    assert "initialisation" not in found.faults


@pytest.mark.parametrize(("rate", "severity"), [(0.001, "note"), (0.5, "warning")])
def test_dead_units_of_a_training_that_works_matter_where_the_rate_is_far_too_high(
    rate, severity
):
    units = np.broadcast_to(np.array([8.0, 5.0, 5.0]), (STEPS, 2, 1, 3))
    hidden = np.random.default_rng(9).normal(size=(STEPS, 2, 16, 1))
    info, blocks = made_training(card_of(*REGRESSION, rate=rate), falling(2.0, 0.1))
    info, added = run_of(
        *[(table, block) for table, block in zip(info.tables, blocks, strict=True)],
        table_of(4, hidden, {"activation/hidden": "none"}, units=units),
        card=info.card,
    )
    digest = Digest(info)
    for block in added:
        digest.observe(block)
    (dead,) = [each for each in digest.findings() if each.rule == "DeadUnits"]
    assert dead.severity == severity
    assert "5 of 8 units of activation/hidden were zero" in dead.text
    if severity == "note":
        assert dead.text.endswith("the training works all the same.")
        assert dead.faults == ()
    else:
        assert dead.faults == ("dead_relu", "learning_rate_too_high")
        assert dead.text.endswith("Lower the learning rate.")


def test_parts_that_do_not_fit_explain_that_nothing_is_learnt():
    card, _, data, rule, *_ = FAULTY["targets beyond a sigmoid"]
    found = warned(findings_of(card, 5 * AT_REST, **data))
    assert list(found) == [rule]
    assert "worse than the" in found[rule].text
    assert [each.rule for each in found[rule].follows] == ["NotLearning"]


def test_what_still_falls_is_not_thrown_about():
    falls = np.linspace(9.0, 3.0, STEPS)
    found = warned(findings_of(card_of(*REGRESSION), falls, said=RANDOM))["NotLearning"]
    assert "throw the weights about" not in found.text
    assert found.faults == ("too_few_epochs", "learning_rate_too_low")


def test_single_examples_learnt_by_heart_at_the_end_are_no_learning():
    """Targets that belong to other inputs: the loss falls late, and by little."""
    card = card_of(*REGRESSION)
    by_heart = np.concatenate([np.full(STEPS, 1.0), np.linspace(1.0, 0.96, STEPS)])
    soon = np.concatenate([np.linspace(1.2, 0.96, STEPS // 2), np.full(2 * STEPS, 0.96)])
    found = warned(findings_of(card, by_heart, said=RANDOM))
    assert "wrong_labels_or_encoding" in found["NotLearning"].faults
    # What a problem that is hard allows is learnt early; and a shorter run may yet learn.
    assert warned(findings_of(card, soon, said=RANDOM)) == {}
    assert warned(findings_of(card, by_heart[::2], said=RANDOM)) == {}


def test_of_a_short_run_nothing_is_concluded():
    card, loss, data, *_ = FAULTY["inputs that are not scaled"]
    info, blocks = run_of(table_of(0, np.full((20, 2, 1, 1), 1.0), {"loss": "none"}), card=card)
    digest = Digest(info)
    for block in blocks:
        digest.observe(block)
    assert warned(digest.findings()) == {}
    assert "NotLearning" in warned(findings_of(card, loss, **data))


def test_of_an_evaluation_it_is_not_said_that_nothing_is_learnt():
    card, _, data, *_ = FAULTY["inputs that are not scaled"]
    assert "NotLearning" in warned(findings_of(card, AT_REST, **data))
    assert warned(findings_of(card, AT_REST, phase="test", **data)) == {}


def test_of_a_loss_that_ends_in_nan_it_is_not_said_where_it_ends():
    loss = np.full(STEPS, 1.1)  # No better than a constant.
    assert "NotLearning" in warned(findings_of(card_of(*REGRESSION), loss))
    loss[20:] = np.nan
    found = warned(findings_of(card_of(*REGRESSION), loss))
    assert "NonFinite" in found
    assert not any("ends at" in each.text for each in found.values())


def test_with_dropout_a_loss_that_falls_is_not_judged():
    card, _, data, *_ = FAULTY["inputs that are not scaled"]
    dropping = card_of(Layer("dropout", "Dropout"), *card.layers)
    falls = falling(1.6, 1.01)
    assert "NotLearning" in warned(findings_of(card, falls, **data))
    assert warned(findings_of(dropping, falls, **data)) == {}
    assert "NotLearning" in warned(findings_of(dropping, AT_REST, **data))


def test_a_layer_that_normalises_may_have_any_inputs():
    card, loss, data, *_ = FAULTY["inputs that are not scaled"]
    first = Layer("scale", "Rescaling")
    found = warned(findings_of(card_of(first, *card.layers), loss, **data))
    assert "missing_normalisation" not in found["NotLearning"].faults


def test_further_terms_of_the_loss_are_not_compared_with_a_constants():
    card, loss, data, *_ = FAULTY["inputs that are not scaled"]
    weighted = card_of(*card.layers, further_terms=True)
    assert "NotLearning" not in warned(findings_of(weighted, loss, **data))


def test_why_a_training_ended_in_nan():
    card = card_of(*REGRESSION, optimizer="SGD", rate=0.01)
    loss = np.where(np.arange(STEPS) < 9, 1e30, np.nan)
    found = warned(findings_of(card, loss, inputs=(0, 3000), said=RANDOM))
    assert set(found["NonFinite"].faults) == {"exploding", "missing_normalisation"}
    assert "Scale the inputs" in found["NonFinite"].advice


def test_nan_in_the_data_is_told_as_that():
    card, _, data = SOUND["regression"]
    targets = RANDOM.copy()
    targets[40:] = np.nan
    loss = np.where(np.arange(STEPS) < 40, 1.0, np.nan)
    found = warned(findings_of(card, loss, targets=targets, said=RANDOM, **data))
    assert found["NonFinite"].signal == "data/target"
    assert found["NonFinite"].faults == ("other",)
    assert "look at what the model is given" in found["NonFinite"].advice


@pytest.mark.parametrize("scaled", [False, True])
def test_of_what_nothing_is_learnt_dead_layers_are_told(scaled):
    """As a part of it; as the reason, where there is no other."""
    card, *_ = FAULTY["inputs that are not scaled"]
    hidden = np.zeros((STEPS, 2, 16, 1))
    units = np.broadcast_to(np.array([8.0, 8.0, 8.0]), (STEPS, 2, 1, 3))
    loss = np.full((STEPS, 2, 1, 1), 1.02)
    given = np.random.default_rng(8).uniform(0, 2 if scaled else 255, (STEPS, 2, 16, 1))
    targets = RANDOM[..., None]
    info, blocks = run_of(
        table_of(0, hidden, {"activation/hidden": "none"}, units=units),
        table_of(1, loss, {"loss": "none"}),
        table_of(2, given, {"data/input": "none"}),
        table_of(3, targets, {"data/target": "none"}),
        table_of(4, targets, {"data/prediction": "none"}),
        card=card,
    )
    digest = Digest(info)
    for block in blocks:
        digest.observe(block)
    found = warned(digest.findings())
    (rule, finding) = next(iter(found.items()))
    assert len(found) == 1
    assert "8 of 8 units of activation/hidden were zero" in finding.text
    assert "no better than" in finding.text
    if scaled:
        assert (rule, finding.faults) == ("DeadUnits", ("dead_relu",))
        assert "nothing passes through it any more" in finding.text
    else:
        assert rule == "NotLearning"
        assert set(finding.faults) == {"missing_normalisation", "dead_relu"}


def test_every_rule_says_what_it_looks_for():
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert all(rule.says.endswith(".") for rule in RULES)


def test_rules_of_the_users_own():
    card, loss, data = SOUND["regression"]

    def quiet(run):
        """Nothing ever."""
        return []

    info, blocks = run_of(table_of(0, loss[:, None, None, None], {"loss": "none"}), card=card)
    digest = Digest(info)
    for block in blocks:
        digest.observe(block)
    assert digest.findings(rules=[quiet]) == digest.findings()
    assert data == {}


def test_what_check_prints(call, tmp_path):
    from distwatch.testing.fake import write_fake

    card, loss, _, *_ = FAULTY["a learning rate that is too high"]
    rng = np.random.default_rng(7)
    values = {
        "loss": loss[:, None, None, None],
        "data/target": rng.normal(0, 1, (STEPS, 1, 16, 1)),
    }
    tables = [
        table_of(i, each, {name: "none"}) for i, (name, each) in enumerate(values.items())
    ]
    info, blocks = run_of(*tables, card=card)
    write_fake(tmp_path / "run.zarr", (info, blocks))
    code, out, _ = call("check", str(tmp_path / "run.zarr"), "--json")
    verdict = json.loads(out)
    (first, *_) = verdict["findings"]
    assert code == 1 and verdict["failed"]
    assert first["rule"] == "NotLearning" and "learning_rate_too_high" in first["faults"]
    code, out, _ = call("check", str(tmp_path / "run.zarr"), "--fail-on", "never")
    assert code == 0 and out.startswith("NotLearning, likely [learning_rate_too_high")
    code, _, err = call("check", str(tmp_path / "run.zarr"), "--rule", "NotLearnin")
    assert code == 1 and "NotLearning" in err
