"""Whether a training learns, by the loss that the best constant output would have.

A model that does no better than a constant has learnt nothing from its inputs: the first thing
to compare with (A. Karpathy, "A Recipe for Training Neural Networks", 2019: the
"input-independent baseline"). Why it does not is told by what was recorded besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from distwatch.findings import reasons
from distwatch.findings.course import AT_REST, NO_BETTER, SOLVED, Course, LossCourse
from distwatch.findings.findings import LIKELY, NOTE, WARNING, Finding
from distwatch.findings.reasons import Reason
from distwatch.findings.rules import course_rule
from distwatch.text import capitalized

#: In a run of fewer steps it is too early to say.
_STEPS = 32

#: In so many steps a training that learns gets further than `AT_REST`; one that was no better
#: than a constant in its first half, and is by less than that at its end, learns single
#: examples by heart.
_LONG = 256
#: A training that does without so much of a constant's loss works, whatever else there is.
WORKS = 0.5
#: Keras's L1 and L2 have a factor of 0.01 unless another is given.
_HEAVY = 0.1

#: A loss may be below zero, as a logarithm of a density is, but not this much.
_ENDLESS = 10.0


def why_not_finite(course: Course) -> Finding | None:
    """Why values grew without bound, as far as the set-up tells; only its parts matter."""
    finders = (reasons.high_rate, reasons.unscaled_inputs, reasons.unscaled_targets)
    for reason in _given(finders, course):
        text = f"{capitalized(reason.seen)}. {reason.advice}"
        return Finding("why", WARNING, text, advice=reason.advice, faults=reason.faults)
    return None


@course_rule("ConstantOutput", "as NotLearning", constant=reasons.CONSTANT, steps=_STEPS)
def constant_output(course: Course) -> Iterator[Finding]:
    """The output hardly depends on the inputs, whatever the loss says."""
    target, said, loss = course.target, course.prediction, course.loss
    if target is None or said is None or loss is None or loss.steps < _STEPS:
        return
    # Where the loss can be compared with a constant's, that tells more.
    of_classes = course.card.loss == "sparse_categorical_crossentropy"
    if course.skill is not None or not (of_classes or said.per_step == target.per_step):
        return
    reason = reasons.constant_output(course)
    if reason is None or (course.card.own_loss is False and course.card.loss is None):
        return
    brief = f"the output hardly depends on the inputs: {reason.seen}"
    advice, faults = reason.advice, reason.faults
    if course.card.further_terms:
        advice = "Weaken the regularization, or the weights of examples."
        faults = ("constant_output", "other")
    elif course.card.own_loss and course.card.of_pairs is None:
        advice = (
            f"Compare the shapes that {course.card.loss} is given: (n,) and (n, 1) are "
            "compared each with each."
        )
        faults = ("constant_output", "wrong_loss")
    text = f"{capitalized(brief)}. {advice}"
    yield Finding(
        "constant_output", WARNING, text, "data/prediction", brief=brief, advice=advice,
        faults=faults, threshold=reasons.CONSTANT,
    )  # fmt: skip


@course_rule("HeavyPenalty", "ten times Keras's own factor", heavy=_HEAVY, works=WORKS)
def heavy_penalty(course: Course) -> Iterator[Finding]:
    """Regularizers far stronger than usual, and a loss that ends high."""
    loss, constant = course.loss, course.constant
    layer = course.layer_of_most("penalty")
    if layer is None or layer.penalty is None or layer.penalty < _HEAVY:
        return
    if loss is None or constant is None or course.ended is None or loss.steps < _STEPS:
        return
    if loss.last < (1 - WORKS) * constant:
        return
    brief = (
        f"the loss ends at {loss.last:.4g}, where a model that always says the same has "
        f"{constant:.4g}; regularizers add to it, the strongest, of {layer.path}, with a "
        f"factor of {layer.penalty:.3g}"
    )
    advice = "Weaken the regularizers; factors of 0.01 and less are usual."
    yield Finding(
        "heavy_penalty", WARNING, f"{capitalized(brief)}. {advice}", "loss", brief=brief,
        advice=advice, faults=("other",), value=layer.penalty, threshold=_HEAVY,
        confidence=LIKELY, evidence={"loss": loss.last, "constant_loss": constant},
    )  # fmt: skip


@course_rule("FreshAndFrozen", "biases of 0 and scales of 1", solved=SOLVED, steps=_STEPS)
def fresh_and_frozen(course: Course) -> Iterator[Finding]:
    """Layers that are not trained, and were not trained before either."""
    loss, skill = course.loss, course.skill
    fresh = [layer for layer in course.card.layers if layer.fresh]
    if not fresh or loss is None or skill is None or loss.steps < _STEPS or skill > SOLVED:
        return
    # A layer of a trained model may have kept a bias of 0; not all of them.
    if any(layer.fresh is False for layer in course.card.layers):
        return
    named = f"the layer {fresh[0].path} is"
    if len(fresh) > 1:
        named = f"the layers {fresh[0].path} and {len(fresh) - 1} more are"
    brief = f"{named} not trained, and began with biases and scales as initializers leave them"
    # Random features may be meant, so it is for the reader to judge.
    advice = "Unless that is meant, load trained weights first, or let them be trained."
    yield Finding(
        "fresh_and_frozen", NOTE, f"{capitalized(brief)}. {advice}", brief=brief,
        advice=advice, value=skill, threshold=SOLVED,
    )  # fmt: skip


@course_rule("FlatLoss", "as NotLearning", flat=AT_REST, steps=_STEPS)
def flat_loss(course: Course) -> Iterator[Finding]:
    """A loss of the user's own that hardly falls, grows, or falls below zero without end."""
    loss = course.loss
    if loss is None or not course.card.own_loss or loss.steps < _STEPS or course.target is None:
        return
    if loss.last < -_ENDLESS * max(abs(loss.first), 1.0):
        brief = f"the loss {course.card.loss} falls below zero without end: {loss.last:.4g}"
        sign = Reason("no loss should", "Check its sign.", ("wrong_loss",))
        yield _found("flat_loss", brief, [sign], (loss.last, -_ENDLESS), course)
    if loss.first <= 0 or loss.last < (1 - AT_REST) * loss.first:
        return
    grows = loss.last > loss.first + 3 * loss.noise
    finders = (
        reasons.equal_units,
        reasons.low_rate,
        reasons.high_rate,
        reasons.unscaled_inputs,
        reasons.vanishing,
        reasons.tiny_batch,
    )
    found = _given(finders, course)
    if grows and not found:
        found = [Reason("it grows", "Lower the learning rate, and check the loss's sign.",
                         ("learning_rate_too_high", "wrong_loss"))]  # fmt: skip
    brief = f"the loss {course.card.loss} went from {loss.first:.4g} to {loss.last:.4g}"
    yield _found("flat_loss", brief, found, (loss.last / loss.first, 1 - AT_REST), course)


