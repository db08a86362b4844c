"""What a tap is: it picks the signals of one selector out of what a step did."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from distwatch.errors import UnwatchableError
from distwatch.records import TRAIN, TRAIN_ON_BATCH, TensorLayout
from distwatch.signals import Selector, matching
from distwatch.training.taps.capturing import StepCapturer
from distwatch.training.taps.layer_paths import (
    Place,
    default_layers,
    leaves,
    places,
    weight_paths,
)
from distwatch.training.taps.step_capture import Applied, Call, StepCapture
from distwatch.training.taps.subject import Subject

Tensor = Any


class PickedSignal(NamedTuple):
    """One signal's name, the tensor that carries it, and its companion."""

    name: str
    tensor: Tensor
    companion: Tensor | None = None
    #: What the tapped layer itself wants to be measured against.
    reference: str | None = None
    #: "unknown" where it may be divided by the number of replicas, or not.
    scaled: str | None = None
    #: See `distwatch.signals.Signal`.
    copied: bool | None = None
    trained: bool | None = None


class Watched:
    """What taps choose from: the layers and weights of what is trained.

    Args:
        subject: what is trained.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.model = subject.root
        #: What could be watched and is not: path -> why.
        self.unwatched: dict[str, str] = {}
        self.places = places(subject.root)
        #: Layers inside a loop are out of reach.
        self.layers = [place for place in self.places if not place.in_loop]


class Tap(ABC):
    """Picks the signals of one selector. There is a subclass for each kind of selector.

    Args:
        selector: what to pick.
        watched: the layers and weights to choose from.
    """

    #: The phases in which its signals exist.
    phases: ClassVar[tuple[str, ...]] = (TRAIN, TRAIN_ON_BATCH)
    #: Whether weights are read around the optimizer's step, which is not free.
    observes_optimizer: ClassVar[bool] = False

    def __init_subclass__(cls, selector: type[Selector] | None = None) -> None:
        if selector is not None:
            TAPS[selector] = cls

    def __init__(self, selector: Any, watched: Watched) -> None:
        self.selector = selector
        self.watched = watched

    def check(self) -> None:  # noqa: B027 - most kinds have nothing to refuse
        """Refuse, before the first step, what is known to be impossible.

        Raises:
            UnknownSignalError: a pattern matches nothing.
            UnwatchableError: Keras hides what is asked for.
        """

    @abstractmethod
    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        """The signals that the selector chooses, in the order of the model.

        Raises:
            UnknownSignalError: a pattern matches nothing.
            UnwatchableError: what is asked for did not happen in the step.
        """

    def pick(self, capture: StepCapture) -> Iterator[PickedSignal]:
        """Those of them that can be watched.

        Raises:
            UnknownSignalError: a pattern matches nothing.
            UnwatchableError: something that was named cannot be watched.
        """
        for picked in self.find(capture):
            why = _unwatchable(picked.tensor)
            if why is None:
                yield picked
            elif self.selector.chosen is None:
                self.watched.unwatched[picked.name.partition("/")[2] or picked.name] = why
            else:
                raise UnwatchableError(
                    f"{picked.name!r} was asked for but cannot be watched: {why}. "
                    "Choose others, or leave the pattern out to pass over it."
                )

    def table_key(self, name: str) -> Any:
        """Signals of different keys are in different tables."""
        return None

    def layout(self, picked: PickedSignal) -> TensorLayout | None:
        """How raw deltas are kept, if they are."""
        return None

    def evaluator(
        self, picked: Sequence[PickedSignal], capturer: StepCapturer
    ) -> Callable[[Tensor], Sequence[Tensor]] | None:
        """What computes the signals only at steps that are looked at, if anything does."""
        return None


#: The tap of each kind of selector.
TAPS: dict[type[Selector], type[Tap]] = {}


class LayerTap(Tap):
    """A tap whose patterns are over layer paths."""

    def check(self) -> None:
        if self.selector.chosen is not None:
            self.chosen_layers()

    def chosen_layers(self) -> list[Place]:
        """The layers that the selector chooses."""
        layers = self.watched.layers
        if self.selector.chosen is None:
            outermost = default_layers(self.watched.model)
            return [place for place in layers if id(place.layer) in outermost]
        prefixes = ("activation", *self.selector.prefixes)
        paths = [place.path for place in layers]
        named = set(matching(self.selector.chosen, paths, prefixes=prefixes))
        return [place for place in layers if place.path in named]

    def outputs(self, capture: StepCapture) -> Iterator[tuple[str, Any]]:
        """Name -> tensor of everything that the chosen layers put out."""
        for place in self.chosen_layers():
            calls: list[Call] = capture.calls.get(place.path, [])
            yield from leaves(place.path, [call.outputs for call in calls])


class WeightTap(Tap):
    """A tap whose patterns are over variable paths."""

    def check(self) -> None:
        if self.watched.model.built:
            self.chosen_weights()

    def chosen_weights(self) -> dict[str, Any]:
        """Path -> variable of those that the selector chooses."""
        named = weight_paths(self.watched.model)
        if self.selector.chosen is None:
            return named
        paths = matching(
            self.selector.chosen, list(named), prefixes=self.selector.prefixes, of="weight"
        )
        return {path: named[path] for path in paths}


class OptimizerTap(WeightTap):
    """A tap of what an optimizer is given, or does."""

    observes_optimizer = True

    def check(self) -> None:
        if not self.watched.subject.optimizers:
            raise UnwatchableError(f"{self.selector.kind}: the model has no optimizer.")
        super().check()

    def applied(self, capture: StepCapture) -> Iterator[tuple[str, Applied, int]]:
        """The variables that the optimizer was given: path, what it did, position.

        Raises:
            UnwatchableError: no known optimizer was applied in the step.
        """
        if not capture.applied:
            raise UnwatchableError(
                f"{self.selector.kind}: the train step does not call the apply method of an "
                "optimizer that is known, so there is nothing to watch."
            )
        path_of = {id(variable): path for path, variable in self.chosen_weights().items()}
        times: Counter[int] = Counter()
        for applied in capture.applied:
            for i, variable in enumerate(applied.variables):
                if id(variable) in path_of:
                    number = times[id(variable)]
                    times[id(variable)] += 1
                    again = f"#{number}" if number else ""
                    yield path_of[id(variable)] + again, applied, i


def _unwatchable(leaf: Any) -> str | None:
    """Say why a tensor cannot be watched, or None if it can."""
    if not isinstance(leaf, tf.Tensor):
        return f"it is a {type(leaf).__name__}, only dense tensors can be compared"
    if not (leaf.dtype.is_floating or leaf.dtype.is_integer):
        return f"it is of dtype {leaf.dtype.name}, not of real numbers"
    if leaf.shape.rank is None:
        return "the number of its dims is unknown"
    return None
