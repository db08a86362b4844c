"""Rules about a training as a whole: its parts, its data, its loss."""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_runs import run_of, table_of

from distwatch.findings import RULES, WARNING, Digest
from distwatch.records import Card, Layer

STEPS = 128


def dense(path, units, activation="relu", **known):
    return Layer(path, "Dense", activation, units, "GlorotUniform", True, **known)


def card_of(*layers, loss="mean_squared_error", optimizer="Adam", rate=0.001, **known):
    return Card(layers, layers[-1].path, loss, optimizer=optimizer, learning_rate=rate, **known)


REGRESSION = (dense("hidden", 8), dense("out", 1, "linear"))
CLASSES = (dense("hidden", 8), dense("out", 4, "softmax"))


def falling(start, end, steps=STEPS):
    """A loss that falls fast at first and then comes to rest."""
    return end + (start - end) * np.exp(-np.arange(steps) / (steps / 12))


def made_training(card, loss, *, inputs=(-2, 2), targets=None, said=None, **known):
    """A made-up training on two replicas, with a loss for each step: its info and its blocks.

    Args:
        inputs: from where to where the inputs go.
        targets, said: arrays of (step, replica, element); normal numbers by default.
        known: what else is known of the run.
    """
    rng = np.random.default_rng(0)
    shape = (STEPS, 2, 16)
    given = rng.uniform(*inputs, shape)
    targets = rng.normal(0.3, 1.0, shape) if targets is None else targets
    said = 0.8 * targets if said is None else said
    noise = 1 + 0.02 * rng.standard_normal((len(loss), 2, 1, 1))
    losses = np.asarray(loss)[:, None, None, None] * noise
    names = ("data/input", "data/target", "data/prediction")
    tables = [table_of(0, losses, {"loss": "none"})]
    for number, (name, values) in enumerate(zip(names, (given, targets, said), strict=True), 1):
        tables.append(table_of(number, values[..., None], {name: "none"}))
    return run_of(*tables, card=card, **known)


def findings_of(card, loss, **how):
    """What is said of a `made_training`."""
    info, blocks = made_training(card, loss, **how)
    digest = Digest(info)
    for block in blocks:
        digest.observe(block)
    return digest.findings()


def warned(found):
    return {each.rule: each for each in found if each.severity == WARNING}


