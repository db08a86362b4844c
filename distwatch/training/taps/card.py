"""What is trained, and how: what rules about a training's set-up need to know."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distwatch.records import Card, Layer
from distwatch.training.taps.layer_paths import STAND_FOR_INNER, Place, path_of_model
from distwatch.training.taps.learning_rates import current_number, innermost, is_scheduled
from distwatch.training.taps.loss_shapes import compares_all_pairs
from distwatch.training.taps.step_capture import StepCapture
from distwatch.training.taps.subject import Subject

#: Arguments of layers that add a term to the loss.
_REGULARIZERS = (
    "activity_regularizer",
    "bias_regularizer",
    "depthwise_regularizer",
    "embeddings_regularizer",
    "kernel_regularizer",
    "pointwise_regularizer",
    "recurrent_regularizer",
)
#: Keras's own, whose factors are known.
_PENALTIES = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)

#: Where layers keep what is added and multiplied by, and what initializers make of it.
_UNTRAINED = {"bias": 0.0, "beta": 0.0, "gamma": 1.0}


def card_of(subject: Subject, found: list[Place], capture: StepCapture) -> Card:
    """Describe what is trained.

    Args:
        subject: what is trained.
        found: the layers of its model, and last the model itself.
        capture: its first step.
    """
    model = subject.root
    plain = [place for place in found[:-1] if not _holds_others(place.layer)]
    called = [place for place in plain if place.path in capture.calls]
    called.sort(key=lambda place: list(capture.calls).index(place.path))
    given = None if subject.by_hand else getattr(model, "loss", None)
    optimizer = innermost(subject.optimizers[0]) if len(subject.optimizers) == 1 else None
    return Card(
        layers=tuple(_described(place.layer, place.path, capture) for place in called),
        last=_last(called, capture, path_of_model(found)),
        **_loss(given),
        optimizer=None if optimizer is None else type(optimizer).__name__,
        learning_rate=_fixed_rate(optimizer),
        further_terms=_is_weighted(capture)
        or _is_no_mean(model, given)
        or any(_adds_a_term(place.layer) for place in plain),
        of_pairs=compares_all_pairs(
            capture.losses, _targets(capture), _said(capture, path_of_model(found))
        ),
    )


def _targets(capture: StepCapture) -> Any:
    """What a step was given as targets, if it was given any."""
    given = capture.data
    return given[1] if isinstance(given, tuple) and len(given) > 1 else None


def _holds_others(layer: keras.layers.Layer) -> bool:
    """Whether it only holds layers; one that runs its inner layer in a loop stands for it."""
    if isinstance(layer, STAND_FOR_INNER):
        return False
    own = (*layer._trainable_variables, *layer._non_trainable_variables)
    return bool(layer._layers) and not own


def _described(layer: keras.layers.Layer, path: str, capture: StepCapture) -> Layer:
    outputs = keras.tree.flatten(capture.calls[path][-1].outputs)
    shape = getattr(outputs[0], "shape", None) if outputs else None
    initializer = getattr(layer, "kernel_initializer", None)
    return Layer(
        path=path,
        kind=type(layer).__name__,
        activation=_activation(layer),
        units=shape[-1] if shape is not None and shape.rank else None,
        initializer=None if initializer is None else type(initializer).__name__,
        trained=bool(layer.trainable_weights) if layer.weights else None,
        dropout=float(layer.rate) if isinstance(layer, keras.layers.Dropout) else None,
        spread=_spread(initializer, getattr(layer, "kernel", None)),
        penalty=_penalty(layer),
        fresh=_is_fresh(layer),
    )


def _is_fresh(layer: keras.layers.Layer) -> bool | None:
    """Whether a layer that is not trained was not trained before either, as far as it shows."""
    if layer.trainable_weights or not layer.weights:
        return None
    found = [(getattr(layer, name, None), value) for name, value in _UNTRAINED.items()]
    kept = [(each, value) for each, value in found if isinstance(each, keras.Variable)]
    if not kept:
        return None
    with tf.init_scope():
        return all(bool(np.all(each.numpy() == value)) for each, value in kept)


def _penalty(layer: keras.layers.Layer) -> float | None:
    """The largest factor of Keras's own L1 and L2 regularizers; None without them."""
    given = [getattr(layer, name, None) for name in _REGULARIZERS]
    factors = [
        abs(float(factor))
        for regularizer in given
        if isinstance(regularizer, _PENALTIES)
        for factor in (getattr(regularizer, "l1", 0.0), getattr(regularizer, "l2", 0.0))
    ]
    return max(factors, default=None)


