"""Overfitting and stopping early are told by Prechelt's criteria, from the epochs' losses."""

import numpy as np
import pytest
from made_runs import healthy
from made_trainings import CLASSES, card_of, falling, made_training, one_of, probabilities

from distwatch.findings import NOTE, WARNING, Digest
from distwatch.records import CLOSED, Epoch

FALLING = 1.0 / np.arange(1, 21)


def found(trained, validated, ended=CLOSED):
    """Findings of the epochs, in a run that is healthy otherwise."""
    info, blocks = healthy(steps=40)
    losses = enumerate(zip(trained, validated, strict=False))
    digest = Digest(info, [Epoch(i, 2 * i, {"loss": a, "val_loss": b}) for i, (a, b) in losses])
    for block in blocks:
        digest.observe(block)
    rules = ("Overfitting", "StoppedEarly")
    return {each.rule: each for each in digest.findings(ended=ended) if each.rule in rules}


def rising_from(best, by, epochs=20):
    """Losses that fall up to an epoch, and rise from there on."""
    return [1.0 + by * abs(i - best) for i in range(epochs)]


def test_it_overfits():
    each = found(FALLING, rising_from(6, 0.06))["Overfitting"]
    assert (each.severity, each.faults, each.threshold) == (WARNING, ("overfitting",), 0.05)
    assert each.value == pytest.approx(13 * 0.06)
    assert each.evidence["epoch"] == 6
    said = "lowest in epoch 6 (Keras prints 7), at 1, and ended at 1.78, 13 validations later"
    assert said in each.text


@pytest.mark.parametrize(
    ("since", "severity"), [(2, None), (3, NOTE), (7, NOTE), (8, WARNING), (9, WARNING)]
)
def test_the_longer_the_more_it_matters(since, severity):
    validated = [2.0, 1.5, 1.0, *[1.1] * since]
    each = found(FALLING, validated).get("Overfitting")
    assert (each and each.severity) == severity
    assert not each or severity == WARNING or each.faults == ()


@pytest.mark.parametrize(
    ("trained", "validated"),
    [
        (FALLING, FALLING),
        (FALLING, rising_from(6, 0.003)),  # by less than 5 %
        (rising_from(6, 0.06), rising_from(6, 0.06)),  # the training loss rises, too
        (FALLING, [1.0, *[1.2, 1.01] * 9, 1.2]),  # noise: the last three are not all above
        (FALLING[:3], [1.0, 1.2, 1.3]),
        (FALLING, [1.0, *np.linspace(2.0, 1.3, 8)]),  # it improves again
        (FALLING, [1.0, 1e-6, *[1.1e-6] * 9]),  # a task that is solved
        (FALLING, [float("nan")] * 20),
        (FALLING, [-1.0, *[5.0] * 19]),  # a likelihood: below zero there is no share of a loss
        ([], []),
    ],
)
def test_healthy_epochs_do_not_overfit(trained, validated):
    assert "Overfitting" not in found(trained, validated)


def test_epochs_without_a_validation_are_passed_over():
    validated = np.full(20, np.nan)
    validated[::2] = [2.0, 1.0, *[1.1] * 8]
    each = found(FALLING, validated)["Overfitting"]
    assert (each.severity, each.evidence["epoch"]) == (WARNING, 2)


def test_it_could_go_on():
    each = found(FALLING, FALLING + 0.1)["StoppedEarly"]
    assert (each.severity, each.threshold) == (NOTE, 0.05)
    assert "fell in each of the last 5 epochs, that of validation by 10%" in each.text
    assert not found(FALLING, FALLING + 0.1, ended=None), "it goes on"
    # As at a rate that a schedule has lowered to nothing.
    slower = [3.0, 2.0, 1.4, 1.1, 1.01, 1.005]
    assert not found(slower, slower), "it has come to an end"
    every_second = np.where(np.arange(20) % 2, FALLING + 0.1, np.nan)
    assert not found(FALLING, every_second), "between two validations it may have risen"
    assert not found(FALLING, 1.0 - 0.001 * np.arange(20))
    assert not found(FALLING[:5], FALLING[:5])
    assert not found(FALLING, [*FALLING[:-2], FALLING[-1], FALLING[-2]])


