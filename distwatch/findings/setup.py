"""Whether a training's parts fit together: last activation, loss, targets and inputs.

These rules read the training's card and the range of its data, so they are certain from the
first batches on. That parts do not fit is the most frequent fault of programs that people ask
about (M. Wardat et al., "DeepLocalize", ICSE 2021; "DeepDiagnosis", ICSE 2022; E. Schoop et
al., "UMLAUT", CHI 2021; H. Ben Braiek and F. Khomh, "TheDeepChecker", 2023).
"""

from __future__ import annotations

from collections.abc import Iterator

from distwatch.findings.course import SOLVED, Course, Level
from distwatch.findings.findings import CERTAIN, WARNING, Finding
from distwatch.findings.rules import AFTER_EPOCH, course_rule
from distwatch.records import Layer
from distwatch.text import capitalized, counted

_SOURCES = "DeepLocalize (2021), UMLAUT (2021), DeepDiagnosis (2022), TheDeepChecker (2023)"

#: Losses that compare probabilities; those of one class out of several, and of any.
_CATEGORICAL = ("categorical_crossentropy", "sparse_categorical_crossentropy")
_PROBABILITIES = (*_CATEGORICAL, "binary_crossentropy", "binary_focal_crossentropy",
                  "categorical_focal_crossentropy", "kl_divergence")  # fmt: skip
#: Activations that are flat on both sides.
_SATURATING = ("sigmoid", "hard_sigmoid", "tanh", "hard_tanh", "softsign")
#: First weights that are so many times as wide as Glorot's saturate them.
_WIDE = 10.0
#: Activations that put out probabilities.
_OF_PROBABILITIES = ("sigmoid", "softmax")
#: Losses that divide by the target, or take its logarithm.
_RELATIVE = ("mean_absolute_percentage_error",)
#: Losses that take -1 and 1 for the two classes.
_MARGINS = ("hinge", "squared_hinge")
#: Losses of numbers.
_OF_NUMBERS = ("mean_squared_error", "mean_absolute_error", "huber", "log_cosh")

#: What activations can put out, from and to.
_INFINITE = float("inf")
_RANGES = {
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "relu": (0.0, _INFINITE),
    "relu6": (0.0, 6.0),
    "softplus": (0.0, _INFINITE),
    "exponential": (0.0, _INFINITE),
    "elu": (-1.0, _INFINITE),
}

#: Those that put out any number, as far as it matters here.
_UNBOUNDED = ("linear", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "softplus")

#: A probability of float16 is rounded by half of this.
_ROUNDING = 1e-3

#: So much of the targets' own range may lie outside of what the output reaches: targets that
#: are 0 and 1 up to a bit of noise are meant for a sigmoid.
_OUTSIDE = 0.05


@course_rule("LastActivation", _SOURCES, rounding=_ROUNDING, asked=AFTER_EPOCH)
def last_activation(course: Course) -> Iterator[Finding]:
    """The last activation does not give what the loss takes."""
    layer = course.card.last_layer
    if layer is None:
        return
    for find in (
        _softmax_of_one,
        _probabilities_as_logits,
        _probabilities_of_probabilities,
        _no_probabilities,
        _sigmoids_of_one_class,
        _softmax_of_several,
    ):
        if said := find(course, layer):
            brief, advice = said
            faults = ("wrong_last_activation",)
            yield _wrong("last_activation", brief, advice, _signal(layer), faults)
            return


def _softmax_of_one(course: Course, layer: Layer) -> tuple[str, str] | None:
    if layer.activation != "softmax" or layer.units != 1:
        return None
    return (
        f"the softmax of {layer.path} is over one unit, so it always says 1",
        "Use a sigmoid, or as many units as there are classes.",
    )


def _probabilities_as_logits(course: Course, layer: Layer) -> tuple[str, str] | None:
    card = course.card
    if not card.from_logits or layer.activation not in _OF_PROBABILITIES:
        return None
    return (
        f"the loss {card.loss} takes logits (from_logits=True), and the {layer.activation} of "
        f"{layer.path} puts out probabilities",
        "Leave out the last activation, or from_logits=True.",
    )


def _probabilities_of_probabilities(course: Course, layer: Layer) -> tuple[str, str] | None:
    before = course.card.layers[-2:-1]
    twice = layer.kind in ("Activation", "Softmax") and layer == course.card.layers[-1]
    if not twice or not before or layer.activation not in _OF_PROBABILITIES:
        return None
    if before[0].activation not in _OF_PROBABILITIES:
        return None
    return (
        f"the {layer.activation} of {layer.path} is taken of probabilities, which the "
        f"{before[0].activation} of {before[0].path} puts out: of numbers from 0 to 1 it "
        "hardly tells one from the other",
        "Leave out one of the two.",
    )


