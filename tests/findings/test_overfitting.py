"""Overfitting and stopping early are told by Prechelt's criteria, from the epochs' losses."""

import numpy as np
import pytest
from made_runs import healthy

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
    every_second = np.where(np.arange(20) % 2, FALLING + 0.1, np.nan)
    assert not found(FALLING, every_second), "between two validations it may have risen"
    assert not found(FALLING, 1.0 - 0.001 * np.arange(20))
    assert not found(FALLING[:5], FALLING[:5])
    assert not found(FALLING, [*FALLING[:-2], FALLING[-1], FALLING[-2]])