def _spread(initializer: Any, kernel: Any) -> float | None:
    """How many times as wide as by Glorot weights begin, by an initializer of a fixed spread.

    X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural
    networks" (2010): a variance of 2 / (inputs + outputs).
    """
    initializers, shape = keras.initializers, getattr(kernel, "shape", None)
    if shape is None or len(shape) < 2:
        return None
    if isinstance(initializer, initializers.RandomUniform):
        width = (initializer.maxval - initializer.minval) / math.sqrt(12)
    elif isinstance(initializer, initializers.RandomNormal | initializers.TruncatedNormal):
        width = initializer.stddev
    else:
        return None
    each = math.prod(shape[:-2])
    return abs(float(width)) / math.sqrt(2 / (each * (shape[-2] + shape[-1])))


#: Layers that are an activation.
_ACTIVATIONS = {
    keras.layers.ELU: "elu",
    keras.layers.LeakyReLU: "leaky_relu",
    keras.layers.PReLU: "prelu",
    keras.layers.ReLU: "relu",
    keras.layers.Softmax: "softmax",
}


def _activation(layer: keras.layers.Layer) -> str | None:
    named = next((name for kind, name in _ACTIVATIONS.items() if isinstance(layer, kind)), None)
    given = getattr(layer, "activation", None)
    return named or (None if given is None else _name_of(given))


def _said(capture: StepCapture, model: str) -> list[Any]:
    """What a model put out at its last call."""
    calls = capture.calls.get(model, [])
    return keras.tree.flatten(calls[-1].outputs) if calls else []


def _last(places: list[Place], capture: StepCapture, model: str) -> str | None:
    """The path of the layer that puts out what the model does, if that is one tensor."""
    said = _said(capture, model)
    if len(said) != 1:
        return None
    for place in places:
        for call in capture.calls[place.path]:
            if any(leaf is said[0] for leaf in keras.tree.flatten(call.outputs)):
                return place.path
    return None


def _loss(given: Any) -> dict[str, Any]:
    """What a card says of a loss: its name, whose it is, whether it takes logits."""
    if given is None or isinstance(given, (dict, list, tuple)):
        return {}
    loss = keras.losses.get(given)
    function = getattr(loss, "fn", loss)
    module = getattr(function, "__module__", None) or type(function).__module__
    return {
        "loss": _name_of(function),
        "own_loss": not module.startswith("keras."),
        "from_logits": bool(getattr(loss, "_fn_kwargs", {}).get("from_logits", False)),
    }


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", None) or type(function).__name__


def _fixed_rate(optimizer: Any) -> float | None:
    if optimizer is None or is_scheduled(optimizer):
        return None
    return current_number(optimizer)


def _is_weighted(capture: StepCapture) -> bool:
    given = capture.data
    return isinstance(given, tuple) and len(given) == 3 and given[2] is not None


def _is_no_mean(model: Any, loss: Any) -> bool:
    """Whether a loss is added up over the batch instead, or multiplied by something."""
    reduction = getattr(loss, "reduction", None)
    config = getattr(model, "_compile_config", None)
    weights = (getattr(config, "config", None) or {}).get("loss_weights")
    return reduction in ("sum", "none") or weights is not None


def _adds_a_term(layer: keras.layers.Layer) -> bool:
    return bool(layer._losses) or any(getattr(layer, name, None) for name in _REGULARIZERS)
