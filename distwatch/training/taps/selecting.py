"""From what was heard to signals: each kind of selector picks its tensors by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from distwatch import signals
from distwatch.errors import UnwatchableError
from distwatch.signals import Selector, matching
from distwatch.training.strategies import facts_of, replica_id
from distwatch.training.taps.capturing import value_of
from distwatch.training.taps.layer_paths import (
    leaves,
    parts,
    places,
    watched_by_default,
    weight_paths,
)
from distwatch.training.taps.step_capture import Applied, StepCapture
from distwatch.training.taps.subject import Subject

Tensor = Any


class PickedSignal(NamedTuple):
    """One signal's name, the tensor that carries it, and its companion."""

    name: str
    tensor: Tensor
    companion: Tensor | None = None
    #: What the tapped layer itself wants to be measured against.
    reference: str | None = None


class Selecting:
    """Picks the signals of a step.

    Args:
        subject: what is trained.
        unwatched: filled with what could be watched and is not: path -> why.
    """

    def __init__(self, subject: Subject, unwatched: dict[str, str]) -> None:
        self._subject = subject
        self._model = subject.root
        self._unwatched = unwatched
        self.places = places(subject.root)
        self.traced_places = [place for place in self.places if not place.in_loop]
        self._pick: dict[
            type[Selector], Callable[[Any, StepCapture], Iterator[PickedSignal]]
        ] = {
            signals.Activations: self._activations,
            signals.Tensors: self._tensors,
            signals.Probe: self._probe,
            signals.Gradients: self._gradients,
            signals.Weights: self._weights,
            signals.Updates: self._updates,
            signals.Inputs: self._inputs,
            signals.Loss: self._loss,
        }

    def check(self, selector: Selector) -> None:
        """Refuse, before the first step, what is known to be impossible.

        Raises:
            UnknownSignalError: a pattern matches nothing.
            UnwatchableError: Keras hides what is asked for.
        """
        if isinstance(selector, (signals.Activations, signals.Tensors, signals.Probe)):
            if selector.patterns is not None:
                matching(selector.patterns, [place.path for place in self.traced_places])
            return
        if isinstance(selector, (signals.Gradients, signals.Updates)):
            self._check_optimizer(selector)
        if isinstance(selector, signals.Weights) and self._model.built:
            self._chosen_weights(selector, ("weight",))

    def pick(self, selector: Selector, capture: StepCapture) -> list[PickedSignal]:
        """The signals that a selector chooses, in the order of the model.

        Raises:
            UnknownSignalError: a pattern matches nothing.
            UnwatchableError: something that was named cannot be watched.
        """
        return [
            picked
            for picked in self._pick[type(selector)](selector, capture)
            if self._watchable(picked, selector)
        ]

    def _watchable(self, picked: PickedSignal, selector: Selector) -> bool:
        why = _unwatchable(picked.tensor)
        if why is None:
            return True
        if selector.patterns is not None:
            raise UnwatchableError(
                f"{picked.name!r} was asked for but cannot be watched: {why}. "
                "Choose others, or leave the pattern out to pass over it."
            )
        self._unwatched[picked.name.partition("/")[2] or picked.name] = why
        return False

    # Layers

    def _activations(
        self, selector: signals.Activations, capture: StepCapture
    ) -> Iterator[PickedSignal]:
        for place in self._chosen_places(selector):
            calls = capture.calls.get(place.path, [])
            if not calls:
                self._unwatched[place.path] = "not called in the step's own graph"
            if selector.outputs:
                values = [c.inputs if place.inputs_reference else c.outputs for c in calls]
                for name, leaf in leaves(place.path, values):
                    reference = place.inputs_reference
                    yield PickedSignal(f"activation/{name}", leaf, reference=reference)
            if selector.inputs:
                for name, leaf in leaves(place.path, [call.inputs for call in calls]):
                    yield PickedSignal(f"activation_input/{name}", leaf)

    def _tensors(
        self, selector: signals.Tensors, capture: StepCapture
    ) -> Iterator[PickedSignal]:
        if selector.reduce and facts_of(tf.distribute.get_strategy()).workers > 1:
            raise UnwatchableError(
                f"tensors(reduce={selector.reduce!r}): each worker reduces over its own "
                "replicas only; leave reduce out to keep the tensors of all of them."
            )
        for place in self._chosen_places(selector):
            calls = [call.outputs for call in capture.calls.get(place.path, [])]
            for name, leaf in leaves(place.path, calls):
                if isinstance(leaf, tf.Tensor) and not leaf.shape[1:].is_fully_defined():
                    raise UnwatchableError(
                        f"tensors({name!r}): the size of its features varies "
                        f"({leaf.shape}), so it has no place in one array; watch it by "
                        "distwatch.activations, or give it a fixed size."
                    )
                yield PickedSignal(f"tensor/{name}", leaf)

    def _probe(self, selector: signals.Probe, capture: StepCapture) -> Iterator[PickedSignal]:
        for place in self._chosen_places(selector):
            calls = [call.outputs for call in capture.calls.get(place.path, [])]
            for name, leaf in leaves(place.path, calls):
                yield PickedSignal(f"probe/{name}", leaf)

    def _chosen_places(self, selector: Selector) -> list[Any]:
        if selector.patterns is None:
            chosen = watched_by_default(self._model)
            return [place for place in self.traced_places if id(place.layer) in chosen]
        paths = [place.path for place in self.traced_places]
        named = set(matching(selector.patterns, paths))
        return [place for place in self.traced_places if place.path in named]

    # Weights and what happens to them

    def _weights(
        self, selector: signals.Weights, capture: StepCapture
    ) -> Iterator[PickedSignal]:
        for path, variable in self._chosen_weights(selector, ("weight",)).items():
            yield PickedSignal(f"weight/{path}", value_of(variable))

    def _updates(
        self, selector: signals.Updates, capture: StepCapture
    ) -> Iterator[PickedSignal]:
        for path, applied, i in self._applied(selector, capture, ("update",)):
            before = applied.before[i]
            yield PickedSignal(f"update/{path}", applied.after[i] - before, companion=before)

    def _gradients(
        self, selector: signals.Gradients, capture: StepCapture
    ) -> Iterator[PickedSignal]:
        kinds = ("gradient_local", "gradient", "gradient_clipped")
        for path, applied, i in self._applied(selector, capture, kinds):
            if applied.local[i] is None:
                self._unwatched[path] = "no gradient of the loss reaches it"
                continue
            if selector.local:
                yield PickedSignal(f"gradient_local/{path}", applied.local[i])
            if selector.applied:
                reduced = applied.reduced.get(id(applied.variables[i].value))
                if reduced is None:
                    raise UnwatchableError(_HIDDEN.format(_name(applied.optimizer)))
                kind = "gradient_clipped" if _clips(applied.optimizer) else "gradient"
                yield PickedSignal(f"{kind}/{path}", _on_first_replica(reduced))

    def _applied(
        self, selector: Selector, capture: StepCapture, kinds: tuple[str, ...]
    ) -> Iterator[tuple[str, Applied, int]]:
        """The variables that the optimizer was given: path, what it did, position."""
        if not capture.applied:
            raise UnwatchableError(
                f"{selector.kind}: the train step does not call the apply method of an "
                "optimizer that is known, so there is nothing to watch."
            )
        chosen = self._chosen_weights(selector, kinds)
        path_of = {id(variable): path for path, variable in chosen.items()}
        times: Counter[int] = Counter()
        for applied in capture.applied:
            for i, variable in enumerate(applied.variables):
                if id(variable) in path_of:
                    number = times[id(variable)]
                    times[id(variable)] += 1
                    again = f"#{number}" if number else ""
                    yield path_of[id(variable)] + again, applied, i

    def _chosen_weights(self, selector: Selector, kinds: tuple[str, ...]) -> dict[str, Any]:
        named = weight_paths(self._model)
        if selector.patterns is None:
            return named
        paths = matching(selector.patterns, list(named), kinds=kinds, of="weight")
        return {path: named[path] for path in paths}

    def _check_optimizer(self, selector: Selector) -> None:
        optimizers = self._subject.optimizers
        if not optimizers:
            raise UnwatchableError(f"{selector.kind}: the model has no optimizer.")
        if self._model.built:
            self._chosen_weights(selector, ("gradient_local", "gradient", "update"))
        applied = isinstance(selector, signals.Gradients) and selector.applied
        for optimizer in optimizers if applied else ():
            if _hides_applied(optimizer):
                raise UnwatchableError(_HIDDEN.format(_name(optimizer)))

    # The batch

    def _inputs(self, selector: signals.Inputs, capture: StepCapture) -> Iterator[PickedSignal]:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(capture.data)
        for name, leaf in parts("input", x):
            yield PickedSignal(name, leaf)

    def _loss(self, selector: signals.Loss, capture: StepCapture) -> Iterator[PickedSignal]:
        if not capture.losses:
            raise UnwatchableError(
                "loss: the step does not call compute_loss of the model in its own graph, "
                "so there is nothing to watch; in a loop of your own, hand it over by "
                "watch.loss(...)."
            )
        for name, loss in leaves("loss", capture.losses):
            yield PickedSignal(name, loss)