def _no_probabilities(course: Course, layer: Layer) -> tuple[str, str] | None:
    card = course.card
    if card.loss not in _PROBABILITIES or card.from_logits or not _no_probability(course):
        return None
    remedy = "sigmoid" if card.loss.startswith("binary") else "softmax"
    return (
        f"the loss {card.loss} takes probabilities, and {layer.path} puts out "
        f"{_range_of(course.prediction)} ({layer.activation or layer.kind})",
        f"End the model with a {remedy}, or give the loss from_logits=True.",
    )


def _sigmoids_of_one_class(course: Course, layer: Layer) -> tuple[str, str] | None:
    card, units = course.card, layer.units
    if card.loss not in _CATEGORICAL or layer.activation != "sigmoid" or not _several(units):
        return None
    if _several_at_once(course, units):
        return None  # the loss is wrong, not the activation
    return (
        f"the loss {card.loss} takes probabilities of classes that exclude each other, and the "
        f"sigmoids of {layer.path} do not add up to 1",
        "Use a softmax.",
    )


def _softmax_of_several(course: Course, layer: Layer) -> tuple[str, str] | None:
    if layer.activation != "softmax" or not _several_at_once(course, layer.units):
        return None
    return (
        f"the softmax of {layer.path} adds up to 1 over its units, and of an example's targets "
        "more or fewer than one are 1",
        "If several may be 1 at once, use sigmoids.",
    )


@course_rule("LossFunction", _SOURCES, asked=AFTER_EPOCH)
def loss_function(course: Course) -> Iterator[Finding]:
    """The loss does not fit the targets."""
    yield from _loss_of_one_unit(course)
    yield from _loss_of_pairs(course)
    yield from _targets_are_equal(course)
    yield from _targets_are_no_probabilities(course)
    yield from _targets_are_scaled(course)
    yield from _one_class_of_several(course)
    yield from _relative_to_zero(course)
    yield from _margin_of_probabilities(course)
    yield from _always_zero(course)


@course_rule(
    "FirstWeights",
    'X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward '
    'neural networks" (2010); TheDeepChecker (2023)',
    wide=_WIDE, solved=SOLVED,
)  # fmt: skip
def first_weights(course: Course) -> Iterator[Finding]:
    """Hidden layers that saturate begin with weights far wider than Glorot's."""
    if course.is_learning or (course.skill is not None and course.skill > SOLVED):
        return
    wide = [
        layer for layer in course.card.layers[:-1]
        if layer.activation in _SATURATING and (layer.spread or 0.0) >= _WIDE
    ]  # fmt: skip
    if wide:
        first = wide[0]
        brief = (
            f"the first weights of {first.path} are spread {first.spread:.3g} times as wide as "
            f"Glorot's, so its {first.activation} begins saturated"
        )
        if len(wide) > 1:
            brief += f" (so do {counted(len(wide) - 1, 'more layer')})"
        yield _wrong(
            "first_weights", brief, "Initialise kernels by glorot_uniform.", _signal(first),
            ("initialisation", "saturated"), spread=first.spread or 0.0,
        )  # fmt: skip


@course_rule("OutputRange", _SOURCES, outside=_OUTSIDE, asked=AFTER_EPOCH)
def output_range(course: Course) -> Iterator[Finding]:
    """Targets lie where the last activation cannot get."""
    layer, target = course.card.last_layer, course.target
    if layer is None or target is None or course.card.loss in _PROBABILITIES:
        return
    low, high = _RANGES.get(layer.activation or "", (-_INFINITE, _INFINITE))
    beyond = max(low - target.min, target.max - high)
    if beyond > _OUTSIDE * (target.max - target.min):
        brief = (
            f"the {layer.activation} of {layer.path} puts out {_between(low, high)}, and the "
            f"targets go from {target.min:.4g} to {target.max:.4g}"
        )
        yield _wrong(
            "output_range", brief,
            "Use no activation in the last layer, or scale the targets into its range.",
            _signal(layer), ("output_range", "wrong_last_activation"),
            target_min=target.min, target_max=target.max,
        )  # fmt: skip