def works(course: Course) -> bool:
    """Whether a training is known to work, or to be on its way."""
    skill = course.skill
    return course.is_learning or (skill is not None and skill >= WORKS)


@course_rule(
    "NotLearning",
    'A. Karpathy, "A Recipe for Training Neural Networks" (2019): the constant baseline',
    no_better=NO_BETTER,
    no_better_when_late=AT_REST,
    steps=_STEPS,
    late=_LONG,
)
def not_learning(course: Course) -> Iterator[Finding]:
    """The loss at the end is no better than that of a constant output."""
    loss, constant, skill = course.loss, course.constant, course.skill
    if loss is None or constant is None or skill is None:
        return
    no_better = _no_better(course)
    if skill > no_better or not _can_be_judged(course, loss):
        return
    found = _given(reasons.OF_NOTHING, course)
    # What is worse than a constant, and still falls, has only not got there yet.
    if not found and (skill >= -reasons.WORSE or reasons.short(course) is None):
        found = [reasons.UNRELATED]
    found += _given(reasons.SYMPTOMS, course)
    than = "hardly better than" if skill > 0 else "no better than"
    than = "worse than" if skill < -reasons.WORSE else than
    brief = (
        f"the loss ends at {loss.last:.4g}, {than} the {constant:.4g} of a model that "
        "always says the same"
    )
    yield _found("not_learning", brief, found, (skill, no_better), course)


