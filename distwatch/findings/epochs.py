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

from distwatch.findings.course import AT_REST, NO_BETTER, Course
from distwatch.findings.findings import LIKELY, NOTE, WARNING, Finding
from distwatch.findings.learning import WORKS
from distwatch.findings.reasons import short
from distwatch.findings.rules import course_rule
from distwatch.records import Floats
from distwatch.text import capitalized, counted

#: The generalization loss above which Prechelt stops, in his least strict choice: 5 %.
_WORSE = 0.05

#: For how many validations in a row: the least patient of his criteria UP that he advises
#: where it is not known how noisy validations are, and the most patient one.
_VALIDATIONS, _PATIENT = 3, 8

#: A loss below this part of the first one is that of a task that is solved.
_SOLVED = 1e-3

#: Over so many epochs he measures the progress of a training.
_STRIP = 5

#: The training loss is so many times smaller than that of validation, and this part of a
#: constant's loss is left of the latter.
_TIMES, _LEFT = 10.0, 0.1

_PRECHELT = 'L. Prechelt, "Early Stopping - But When?" (1998)'


@course_rule(
    "Overfitting",
    _PRECHELT,
    worse=_WORSE,
    validations=_VALIDATIONS,
    patient=_PATIENT,
    solved=_SOLVED,
)
def overfitting(course: Course) -> Iterator[Finding]:
    """The validation loss has risen for several epochs while the training loss still fell."""
    trained, validated, numbers = _losses(course)
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


@course_rule(
    "LearntByHeart",
    "as Overfitting; an order of magnitude between the losses",
    times=_TIMES,
    left=_LEFT,
)
def learnt_by_heart(course: Course) -> Iterator[Finding]:
    """The training loss is next to nothing, that of validation large, and it falls no more."""
    trained, validated, numbers = _losses(course)
    constant = course.comparable_constant
    if constant is None or len(validated) <= _STRIP or any(overfitting(course)):
        return
    last, before = float(validated[-1]), float(validated[-_STRIP - 1])
    if not 0 < _TIMES * trained[-1] < last or last < _LEFT * constant:
        return
    if last < (1 - AT_REST) * before:
        return
    brief = (
        f"the training loss ends at {trained[-1]:.4g} and that of validation at {last:.4g}, "
        f"{100 * last / constant:.2g}% of that of a model that always says the same, and falls "
        "no more"
    )
    advice = "Take more data, regularization or a smaller model."
    yield Finding(
        "overfitting", WARNING, f"{capitalized(brief)}. {advice}", brief=brief, advice=advice,
        faults=("overfitting",), value=last / float(trained[-1]), threshold=_TIMES,
        confidence=LIKELY, evidence={
            "validation_loss": last, "training_loss": float(trained[-1]),
            "constant_loss": constant, "epoch": float(numbers[-1]),
        },
    )  # fmt: skip


@course_rule(
    "NothingGeneral",
    "as NotLearning, of the validation loss",
    no_better=NO_BETTER,
    epochs=_STRIP,
)
def nothing_general(course: Course) -> Iterator[Finding]:
    """What is learnt of the training's examples has never helped with those of validation."""
    trained, validated, _ = _losses(course)
    constant = course.comparable_constant
    # Numbers of a later time may lie elsewhere; classes are as likely as they were.
    of_classes = (course.card.loss or "").endswith("crossentropy")
    if constant is None or not of_classes or len(validated) < _STRIP:
        return
    lowest, last = float(validated.min()), float(trained[-1])
    if lowest < (1 - NO_BETTER) * constant or last >= (1 - NO_BETTER) * constant:
        return
    brief = (
        f"the training loss ends at {last:.4g}, and that of validation has never been lower "
        f"than {lowest:.4g}, where a model that always says the same has {constant:.4g}"
    )
    advice = (
        "Check that inputs and targets were not shuffled apart, and that the validation data "
        "are prepared as those of training are."
    )
    yield Finding(
        "nothing_general", WARNING, f"{capitalized(brief)}. {advice}", brief=brief,
        advice=advice, faults=("wrong_labels_or_encoding", "overfitting"),
        value=1 - lowest / constant, threshold=NO_BETTER, confidence=LIKELY,
        evidence={"validation_loss": lowest, "training_loss": last, "constant_loss": constant},
    )  # fmt: skip


@course_rule("WholeSetAtOnce", "as NotLearning", epochs=_STRIP, works=WORKS)
def whole_set_at_once(course: Course) -> Iterator[Finding]:
    """Each epoch has one step, so that a training of many epochs has hardly any."""
    loss, skill, epochs = course.loss, course.skill, len(course.epochs)
    if course.ended is None or loss is None or skill is None:
        return
    if epochs <= _STRIP or loss.steps != epochs:
        return
    if skill >= WORKS or not loss.falls or (loss.rests and short(course) is None):
        return
    brief = (
        f"each of the {epochs} epochs has one step, so a batch is the whole set, and the loss "
        f"still falls, at {loss.last:.4g}"
    )
    advice = "Use batches of 16 to 256 examples, or train for more epochs."
    yield Finding(
        "whole_set", WARNING, f"{capitalized(brief)}. {advice}", "loss", brief=brief,
        advice=advice, faults=("batch_size", "too_few_epochs"), value=skill,
        threshold=WORKS, confidence=LIKELY,
    )  # fmt: skip


@course_rule("StoppedEarly", f"{_PRECHELT}: the progress of a strip of epochs", falls=AT_REST)
def stopped_early(course: Course) -> Iterator[Finding]:
    """Training and validation loss still fell in each of the last epochs."""
    trained, validated, numbers = _losses(course)
    # Of a training that goes on, or was not validated after each epoch, it cannot be told.
    if course.ended is None or np.any(np.diff(numbers[-_STRIP - 1 :]) != 1):
        return
    if len(validated) <= _STRIP:
        return
    strip = slice(-_STRIP - 1, None)
    falls = [bool((np.diff(losses[strip]) < 0).all()) for losses in (trained, validated)]
    before, last = float(validated[-_STRIP - 1]), float(validated[-1])
    if not all(falls) or not 0 < last < (1 - AT_REST) * before:
        return
    # What falls ever more slowly, as at a rate that a schedule has lowered, has come to an end.
    if validated[-2] - last < AT_REST / _STRIP * before:
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


def _losses(course: Course) -> tuple[Floats, Floats, list[int]]:
    """Of the epochs that ended with a validation: the losses of training and validation.

    Also the epochs' numbers.
    """
    found = [
        (epoch.metrics["loss"], epoch.metrics["val_loss"], epoch.number)
        for epoch in course.epochs
        if all(math.isfinite(epoch.metrics.get(name, math.nan)) for name in _LOSSES)
    ]
    trained, validated, numbers = zip(*found, strict=True) if found else ((), (), ())
    return np.array(trained), np.array(validated), list(numbers)


_LOSSES = ("loss", "val_loss")
