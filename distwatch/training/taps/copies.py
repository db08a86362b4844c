"""Which variables the replicas hold equal copies of, and which each has by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from distwatch import signals
from distwatch.training.device.copies import Compared, CopiesOfVariables
from distwatch.training.strategies import has_copies, is_joined_on_read
from distwatch.training.taps.between_steps import BetweenStepsTap
from distwatch.training.taps.layer_paths import free_path, places
from distwatch.training.taps.step_capture import StepCapture
from distwatch.training.taps.subject import Subject
from distwatch.training.taps.tap import PickedSignal, Watched

#: Why a variable is not compared between replicas.
_ONCE = "it exists once, not on each replica"
_METRIC = "each replica adds up a value of its own, and they are joined where it is read"
_BY_LAYER = "its layer changes it on each replica by itself, from that replica's rows"
_STATE = "each replica goes on from the rows of its own batch"
_DTYPE = "it is of dtype {}, of which no checksum is taken"


class CopiesTap(BetweenStepsTap, selector=signals.Desync):
    """Checksums of the copies, which `distwatch.training.device.copies` takes."""

    of_variables = True
    one_replica = "there is one replica, so there are no copies to compare"
    not_mirrored = "under {} the replicas hold no copies that are kept equal"
    absent = "the model has no variable of which each replica holds a copy"

    def __init__(self, selector: Any, watched: Watched) -> None:
        super().__init__(selector, watched)
        self._named: dict[str, Any] = {}

    def paths(self) -> list[str]:
        return list(self._named)

    def check(self) -> None:
        super().check()
        if not self.hopeless and self.watched.model.built:
            self._chosen()

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        if self.hopeless:
            return
        own = _changed_by_layers(self.watched.model)
        for path, variable in self._chosen().items():
            value = variable.value
            if (why := own.get(id(variable)) or _why_not(value)) is None:
                yield self.signal(f"desync/{path}", value)
            else:
                self.skip(path, why)
        if self.selector.chosen is None:
            self._list_metrics()

    def skip(self, name: str, why: str) -> None:
        kind = self.selector.kind
        if self.request.names(f"{kind}/{name}"):
            super().skip(f"{kind}/{name}", why)
        self.watched.unwatched[f"{kind}: {name}"] = why

    def table_key(self, name: str) -> Any:
        return self.selector.kind

    def compared(self, picked: Sequence[PickedSignal]) -> Compared:
        return CopiesOfVariables([each.variable for each in picked])

    def _chosen(self) -> dict[str, Any]:
        # Optimizers make theirs when they are applied first.
        self._named = all_variables(self.watched.subject)
        return self.chosen_among(self._named, "variable")

    def _list_metrics(self) -> None:
        """Those of ``compile`` are no variables of the model: all of them in one line."""
        models = self.watched.subject.models
        if any(model.metrics_variables for model in models):
            self.watched.unwatched[f"{self.selector.kind}: metrics"] = _METRIC


def all_variables(subject: Subject) -> dict[str, Any]:
    """Path -> variable of what a training has: weights, seeds, and what optimizers keep.

    A weight's path is that of its other signals; a seed's is its layer's and its own name.
    """
    owners: dict[int, str] = {}
    for place in places(subject.root):
        prefix = "" if place.layer is subject.root else f"{place.path}/"
        seeds = [each.state for each in getattr(place.layer, "_seed_generators", ())]
        own = place.layer._trainable_variables + place.layer._non_trainable_variables
        for variable in (*own, *seeds):
            owners.setdefault(id(variable), prefix + variable.name)
    found: dict[str, Any] = {}
    seen: set[int] = set()
    kept = [variable for each in subject.optimizers for variable in each.variables]
    for variable in (*subject.root.variables, *kept):
        if id(variable) not in seen:
            seen.add(id(variable))
            path = owners.get(id(variable), variable.path)
            found[free_path(path, found)] = variable
    return found


def _changed_by_layers(root: Any) -> dict[int, str]:
    """Ids of variables that layers themselves change on each replica, and why they differ.

    What a layer keeps besides its trainable weights it changes from its own replica's rows,
    as far as is known. Not so what `Normalization` was adapted to before the training, and
    what a synchronized BatchNormalization computes over all replicas.
    """
    found: dict[int, str] = {}
    for place in places(root):
        layer = place.layer
        synchronized = getattr(layer, "synchronized", False)
        if not isinstance(layer, keras.layers.Normalization) and not synchronized:
            found |= {id(each): _BY_LAYER for each in layer._non_trainable_variables}
        if isinstance(layer, keras.layers.RNN) and layer.stateful:
            states = keras.tree.flatten(layer.states or ())
            found |= {id(each): _STATE for each in states}
    return found


def _why_not(value: Any) -> str | None:
    if not has_copies(value):
        return _ONCE
    if is_joined_on_read(value):
        return _METRIC
    dtype = value.dtype
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        return _DTYPE.format(dtype.name)
    return None
