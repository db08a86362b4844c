"""What the epochs of a training tell: the metrics of training and validation side by side.

The criteria are those of L. Prechelt, "Early Stopping - But When?" (1998). They compare the
validation loss with the lowest one so far: the *generalization loss* is by how much it is
above that, and a training whose validation loss rose for several validations in a row (his
criteria UP) while the training loss still falls learns its examples by heart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from distwatch.findings.course import AT_REST
from distwatch.findings.findings import LIKELY, NOTE, WARNING, Finding
from distwatch.findings.rules import rule
from distwatch.findings.tables import Recorded
from distwatch.records import Floats
from distwatch.text import counted

#: The generalization loss above which Prechelt stops, in his least strict choice: 5 %.
_WORSE = 0.05

#: For how many validations in a row: the least patient of his criteria UP that he advises
#: where it is not known how noisy validations are, and the most patient one.
_VALIDATIONS, _PATIENT = 3, 8

#: A loss below this part of the first one is that of a task that is solved.
_SOLVED = 1e-3

#: Over so many epochs he measures the progress of a training.
_STRIP = 5

_PRECHELT = 'L. Prechelt, "Early Stopping - But When?" (1998)'


@rule(
    "Overfitting",
    _PRECHELT,
    worse=_WORSE,
    validations=_VALIDATIONS,
    patient=_PATIENT,
    solved=_SOLVED,
)
def overfitting(run: Recorded) -> Iterator[Finding]:
    """The validation loss has risen for several epochs while the training loss still fell."""
    trained, validated, numbers = _losses(run)
    if len(validated) <= _VALIDATIONS:
        return
    best = int(validated.argmin())
    since = len(validated) - 1 - best
    lowest, last = float(validated[best]), float(validated[-1])
    if since < _VALIDATIONS or not lowest > 0 or not trained[-1] < trained[best]:
        return
    latest = validated[-_VALIDATIONS:]
    if not (latest > (1 + _WORSE) * lowest).all() or last < latest[0]:
        return
    # Of a task that is solved it does not matter.
    if last < _SOLVED * validated[0]:
        return
    long = since >= _PATIENT
    brief = (
        f"the validation loss was lowest in epoch {numbers[best]} (Keras prints "
        f"{numbers[best] + 1}), at {lowest:.4g}, and ended at {last:.4g}, "
        f"{counted(since, 'validation')} later, while the training loss went on from "
        f"{trained[best]:.4g} to {trained[-1]:.4g}"
    )
    advice = (
        "Keep the weights of that epoch (keras.callbacks.EarlyStopping("
        "restore_best_weights=True)), or take more data, regularization or a smaller model."
    )
    yield Finding(
        "overfitting", WARNING if long else NOTE, f"T{brief[1:]}. {advice}", brief=brief,
        advice=advice, faults=("overfitting",), value=last / lowest - 1, threshold=_WORSE,
        confidence=LIKELY, evidence={
            "validation_loss": last, "lowest_validation_loss": lowest,
            "training_loss": float(trained[-1]), "epoch": float(numbers[best]),
        },
    )  # fmt: skip


@rule("StoppedEarly", f"{_PRECHELT}: the progress of a strip of epochs", falls=AT_REST)
def stopped_early(run: Recorded) -> Iterator[Finding]:
    """Training and validation loss still fell in each of the last epochs."""
    trained, validated, numbers = _losses(run)
    # Of a training that goes on, or was not validated after each epoch, it cannot be told.
    if run.ended is None or np.any(np.diff(numbers[-_STRIP - 1 :]) != 1):
        return
    if len(validated) <= _STRIP:
        return
    strip = slice(-_STRIP - 1, None)
    falls = [bool((np.diff(losses[strip]) < 0).all()) for losses in (trained, validated)]
    before, last = float(validated[-_STRIP - 1]), float(validated[-1])
    if not all(falls) or not 0 < last < (1 - AT_REST) * before:
        return
    part = 1 - last / before
    advice = "More epochs would go on so."
    text = (
        f"The losses of training and validation fell in each of the last {_STRIP} epochs, that "
        f"of validation by {100 * part:.2g}%, to {last:.4g}. {advice}"
    )
    yield Finding(
        "stopped_early", NOTE, text, advice=advice, value=part, threshold=AT_REST,
        evidence={"validation_loss": last},
    )  # fmt: skip


def _losses(run: Recorded) -> tuple[Floats, Floats, list[int]]:
    """Of the epochs that ended with a validation: the losses of training and validation.

    Also the epochs' numbers.
    """
    found = [
        (epoch.metrics["loss"], epoch.metrics["val_loss"], epoch.number)
        for epoch in run.epochs
        if all(math.isfinite(epoch.metrics.get(name, math.nan)) for name in _LOSSES)
    ]
    trained, validated, numbers = zip(*found, strict=True) if found else ((), (), ())
    return np.array(trained), np.array(validated), list(numbers)


_LOSSES = ("loss", "val_loss")
