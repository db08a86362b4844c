"""Made-up trainings: sound ones, and faulty ones with what is to be said of them."""

import numpy as np
from made_runs import run_of, table_of

from distwatch.findings import WARNING, Digest
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