_HIDDEN = (
    "gradients: under {} Keras adds up the replicas' gradients inside a condition, where "
    "they cannot be seen; watch distwatch.gradients(applied=False), the local ones, "
    "whose mean over replicas is what is applied."
)


def _hides_applied(optimizer: Any) -> bool:
    return bool(
        isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        or getattr(optimizer, "gradient_accumulation_steps", None)
    )


def _name(optimizer: Any) -> str:
    if getattr(optimizer, "gradient_accumulation_steps", None):
        return "gradient accumulation"
    return type(optimizer).__name__


def _clips(optimizer: Any) -> bool:
    limits = ("clipnorm", "global_clipnorm", "clipvalue")
    return any(getattr(optimizer, name, None) is not None for name in limits)


def _on_first_replica(x: Tensor) -> Tensor:
    """What is equal on all replicas is looked at once: the others hand over no rows."""
    flat = tf.reshape(x, [-1]) if not x.shape.rank else x
    return x if replica_id() == 0 else flat[:0]


def _unwatchable(leaf: Any) -> str | None:
    """Say why a tensor cannot be watched, or None if it can."""
    if not isinstance(leaf, tf.Tensor):
        return f"it is a {type(leaf).__name__}, only dense tensors can be compared"
    if not (leaf.dtype.is_floating or leaf.dtype.is_integer):
        return f"it is of dtype {leaf.dtype.name}, not of real numbers"
    if leaf.shape.rank is None:
        return "the number of its dims is unknown"
    return None