def of_classes(loss, trained, validated, *, steps_an_epoch=1, ended=CLOSED, **known):
    """What is said of a training of four classes, whose constant loss is 1.39."""
    card = card_of(*CLASSES, loss="categorical_crossentropy", **known)
    data = {"targets": one_of(4), "said": probabilities(4)}
    info, blocks = made_training(card, loss, **data)
    losses = enumerate(zip(trained, validated, strict=True), 1)
    digest = Digest(
        info,
        [Epoch(i, i * steps_an_epoch, {"loss": a, "val_loss": b}) for i, (a, b) in losses],
    )
    for block in blocks:
        digest.observe(block)
    return {each.rule: each for each in digest.findings(ended=ended)}


AT_REST = [1.4, 1.0, *[0.7] * 8]


def test_a_training_loss_of_next_to_nothing_beside_a_large_one_is_learnt_by_heart():
    trained = np.geomspace(1.4, 0.05, 10)
    each = of_classes(falling(1.4, 0.05), trained, AT_REST, steps_an_epoch=12)["LearntByHeart"]
    assert (each.severity, each.faults) == (WARNING, ("overfitting",))
    assert each.value == pytest.approx(14.0)
    assert "50% of that of a model that always says the same" in each.text


@pytest.mark.parametrize(
    ("trained", "validated", "known"),
    [
        (0.05, 0.04 + 0 * np.array(AT_REST), {}),  # no worse
        (0.1, AT_REST, {}),  # not by an order of magnitude
        (0.005, np.array(AT_REST) / 7, {}),  # which is little, whatever that of training
        (0.05, np.geomspace(1.4, 0.7, 10), {}),  # it still falls
        (0.05, AT_REST[:5], {}),  # too few to tell
        (0.05, AT_REST, {"further_terms": True}),  # it has terms that validation has not
        (0.05, AT_REST, {"own_loss": True}),
    ],
)
def test_what_is_not_learnt_by_heart(trained, validated, known):
    trained = np.geomspace(1.4, trained, len(validated))
    found = of_classes(falling(1.4, 0.05), trained, validated, steps_an_epoch=12, **known)
    assert "LearntByHeart" not in found


NEVER = [1.4, 1.39, 1.42, 1.5, 1.7, 2.0]


def test_what_helps_with_no_example_of_validation_is_told():
    """As where targets belong to other inputs: only single examples are learnt."""
    trained = np.linspace(1.4, 0.9, 6)
    found = of_classes(falling(1.4, 0.9), trained, NEVER, steps_an_epoch=20)
    each = found["NothingGeneral"]
    assert (each.severity, each.faults) == (
        WARNING,
        ("wrong_labels_or_encoding", "overfitting"),
    )
    assert "never been lower than 1.39" in each.text
    assert "Overfitting" not in found and "LearntByHeart" not in found


@pytest.mark.parametrize(
    ("trained", "validated", "known"),
    [
        (0.9, [1.4, 1.3, *NEVER[2:]], {}),  # once it was better than a constant
        (1.38, NEVER, {}),  # nothing is learnt of the training's examples, either
        (0.9, NEVER[:4], {}),  # too few to tell
        (0.9, NEVER, {"further_terms": True}),
        (0.9, NEVER, {"own_loss": True}),
    ],
)
def test_what_is_general_enough(trained, validated, known):
    losses = np.linspace(1.4, trained, len(validated))
    found = of_classes(falling(1.4, trained), losses, validated, steps_an_epoch=20, **known)
    assert "NothingGeneral" not in found


@pytest.mark.parametrize(
    ("steps_an_epoch", "loss", "ended", "told"),
    [
        (1, np.linspace(1.4, 1.1, 128), CLOSED, True),
        (1, np.linspace(1.4, 1.3, 128), CLOSED, True),  # slowly, but as fast as ever
        (2, np.linspace(1.4, 1.1, 128), CLOSED, False),
        (1, falling(1.4, 0.2), CLOSED, False),  # it has learnt
        (1, falling(1.4, 1.1), CLOSED, False),  # more steps would not help
        (1, np.linspace(1.4, 1.1, 128), None, False),  # it goes on
    ],
)
def test_epochs_of_one_step_are_told(steps_an_epoch, loss, ended, told):
    losses = loss[::steps_an_epoch]
    found = of_classes(loss, losses, losses, steps_an_epoch=steps_an_epoch, ended=ended)
    assert ("WholeSetAtOnce" in found) == told
    if told:
        assert found["WholeSetAtOnce"].faults == ("batch_size", "too_few_epochs")
        assert "each of the 128 epochs has one step" in found["WholeSetAtOnce"].brief
