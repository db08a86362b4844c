"""Why little is learnt: what a training's card, data and loss tell of it, reason by reason.

Each reason is a function of the `Course`; it gives what was seen, what to try, and the kinds of
fault that this is, or None. A new one is a function here, and a line in `OF_LITTLE` or
`OF_NOTHING`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from distwatch.findings.course import Course
from distwatch.findings.setup import loss_of_classes
from distwatch.text import counted

#: Inputs should have a mean near zero and a spread near one (Y. LeCun et al., "Efficient
#: BackProp", 1998, section 4.3); an order of magnitude more is tolerated.
_LARGE = 10.0

#: Adam's and its relatives' steps are at most about their learning rate long (D. Kingma and J.
#: Ba, "Adam", 2015, section 2.1), and weights begin as large as one over the root of their
#: number: a tenth, for a hundred. A rate times the steps below that changes little.
_REACH = 0.1
_BOUNDED = ("Adam", "AdamW", "Nadam", "Adamax", "RMSprop", "Lion")

#: The learning rates of the optimizers' own papers, or Keras's; 30 times as much is too high
#: for nearly all models, a thirtieth too low (UMLAUT warns from 10 times that of Adam on).
_USUAL_RATES = dict.fromkeys(_BOUNDED, 0.001) | {"SGD": 0.01, "Adadelta": 1.0, "Adagrad": 0.01}
_TIMES = 30.0

#: A sigmoid passes at most a quarter of a gradient on (X. Glorot and Y. Bengio,
#: "Understanding the difficulty of training deep feedforward neural networks", 2010): through
#: four of them at most 0.4% is left.
_SIGMOIDS = 4

#: A cross-entropy that begins at so many times that of a model that knows nothing does not
#: begin at random: check the loss at the start (A. Karpathy, as above).
_WILD = 3.0

#: A gradient of fewer examples is mostly noise.
_FEW = 3.0

#: An output whose spread is this part of the targets' is always the same.
CONSTANT = 0.1

#: Worse than a constant by this part: no training that converges ends there, since a bias
#: alone would do better.
WORSE = 0.05

#: The smallest part of the whole fall of the loss that the last quarter of a run has, if the
#: loss still falls as fast as it ever did: a quarter, less what noise may take.
STILL_FALLING = 0.15

#: From this depth on weights of a fixed spread, whatever the width of the layer, let values
#: and gradients shrink or grow layer by layer (X. Glorot and Y. Bengio, as above).
_DEEP = 5
_FIXED_SPREAD = ("RandomNormal", "RandomUniform", "TruncatedNormal")

#: Half of the units is usual for dropout (N. Srivastava et al., "Dropout", 2014).
_MOST_DROPPED = 0.8

#: Layers that bring inputs to a scale of their own.
_NORMALISING = (
    "BatchNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "Normalization",
    "Rescaling",
    "UnitNormalization",
)
#: Layers that take whole numbers as names.
_LOOKING_UP = ("CategoryEncoding", "Embedding", "Hashing", "IntegerLookup")
#: So many of the first layers are looked at for these.
_FIRST_LAYERS = 4

#: Activations that make no bend, and layers that are linear without one.
_STRAIGHT = (None, "linear")
_LINEAR = (
    "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Conv3D", "Dense",
    "DepthwiseConv1D", "DepthwiseConv2D", "EinsumDense", "SeparableConv1D", "SeparableConv2D",
)  # fmt: skip
#: What may stand between without bending anything.
_PASSING = (
    "Activation", "AveragePooling1D", "AveragePooling2D", "Dropout", "Flatten",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "Permute", "Rescaling", "Reshape",
    "SpatialDropout1D", "SpatialDropout2D", "ZeroPadding2D",
)  # fmt: skip

#: Layers that join several paths.
_JOINING = (
    "Add", "AdditiveAttention", "Attention", "Average", "Concatenate", "Dot", "Maximum",
    "Multiply", "MultiHeadAttention", "Subtract",
)  # fmt: skip

#: Initializers that make all units of a layer equal.
_EQUAL_UNITS = ("Constant", "Ones", "Zeros")


class Reason(NamedTuple):
    """Why a training may not learn: what was seen, what to try, and what fault it is."""

    seen: str
    advice: str
    faults: tuple[str, ...]


Finder = Callable[[Course], "Reason | None"]


def unscaled_inputs(course: Course) -> Reason | None:
    """Inputs far from a spread of one, and no layer that scales them."""
    first = [layer.kind for layer in course.card.layers[:_FIRST_LAYERS]]
    if any(kind in (*_NORMALISING, *_LOOKING_UP) for kind in first):
        return None
    if course.inputs and all(level.size == 0 for level in course.inputs):
        return Reason("all inputs are 0", "Look at the data.", ("missing_normalisation",))
    odd = [x for x in course.inputs if x.size > _LARGE or 0 < x.size < 1 / _LARGE]
    if not odd:
        return None
    level = max(odd, key=lambda each: abs(math.log(each.size)))
    return Reason(
        f"inputs go from {level.min:.4g} to {level.max:.4g}",
        "Scale the inputs to a mean near 0 and a spread near 1.",
        ("missing_normalisation",),
    )


def unscaled_targets(course: Course) -> Reason | None:
    """Targets far from where an output begins, which is near zero with a spread near one."""
    target = course.target
    of_numbers = course.card.loss in ("mean_squared_error", "mean_absolute_error")
    if target is None or not of_numbers:
        return None
    # An output that has got to where targets are is not kept from more by their size.
    worse = course.skill is None or course.skill < -WORSE
    large = target.size > _LARGE and (worse or target.std > _LARGE**2)
    small = 0 < target.std < 1 / _LARGE and worse
    if not large and not small:
        return None
    return Reason(
        f"targets go from {target.min:.4g} to {target.max:.4g}",
        "Scale the targets to a mean near 0 and a spread near 1.",
        ("missing_normalisation",),
    )


def vanishing(course: Course) -> Reason | None:
    """Many sigmoids in a row."""
    sigmoids = [
        x for x in course.card.layers[:-1] if x.activation in ("sigmoid", "hard_sigmoid")
    ]
    if len(sigmoids) < _SIGMOIDS:
        return None
    return Reason(
        f"gradients vanish through {len(sigmoids)} layers of sigmoids",
        "Use ReLU or tanh in hidden layers.",
        ("vanishing",),
    )


def low_rate(course: Course) -> Reason | None:
    """A learning rate far below the usual, or too few steps for it."""
    card, loss = course.card, course.loss
    rate, usual = card.learning_rate, _USUAL_RATES.get(card.optimizer or "")
    if loss is None or rate is None or usual is None:
        return None
    if card.optimizer in _BOUNDED and rate * loss.steps < _REACH:
        return Reason(
            f"{loss.steps} steps of {card.optimizer} at {rate:.3g} move a weight by at most "
            f"about {rate * loss.steps:.2g}",
            "Raise the learning rate, or train for more steps.",
            ("learning_rate_too_low", "too_few_epochs"),
        )
    if rate * _TIMES > usual:
        return None
    return Reason(
        f"{card.optimizer} has a learning rate of {rate:.3g}, where {usual:g} is usual",
        "Raise the learning rate.",
        ("learning_rate_too_low",),
    )


def high_rate(course: Course) -> Reason | None:
    """A learning rate far above the usual."""
    card = course.card
    rate, usual = card.learning_rate, _USUAL_RATES.get(card.optimizer or "")
    if rate is None or usual is None or rate < _TIMES * usual:
        return None
    return Reason(
        f"{card.optimizer} has a learning rate of {rate:.3g}, where {usual:g} is usual",
        "Lower the learning rate.",
        ("learning_rate_too_high",),
    )


def unstable(course: Course) -> Reason | None:
    """Worse than a constant, which a smaller step would have found."""
    if course.skill is None or course.skill >= -WORSE:
        return None
    # What still falls as fast as ever is on its way; what always says the same stands still.
    others = (high_rate, low_rate, unscaled_inputs, unscaled_targets, short, constant_output)
    if any(find(course) for find in others):
        return None
    return Reason(
        "steps that are too large throw the weights about",
        "Lower the learning rate.",
        ("learning_rate_too_high", "exploding"),
    )


def constant_output(course: Course) -> Reason | None:
    """An output that hardly varies, where the targets do."""
    spread, said = _spread_of_targets(course), course.said
    if spread is None or said is None or not said[1] < CONSTANT * spread:
        return None
    return Reason(
        f"the output varies by {said[1]:.2g}, the targets by {spread:.2g}",
        "Look for dead or saturated layers, and for inputs that tell nothing.",
        ("constant_output",),
    )


def _spread_of_targets(course: Course) -> float | None:
    """The standard deviation that an output would have that says the targets."""
    card, target, layer = course.card, course.target, course.card.last_layer
    if target is None or card.from_logits:
        return None
    if card.loss == "sparse_categorical_crossentropy" and layer is not None and layer.units:
        # Numbers of classes stand for rows in which one is 1, and all others are 0.
        return math.sqrt((1 / layer.units) * (1 - 1 / layer.units))
    return target.std


def no_bend(course: Course) -> Reason | None:
    """Hidden layers, and nothing among them that is not linear."""
    layers = course.card.layers
    hidden = [layer for layer in layers[:-1] if layer.kind in _LINEAR]
    straight = all(
        layer.activation in _STRAIGHT and layer.kind in (*_LINEAR, *_PASSING)
        for layer in layers[:-1]
    )
    if not hidden or not straight:
        return None
    return Reason(
        "no layer before the last has a nonlinear activation, so they are one linear map",
        "Give the hidden layers an activation, such as ReLU.",
        ("other",),
    )


def equal_units(course: Course) -> Reason | None:
    """Hidden layers whose units begin equal: they get equal gradients, and stay so."""
    equal = [
        layer for layer in course.card.layers[:-1]
        if layer.initializer in _EQUAL_UNITS and (layer.units or 0) > 1
    ]  # fmt: skip
    if not equal:
        return None
    return Reason(
        f"the units of {equal[0].path} begin equal ({equal[0].initializer}), and stay so",
        "Initialise kernels at random.",
        ("initialisation",),
    )


def fixed_spread(course: Course) -> Reason | None:
    """Many layers whose first weights do not depend on the layer's width."""
    layers = course.card.layers[:-1]
    fixed = [layer for layer in layers if layer.initializer in _FIXED_SPREAD]
    if len(fixed) < _DEEP or any(layer.kind in _NORMALISING for layer in layers):
        return None
    return Reason(
        f"the weights of {len(fixed)} hidden layers begin with a fixed spread "
        f"({fixed[0].initializer}), so that values shrink or grow from layer to layer",
        "Use glorot_uniform, or he_normal for ReLU.",
        ("vanishing", "initialisation"),
    )