def _loss_of_one_unit(course: Course) -> Iterator[Finding]:
    card, layer = course.card, course.card.last_layer
    if layer is None or layer.units != 1 or card.loss not in _CATEGORICAL:
        return
    target = course.target
    classes = int(target.max) + 1 if target is not None and target.whole else 0
    brief = f"the loss {card.loss} over one unit ({layer.path}) is zero, whatever is learnt"
    if classes > 2:
        advice = f"Use {classes} units, a softmax and sparse_categorical_crossentropy."
        faults: tuple[str, ...] = ("wrong_loss", "wrong_labels_or_encoding")
    else:
        advice, faults = "Use a sigmoid and binary_crossentropy.", ("wrong_loss",)
    yield _wrong("loss_function", brief, advice, _signal(layer), faults)


def _loss_of_pairs(course: Course) -> Iterator[Finding]:
    if course.card.of_pairs:
        brief = (
            f"the loss {course.card.loss or 'of the step'} compares the output for each "
            "example with the targets of all: one has the shape (batch, 1), the other (batch,)"
        )
        advice = "Give both one shape, such as by tf.reshape(y, (-1, 1))."
        yield _wrong("loss_function", brief, advice, "loss", ("wrong_loss",))


def _targets_are_equal(course: Course) -> Iterator[Finding]:
    """Rows that are to be one-hot and all alike, as labels become that are not understood."""
    if (target := _equal_targets(course)) is not None:
        brief = f"all targets are {target.min:.4g}, so there is nothing to tell apart"
        yield _wrong(
            "loss_function", brief, "Look at how they are read and encoded.", "data/target",
            ("wrong_labels_or_encoding",), target=target.min,
        )  # fmt: skip


def _equal_targets(course: Course) -> Level | None:
    """The targets of several exclusive classes, if all numbers in them are equal.

    Of other losses that may be meant: all examples may be of one class, or a residual be zero.
    """
    card, target = course.card, course.target
    exclusive = card.loss == "categorical_crossentropy" and not card.own_loss
    if target is None or course.loss is None or not exclusive:
        return None
    several = card.last_layer is not None and _several(card.last_layer.units)
    return target if several and target.min == target.max else None


def _targets_are_no_probabilities(course: Course) -> Iterator[Finding]:
    card, target = course.card, course.target
    if target is None or card.loss not in _PROBABILITIES:
        return
    if card.loss == "sparse_categorical_crossentropy":
        yield from _classes_beyond(course, target)
        return
    beyond = max(-target.min, target.max - 1.0)
    one_unit = card.last_layer is not None and card.last_layer.units == 1
    if beyond <= _ROUNDING or (one_unit and card.loss in _CATEGORICAL):
        return
    brief = (
        f"the loss {card.loss} takes targets from 0 to 1, and these go from {target.min:.4g} "
        f"to {target.max:.4g}, so the loss can fall below zero without end"
    )
    faults: tuple[str, ...] = ("wrong_loss", "output_range")
    advice = "For numbers use mean_squared_error and no last activation."
    if target.whole and target.of_two:
        faults = ("wrong_labels_or_encoding",)
        advice = "Number the two classes 0 and 1."
    elif target.whole and target.min >= 0:
        classes = int(target.max) + 1
        faults = ("wrong_loss", "wrong_last_activation", "wrong_labels_or_encoding")
        advice = (
            f"If these are classes, use {classes} units, a softmax and "
            "sparse_categorical_crossentropy."
        )
    yield _wrong(
        "loss_function", brief, advice, None, faults,
        target_min=target.min, target_max=target.max,
    )  # fmt: skip


def _targets_are_scaled(course: Course) -> Iterator[Finding]:
    """Classes that were divided by something, as inputs are."""
    card, target, layer = course.card, course.target, course.card.last_layer
    if target is None or not 0 < target.max <= 1:
        return
    if card.loss == "sparse_categorical_crossentropy" and not target.whole:
        brief = (
            f"the loss {card.loss} takes the numbers of classes, and the targets are "
            f"fractions up to {target.max:.4g}, which all count as class 0"
        )
    elif card.loss in _PROBABILITIES and target.two_valued and not target.binary:
        brief = f"the targets are 0 and {target.max:.4g}, not 0 and 1"
    else:
        return
    yield _wrong(
        "loss_function", brief, "Leave the targets as they are; only inputs are scaled.",
        _signal(layer) if layer else None, ("wrong_labels_or_encoding",), target_max=target.max,
    )  # fmt: skip


def _one_class_of_several(course: Course) -> Iterator[Finding]:
    card, layer = course.card, course.card.last_layer
    if (
        layer is None
        or card.loss != "categorical_crossentropy"
        or layer.activation != "sigmoid"
    ):
        return
    if _several_at_once(course, layer.units):
        brief = (
            f"the loss {card.loss} is for classes that exclude each other, and of an example's "
            "targets more or fewer than one are 1"
        )
        advice = "If several may be 1 at once, use binary_crossentropy."
        yield _wrong("loss_function", brief, advice, _signal(layer), ("wrong_loss",))


