"""The layers and weights of a model, each under the path that its signals are named by."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

import keras

#: Layers that run their inner layer inside a loop, out of reach: they stand for it.
STAND_FOR_INNER = (keras.layers.RNN, keras.layers.TimeDistributed)

#: The path under which the model's own output is known.
OUTPUT = "output"


@dataclass(frozen=True)
class Place:
    """A layer and where it is."""

    layer: keras.layers.Layer
    path: str
    #: A layer inside a loop cannot be captured.
    in_loop: bool = False

    @property
    def inputs_reference(self) -> str | None:
        """A layer that wants its *inputs* watched (a Tracker) says against what."""
        return getattr(self.layer, "watched_reference", None)


def places(model: keras.Model) -> list[Place]:
    """All layers below a model in its own order, and last the model itself."""
    found: list[Place] = []
    seen = {id(model)}

    def descend(layer: keras.layers.Layer, prefix: str, in_loop: bool) -> None:
        for inner in layer._layers:
            if id(inner) in seen or isinstance(inner, keras.layers.InputLayer):
                continue
            seen.add(id(inner))
            path = free_path(prefix + inner.name, [place.path for place in found])
            found.append(Place(inner, path, in_loop))
            descend(inner, path + "/", in_loop or isinstance(inner, STAND_FOR_INNER))

    descend(model, "", False)
    found.append(Place(model, free_path(OUTPUT, [place.path for place in found])))
    return found


def path_of_model(found: list[Place]) -> str:
    """The path of the model itself among its `places`."""
    return found[-1].path


def default_layers(model: keras.Model) -> tuple[set[int], set[int]]:
    """The layers that are watched by default, and those that have no trainable weights.

    Watched are the outermost layers that own trainable weights directly (one that runs its
    inner layer in a loop stands for it), every Tracker, and the model.

    Returns:
        Ids of the ones and of the outermost of the others.
    """
    watched, left_out = {id(model)}, set()

    def descend(layer: keras.layers.Layer) -> None:
        for inner in layer._layers:
            if hasattr(inner, "watched_reference") or _owns_trainable(inner):
                watched.add(id(inner))
            elif inner.weights and not inner.trainable_weights and not _has_tracker(inner):
                left_out.add(id(inner))
            else:
                descend(inner)

    descend(model)
    return watched, left_out


def why_left_out(layer: keras.layers.Layer) -> str:
    """Why a layer with weights, none of them trainable, is not watched by default.

    Some have none although nobody froze them: a Normalization, or a BatchNormalization
    without ``scale`` and ``center``.
    """
    frozen = any(each.weights and not each.trainable for each in layer._flatten_layers())
    return f"{'frozen' if frozen else 'without trainable weights'}: name it to watch"


def _owns_trainable(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, STAND_FOR_INNER):
        return bool(layer.trainable_weights)
    own = {id(variable) for variable in layer._trainable_variables}
    return any(id(variable) in own for variable in layer.trainable_weights)


def _has_tracker(layer: keras.layers.Layer) -> bool:
    return any(hasattr(each, "watched_reference") for each in layer._flatten_layers())


def weight_paths(model: keras.Model) -> dict[str, Any]:
    """Path -> variable, for each weight of numbers with a fraction, in the model's order.

    A path is the layer's and the variable's name: ``encoder/dense_1/kernel``.
    """
    owners: dict[int, str] = {}
    for place in places(model):
        prefix = "" if place.layer is model else place.path + "/"
        for variable in (
            *place.layer._trainable_variables,
            *place.layer._non_trainable_variables,
        ):
            owners.setdefault(id(variable), prefix + variable.name)
    named: dict[str, Any] = {}
    for variable in model.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            path = owners.get(id(variable), variable.path)
            named[free_path(path, named)] = variable
    return named


def copied_weights(model: keras.Model) -> set[int]:
    """Ids of the weights of which every replica holds an equal copy.

    Optimizers change what is trainable, on all replicas alike; so a frozen weight is equal,
    too. What a layer keeps besides, such as the moving averages of BatchNormalization, each
    replica changes by itself.
    """
    return {
        id(variable) for place in places(model) for variable in place.layer._trainable_variables
    }


def leaves(path: str, calls: list[Any]) -> Iterator[tuple[str, Any]]:
    """Name each tensor of each call: ``lstm``, ``lstm#1`` (second call), ``lstm:0``."""
    for number, values in enumerate(calls):
        name = f"{path}#{number}" if number else path
        yield from parts(name, values)


def parts(name: str, values: Any) -> Iterator[tuple[str, Any]]:
    """Name each tensor of a nested structure: ``name:0``, ``name:key.0``."""
    if not keras.tree.is_nested(values):
        yield name, values
        return
    for keys, leaf in keras.tree.flatten_with_path(values):
        yield f"{name}:{'.'.join(map(str, keys))}", leaf


def free_path(path: str, taken: Container[str]) -> str:
    """Two layers of one name in one place become ``name`` and ``name~2``."""
    numbered = (f"{path}~{n}" for n in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if each not in taken)