def heavy_dropout(course: Course) -> Reason | None:
    """Dropout of nearly everything."""
    layer = course.layer_of_most("dropout")
    if layer is None or layer.dropout is None or layer.dropout < _MOST_DROPPED:
        return None
    return Reason(
        f"{layer.path} leaves out {100 * layer.dropout:.3g}% of what it is given",
        "Use a dropout of at most a half.",
        ("other",),
    )


def frozen(course: Course) -> Reason | None:
    """Layers that are not trained, which nothing is wrong with if they were before."""
    frozen = [layer.path for layer in course.card.layers if layer.trained is False]
    if not frozen:
        return None
    return Reason(
        f"{counted(len(frozen), 'layer')} with weights (first {frozen[0]}) "
        f"{'is' if len(frozen) == 1 else 'are'} not trained",
        "Unless their weights come from another training, let them be trained.",
        ("frozen_or_disconnected",),
    )


def narrow(course: Course) -> Reason | None:
    """A hidden layer through which one number passes."""
    layers = course.card.layers
    narrow = [x for x in layers[:-1] if x.kind == "Dense" and x.units == 1]
    # Beside others a single unit may be a gate.
    if not narrow or any(layer.kind in _JOINING for layer in layers):
        return None
    return Reason(
        f"all that is known of an input passes through the one unit of {narrow[0].path}",
        "Give hidden layers more units.",
        ("other",),
    )