def _classes_beyond(course: Course, target: Level) -> Iterator[Finding]:
    layer = course.card.last_layer
    units = (layer.units if layer else None) or 1
    # Of one unit it is said already.
    if layer is None or units < 2 or (target.max < units and target.min >= 0):
        return
    brief = (
        f"the targets go from {target.min:.4g} to {target.max:.4g}, and {layer.path} has only "
        f"{counted(units, 'unit')}, for classes from 0 on"
    )
    yield _wrong(
        "loss_function", brief, "Give it a unit for each class, and number classes from 0.",
        _signal(layer), ("wrong_labels_or_encoding", "wrong_last_activation"),
        target_min=target.min, target_max=target.max,
    )  # fmt: skip


def _relative_to_zero(course: Course) -> Iterator[Finding]:
    card, target = course.card, course.target
    if target is not None and card.loss in _RELATIVE and target.zeros > 0:
        share = f"{100 * target.zeros:.3g}%"
        brief = f"the loss {card.loss} divides by the targets, of which {share} are zero"
        advice = "For classes use a cross-entropy, for numbers mean_absolute_error."
        yield _wrong("loss_function", brief, advice, None, ("wrong_loss",), zeros=target.zeros)


def _margin_of_probabilities(course: Course) -> Iterator[Finding]:
    card, layer = course.card, course.card.last_layer
    if layer is None or card.loss not in _MARGINS:
        return
    if layer.activation in ("sigmoid", "softmax", "relu"):
        brief = (
            f"the loss {card.loss} takes outputs from -1 to 1, and the {layer.activation} of "
            f"{layer.path} puts out nothing below 0"
        )
        yield _wrong(
            "loss_function", brief, "Use a cross-entropy, or tanh as the last activation.",
            _signal(layer), ("wrong_loss", "wrong_last_activation"),
        )  # fmt: skip


def _always_zero(course: Course) -> Iterator[Finding]:
    loss, layer = course.loss, course.card.last_layer
    told = layer is not None and layer.units == 1 and course.card.loss in _CATEGORICAL
    told |= _equal_targets(course) is not None
    if loss is not None and not told and not loss.means.any():
        brief = "the loss is exactly zero from the first step on, so nothing can be learnt"
        yield _wrong(
            "loss_function", brief, "Compare what the model puts out with the targets.",
            "loss", ("wrong_loss",),
        )  # fmt: skip


def loss_of_classes(course: Course) -> bool:
    """Whether classes are learnt by a loss that is made for numbers."""
    target, layer = course.target, course.card.last_layer
    if target is None or course.card.loss not in _OF_NUMBERS:
        return False
    return target.binary or target.is_one_hot(layer.units if layer else None)


def _no_probability(course: Course) -> bool:
    """Whether what the model says need not be, or was not, from 0 to 1."""
    said, layer = course.prediction, course.card.last_layer
    if layer is not None and layer.activation in _UNBOUNDED:
        return True
    return said is not None and (said.min < -_ROUNDING or said.max > 1 + _ROUNDING)


def _several_at_once(course: Course, units: int | None) -> bool:
    """Whether of several targets that are 0 or 1 not just one is 1."""
    target, said = course.target, course.prediction
    if target is None or said is None or units is None or units < 2 or not target.binary:
        return False
    if target.per_step != said.per_step:
        return False  # numbers of classes
    return abs(target.mean * units - 1) > _OUTSIDE


def _signal(layer: Layer) -> str:
    """The signal of what a layer puts out."""
    return f"activation/{layer.path}"


def _several(units: int | None) -> bool:
    return units is not None and units > 1


def _range_of(level: Level | None) -> str:
    return "no probabilities" if level is None else f"{level.min:.4g} to {level.max:.4g}"


def _between(low: float, high: float) -> str:
    if high == _INFINITE:
        return f"nothing below {low:g}"
    return f"{low:g} to {high:g}"


def _wrong(
    kind: str,
    brief: str,
    advice: str,
    signal: str | None,
    faults: tuple[str, ...],
    **evidence: float,
) -> Finding:
    text = f"{capitalized(brief)}. {advice}"
    return Finding(
        kind, WARNING, text, signal, 0, brief=brief, advice=advice, faults=faults,
        evidence=evidence, confidence=CERTAIN,
    )  # fmt: skip