def one_of(classes, seed=1):
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, classes, (STEPS, 2, 16 // classes))
    return np.eye(classes)[chosen].reshape(STEPS, 2, -1)


def probabilities(classes, seed=2):
    said = np.random.default_rng(seed).uniform(0.01, 1, (STEPS, 2, 16 // classes, classes))
    return (said / said.sum(-1, keepdims=True)).reshape(STEPS, 2, -1)


BINARY = np.random.default_rng(3).integers(0, 2, (STEPS, 2, 16)).astype(float)
#: Trainings that learn, each of another task: (card, loss, data).
SOUND = {
    "regression": (card_of(*REGRESSION), falling(2.0, 0.1), {}),
    "classes": (
        card_of(*CLASSES, loss="categorical_crossentropy"),
        falling(1.4, 0.2),
        {"targets": one_of(4), "said": probabilities(4)},
    ),
    "two classes": (
        card_of(dense("out", 1, "sigmoid"), loss="binary_crossentropy"),
        falling(0.7, 0.1),
        {"targets": BINARY, "said": 0.1 + 0.8 * BINARY},
    ),
    "logits": (
        card_of(dense("out", 4, "linear"), loss="categorical_crossentropy", from_logits=True),
        falling(1.4, 0.2),
        {"targets": one_of(4), "said": 9 * probabilities(4) - 4},
    ),
    "large inputs that are learnt from": (
        card_of(*REGRESSION),
        falling(2.0, 0.1),
        {"inputs": (0, 255)},
    ),
    "a loss of the user's own": (
        card_of(*REGRESSION, loss="mine", own_loss=True),
        falling(2.0, 0.5),
        {},
    ),
    "first weights that a training has got over": (
        card_of(dense("hidden", 8, "sigmoid", spread=40.0), REGRESSION[-1]),
        falling(2.0, 0.05),
        {},
    ),
    "first weights that a training gets over": (
        card_of(dense("hidden", 8, "sigmoid", spread=40.0), REGRESSION[-1]),
        np.linspace(1.0, 0.55, STEPS),
        {},
    ),
    "wide first weights of what does not saturate": (
        card_of(dense("hidden", 8, "relu", spread=40.0), REGRESSION[-1]),
        falling(2.0, 0.3),
        {},
    ),
    "a softmax after another activation": (
        card_of(
            dense("out", 4, "relu"),
            Layer("said", "Softmax", "softmax", 4),
            loss="categorical_crossentropy",
        ),
        falling(1.4, 0.2),
        {"targets": one_of(4), "said": probabilities(4)},
    ),
    "a large first loss": (card_of(*REGRESSION), falling(900.0, 0.1), {}),
    "usual regularizers": (
        card_of(
            Layer("hidden", "Dense", "relu", 8, penalty=0.01),
            REGRESSION[-1],
            further_terms=True,
        ),
        falling(9.0, 0.6),
        {},
    ),
    "strong regularizers that matter little": (
        card_of(
            Layer("hidden", "Dense", "relu", 8, penalty=1.0), REGRESSION[-1], further_terms=True
        ),
        falling(9.0, 0.3),
        {},
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_learns_is_not_warned_of(name):
    card, loss, data = SOUND[name]
    found = findings_of(card, loss, **data)
    assert warned(found) == {}
    assert all(each.faults == () for each in found)


WHOLE = np.random.default_rng(4).integers(0, 4, (STEPS, 2, 16)).astype(float)
AT_REST = np.full(STEPS, 1.02)
RANDOM = np.random.default_rng(5).normal(0.3, 1, (STEPS, 2, 16))

#: (card, loss, data, rule, a fault that it names, words of the sentence)
FAULTY = {
    "a softmax over one unit": (
        card_of(dense("out", 1, "softmax"), loss="binary_crossentropy"),
        falling(0.7, 0.3), {"targets": BINARY, "said": np.ones_like(BINARY)},
        "LastActivation", "wrong_last_activation", "over one unit",
    ),
    "no probabilities": (
        card_of(dense("out", 1, "linear"), loss="binary_crossentropy"),
        falling(4, 0.3), {"targets": BINARY, "said": 6 * BINARY - 3},
        "LastActivation", "wrong_last_activation", "takes probabilities",
    ),
    "sigmoids of classes that exclude each other": (
        card_of(dense("out", 4, "sigmoid"), loss="categorical_crossentropy"),
        falling(1.4, 0.3), {"targets": one_of(4), "said": probabilities(4)},
        "LastActivation", "wrong_last_activation", "do not add up to 1",
    ),
    "a softmax of several at once": (
        card_of(dense("out", 4, "softmax"), loss="binary_crossentropy"),
        falling(0.7, 0.6), {"targets": BINARY, "said": probabilities(4)},
        "LastActivation", "wrong_last_activation", "adds up to 1",
    ),
    "several classes at once for a loss of one": (
        card_of(dense("out", 4, "sigmoid"), loss="categorical_crossentropy"),
        falling(3, 2), {"targets": BINARY, "said": 0.2 + 0.6 * BINARY},
        "LossFunction", "wrong_loss", "use binary_crossentropy",
    ),
    "one unit for classes": (
        card_of(dense("out", 1, "sigmoid"), loss="categorical_crossentropy"),
        np.zeros(STEPS), {"targets": WHOLE, "said": np.ones_like(WHOLE)},
        "LossFunction", "wrong_labels_or_encoding", "Use 4 units",
    ),
    "targets below zero of a cross-entropy": (
        card_of(dense("out", 1, "sigmoid"), loss="binary_crossentropy"),
        -falling(1, 90), {"said": np.full((STEPS, 2, 16), 0.5)},
        "LossFunction", "wrong_loss", "below zero",
    ),
    "numbers of classes for one sigmoid": (
        card_of(dense("out", 1, "sigmoid"), loss="binary_crossentropy"),
        -falling(1, 90), {"targets": WHOLE, "said": np.ones_like(WHOLE)},
        "LossFunction", "wrong_labels_or_encoding", "use 4 units",
    ),
    "more classes than units": (
        card_of(dense("out", 3, "softmax"), loss="sparse_categorical_crossentropy"),
        falling(1.1, 0.5), {"targets": WHOLE, "said": 0.3 + 0 * WHOLE},
        "LossFunction", "wrong_labels_or_encoding", "only 3 units",
    ),
    "classes divided by 255": (
        card_of(*CLASSES, loss="sparse_categorical_crossentropy"),
        falling(1.4, 0.1), {"targets": WHOLE / 255, "said": 0.25 + 0 * WHOLE},
        "LossFunction", "wrong_labels_or_encoding", "count as class 0",
    ),
    "zeros and ones divided by 255": (
        card_of(dense("out", 1, "sigmoid"), loss="binary_crossentropy"),
        falling(0.7, 0.02), {"targets": BINARY / 255, "said": 0.01 + 0 * BINARY},
        "LossFunction", "wrong_labels_or_encoding", "not 0 and 1",
    ),
    "labels of two classes from 1 on": (
        card_of(dense("out", 1, "sigmoid"), loss="binary_crossentropy"),
        -falling(1, 90), {"targets": BINARY + 1, "said": np.ones_like(BINARY)},
        "LossFunction", "wrong_labels_or_encoding", "Number the two classes 0 and 1",
    ),
    "labels of two classes around 0": (
        card_of(dense("out", 1, "sigmoid"), loss="binary_crossentropy"),
        -falling(1, 90), {"targets": 2 * BINARY - 1, "said": np.ones_like(BINARY)},
        "LossFunction", "wrong_labels_or_encoding", "Number the two classes 0 and 1",
    ),
    "targets that never vary": (
        card_of(*CLASSES, loss="categorical_crossentropy"),
        np.zeros(STEPS), {"targets": 0 * BINARY, "said": probabilities(4)},
        "LossFunction", "wrong_labels_or_encoding", "All targets are 0",
    ),
    "classes by a mean absolute error": (
        card_of(*CLASSES, loss="mean_absolute_error"), np.full(STEPS, 0.2),
        {"targets": one_of(4), "said": 0.01 * probabilities(4)},
        "Underfitting", "wrong_loss", "the targets are classes",
    ),
    "probabilities for a loss of logits": (
        card_of(*CLASSES, loss="categorical_crossentropy", from_logits=True),
        falling(1.4, 1.0), {"targets": one_of(4), "said": probabilities(4)},
        "LastActivation", "wrong_last_activation", "takes logits",
    ),
    "a softmax of a softmax": (
        card_of(*CLASSES, Layer("again", "Softmax", "softmax", 4),
                loss="categorical_crossentropy"),
        falling(1.4, 1.0), {"targets": one_of(4), "said": probabilities(4)},
        "LastActivation", "wrong_last_activation", "Leave out one of the two",
    ),
    "first weights that saturate": (
        card_of(dense("hidden", 8, "sigmoid", spread=40.0), REGRESSION[-1]),
        falling(2.0, 0.7), {},
        "FirstWeights", "initialisation", "40 times as wide",
    ),
    "a percentage of zero": (
        card_of(*REGRESSION, loss="mean_absolute_percentage_error"),
        falling(1e8, 1e5), {"targets": BINARY},
        "LossFunction", "wrong_loss", "are zero",
    ),
    "targets beyond a sigmoid": (
        card_of(dense("hidden", 8), dense("out", 1, "sigmoid")),
        falling(2, 0.6), {"said": 0.5 + 0 * WHOLE},
        "OutputRange", "output_range", "puts out 0 to 1",
    ),
    "targets below a ReLU": (
        card_of(dense("hidden", 8), dense("out", 1, "relu")),
        falling(2, 0.6), {"said": np.abs(RANDOM)},
        "OutputRange", "output_range", "nothing below 0",
    ),
    "inputs that are not scaled": (
        card_of(*REGRESSION), AT_REST, {"inputs": (0, 255), "said": RANDOM},
        "NotLearning", "missing_normalisation", "Scale the inputs",
    ),
    "inputs that are scaled twice": (
        card_of(*REGRESSION), AT_REST, {"inputs": (0, 1 / 255), "said": RANDOM},
        "NotLearning", "missing_normalisation", "Scale the inputs",
    ),
    "a learning rate that is too low": (
        card_of(*REGRESSION, rate=1e-6), AT_REST, {"said": RANDOM},
        "NotLearning", "learning_rate_too_low", "Raise the learning rate",
    ),
    "a learning rate that is too high": (
        card_of(*REGRESSION, rate=0.1), 3 * AT_REST, {"said": RANDOM},
        "NotLearning", "learning_rate_too_high", "Lower the learning rate",
    ),
    "many sigmoids": (
        card_of(*(dense(f"hidden_{i}", 5, "sigmoid") for i in range(6)), REGRESSION[-1]),
        AT_REST, {"said": 0.3 + 1e-4 * RANDOM},
        "NotLearning", "vanishing", "6 layers of sigmoids",
    ),
    "equal units": (
        card_of(Layer("hidden", "Dense", "relu", 8, "Zeros", True), REGRESSION[-1]),
        AT_REST, {"said": 0.3 + 1e-4 * RANDOM},
        "NotLearning", "initialisation", "begin equal (Zeros)",
    ),
    "labels that do not belong to their inputs": (
        card_of(*REGRESSION, rate=0.01), AT_REST, {"said": 0.3 + 0.2 * RANDOM},
        "NotLearning", "wrong_labels_or_encoding", "belong to their inputs",
    ),
    "no bend": (
        card_of(dense("hidden", 8, "linear"), REGRESSION[-1]), falling(2.0, 0.7), {},
        "Underfitting", "other", "one linear map",
    ),
    "a loss that compares each with each": (
        card_of(*REGRESSION, loss="mine", own_loss=True), falling(2, 1.7),
        {"said": 0.3 + 1e-3 * RANDOM},
        "ConstantOutput", "wrong_loss", "shapes",
    ),
    "probabilities for a margin": (
        card_of(dense("out", 1, "sigmoid"), loss="hinge"), falling(1, 0.9),
        {"targets": BINARY, "said": 0.2 + 0.6 * BINARY},
        "LossFunction", "wrong_loss", "from -1 to 1",
    ),
    "deep weights of a fixed spread": (
        card_of(*7 * [Layer("h", "Dense", "tanh", 8, "RandomNormal", True)], REGRESSION[-1]),
        AT_REST, {"said": 0.3 + 1e-3 * RANDOM},
        "NotLearning", "initialisation", "7 hidden layers",
    ),
    "targets of next to no spread": (
        card_of(*REGRESSION), falling(2.0, 0.05),
        {"targets": 0.1 + 0.02 * RANDOM, "said": 0.1 + 0.05 * RANDOM},
        "NotLearning", "missing_normalisation", "Scale the targets",
    ),
    "a loss that has only not got there yet": (
        card_of(*REGRESSION), np.linspace(9.0, 3.0, STEPS), {"said": RANDOM},
        "NotLearning", "too_few_epochs", "Train longer",
    ),
    "nearly everything is dropped, and the loss falls": (
        card_of(Layer("drop", "Dropout", dropout=0.95), *REGRESSION), falling(2.0, 0.8), {},
        "Underfitting", "other", "leaves out 95%",
    ),
    "nearly everything is dropped": (
        card_of(Layer("drop", "Dropout", dropout=0.95), *REGRESSION), AT_REST, {"said": RANDOM},
        "NotLearning", "other", "leaves out 95%",
    ),
    "hidden layers that are not trained": (
        card_of(Layer("hidden", "Dense", "relu", 8, None, False), REGRESSION[-1]),
        falling(2.0, 0.7), {},
        "Underfitting", "frozen_or_disconnected", "is not trained",
    ),
    "one number for all": (
        card_of(dense("hidden", 1), REGRESSION[-1]), falling(2.0, 0.7), {},
        "Underfitting", "other", "the one unit of hidden",
    ),
    "regularization that leaves nothing": (
        card_of(*REGRESSION, further_terms=True), falling(9.0, 1.2),
        {"said": 0.3 + 1e-3 * RANDOM},
        "ConstantOutput", "other", "Weaken the regularization",
    ),
    "regularizers far stronger than usual": (
        card_of(Layer("hidden", "Dense", "relu", 8, penalty=1.0), REGRESSION[-1],
                further_terms=True),
        falling(9.0, 0.6), {},
        "HeavyPenalty", "other", "of hidden, with a factor of 1",
    ),
    "a loss of the user's own that is not of pairs": (
        card_of(*REGRESSION, loss="mine", own_loss=True, of_pairs=False), falling(2, 1.7),
        {"said": 0.3 + 1e-3 * RANDOM},
        "ConstantOutput", "constant_output", "dead or saturated layers",
    ),
    "a difference of all pairs": (
        card_of(*REGRESSION, loss="mine", own_loss=True, of_pairs=True), falling(2, 1.7),
        {"said": 0.3 + 1e-3 * RANDOM},
        "LossFunction", "wrong_loss", "the targets of all",
    ),
    "a loss of the user's own without an end": (
        card_of(*REGRESSION, loss="mine", own_loss=True), -np.geomspace(1, 1e6, STEPS), {},
        "FlatLoss", "wrong_loss", "without end",
    ),
    "inputs that are all zero": (
        card_of(*REGRESSION), AT_REST, {"inputs": (0, 0), "said": 0.3 + 0 * RANDOM},
        "NotLearning", "missing_normalisation", "all inputs are 0",
    ),
    "a loss of the user's own that grows": (
        card_of(*REGRESSION, loss="mine", own_loss=True), -falling(-1, -9), {},
        "FlatLoss", "wrong_loss", "sign",
    ),
}  # fmt: skip


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