def classes_as_numbers(course: Course) -> Reason | None:
    """A loss of numbers, and targets that are classes."""
    if not loss_of_classes(course):
        return None
    return Reason(
        f"{course.card.loss} is a loss of numbers, and the targets are classes",
        "Use a cross-entropy.",
        ("wrong_loss",),
    )


def short(course: Course) -> Reason | None:
    """The loss still falls as fast as it did all along."""
    if course.loss is None:
        return None
    fall, whole = course.loss.last_fall, float(course.loss.means[0] - course.loss.means[-1])
    if not whole > 0 or fall < STILL_FALLING * whole or not course.loss.falls:
        return None
    return Reason(
        "the loss still falls as fast as it did all along",
        "Train longer, or raise the learning rate.",
        ("too_few_epochs", "learning_rate_too_low"),
    )


def wild_start(course: Course) -> Reason | None:
    """A loss of classes that begins far above that of a model that knows nothing."""
    loss, constant = course.loss, course.constant
    of_classes = (course.card.loss or "").endswith("crossentropy")
    if loss is None or constant is None or not of_classes or loss.first < _WILD * constant:
        return None
    if high_rate(course) or unscaled_inputs(course):
        return None  # a single step of it would do, and so would they
    return Reason(
        f"it begins at {loss.first:.4g}, so the first weights are too large",
        "Initialise with smaller weights (Keras's defaults).",
        ("initialisation",),
    )


def tiny_batch(course: Course) -> Reason | None:
    """Batches of next to no examples."""
    if course.batch is None or course.batch >= _FEW:
        return None
    return Reason(
        f"a step sees {course.batch:.2g} example{'s' if course.batch > 1 else ''}",
        "Use batches of 16 to 256 examples.",
        ("batch_size",),
    )


#: What is left if all else is as it should be, and the loss does not fall.
UNRELATED = Reason(
    "the targets may not belong to their inputs",
    "Check that inputs and targets were not shuffled apart, then learn one batch by heart.",
    ("wrong_labels_or_encoding",),
)


#: Why little is learnt, the more certain reasons first.
OF_LITTLE: tuple[Finder, ...] = (
    equal_units,
    low_rate,
    high_rate,
    unscaled_inputs,
    unscaled_targets,
    vanishing,
    fixed_spread,
    classes_as_numbers,
    wild_start,
    tiny_batch,
    no_bend,
    narrow,
    heavy_dropout,
    frozen,
)

#: Why nothing is learnt.
OF_NOTHING = (*OF_LITTLE, unstable)

#: What is seen where nothing is learnt, whatever the reason.
SYMPTOMS: tuple[Finder, ...] = (short, constant_output)