@course_rule("Underfitting", "as NotLearning", works=WORKS, solved=SOLVED, steps=_STEPS)
def underfitting(course: Course) -> Iterator[Finding]:
    """The loss came to rest at a large part of what a constant has, for a known reason."""
    loss, skill = course.loss, course.skill
    if loss is None or skill is None or not _no_better(course) < skill < SOLVED:
        return
    if not _can_be_judged(course, loss):
        return
    finders: tuple[reasons.Finder, ...] = (reasons.no_bend,)
    if loss.rests:
        finders = (*finders, reasons.classes_as_numbers)
    if skill < WORKS:
        finders = reasons.OF_LITTLE if loss.rests else (*finders, reasons.heavy_dropout)
    found = _given(finders, course)
    if found:
        brief = (
            f"the loss ends at {loss.last:.4g}, {100 * (1 - skill):.2g}% of that of a model "
            "that always says the same"
        )
        yield _found("underfitting", brief, found, (skill, SOLVED), course)


@course_rule(
    "StillLearning", "as NotLearning", works=WORKS, still_falling=reasons.STILL_FALLING
)
def still_learning(course: Course) -> Iterator[Finding]:
    """The loss still falls as fast as it did all along when the run ends."""
    loss, skill = course.loss, course.skill
    if loss is None or loss.steps < _STEPS or skill is None:
        return
    if not _no_better(course) < skill < WORKS:
        return
    reason = reasons.short(course)
    if reason is not None:
        text = f"The loss ends at {loss.last:.4g}, and {reason.seen[4:]}. {reason.advice}"
        yield Finding("still_learning", NOTE, text, "loss", value=skill, threshold=WORKS)


def _given(finders: Iterable[reasons.Finder], course: Course) -> list[Reason]:
    """The reasons that hold, in order."""
    return [reason for find in finders if (reason := find(course)) is not None]


def _no_better(course: Course) -> float:
    """Up to which skill a training has learnt nothing."""
    loss, constant = course.loss, course.constant
    late = (
        loss is not None
        and constant is not None
        and loss.steps >= _LONG
        and loss.before_half >= (1 - NO_BETTER) * constant
    )
    return AT_REST if late else NO_BETTER


def _can_be_judged(course: Course, loss: LossCourse) -> bool:
    """Whether the run is long enough, and its loss that of the model as it will be used.

    With dropout it is larger, so that while it falls nothing can be said, unless next to
    nothing is left of what the model computes.
    """
    noisy = any(
        "Dropout" in layer.kind or "Noise" in layer.kind for layer in course.card.layers
    )
    noisy = noisy and reasons.heavy_dropout(course) is None
    return loss.steps >= _STEPS and not (noisy and loss.falls)


def _found(
    kind: str,
    brief: str,
    found: list[Reason],
    decided: tuple[float, float],
    course: Course,
) -> Finding:
    """A finding with its first two reasons; ``decided`` is its value and the threshold."""
    faults = tuple(dict.fromkeys(fault for reason in found[:2] for fault in reason.faults))
    seen = "".join(f"; {reason.seen}" for reason in found[:2])
    advice = " ".join(dict.fromkeys(reason.advice for reason in found[:2]))
    advice = advice or "Try to learn a single batch by heart first."
    assert course.loss is not None
    evidence = {"loss": course.loss.last, "first_loss": course.loss.first}
    if course.constant is not None:
        evidence["constant_loss"] = course.constant
    text = f"{capitalized(brief)}{seen}. {advice}"
    return Finding(
        kind, WARNING, text, "loss", None, brief=brief, advice=advice, faults=faults,
        value=decided[0], threshold=decided[1], evidence=evidence, confidence=LIKELY,
    )  # fmt: skip
