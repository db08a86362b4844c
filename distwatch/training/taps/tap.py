"""What a tap is: it picks the signals of one selector out of what a step did."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from distwatch.errors import UnknownSignalError, UnwatchableError
from distwatch.records import TRAIN, TRAIN_ON_BATCH, TensorLayout
from distwatch.signals import (
    ExactPath,
    LayerName,
    Pattern,
    Selector,
    matching,
    selector_hint,
)
from distwatch.training.strategies import StrategyFacts
from distwatch.training.taps.capturing import StepCapturer
from distwatch.training.taps.layer_paths import (
    Place,
    default_layers,
    leaves,
    places,
    weight_paths,
    why_left_out,
)
from distwatch.training.taps.step_capture import OPTIMIZER, Applied, Call, StepCapture
from distwatch.training.taps.subject import Subject
from distwatch.training.taps.unwatched import Request, Unwatched

Tensor = Any


class PickedSignal(NamedTuple):
    """One signal's name, the tensor that carries it, and its companion."""

    name: str
    tensor: Tensor
    companion: Tensor | None = None
    #: What the tapped layer itself wants to be measured against.
    reference: str | None = None
    #: The activation layer whose output stands for the layer's.
    after: str | None = None
    #: "unknown" where it may be divided by the number of replicas, or not.
    scaled: str | None = None
    #: See `distwatch.signals.Signal`.
    copied: bool | None = None
    trained: bool | None = None
    #: What it is about, where no tensor of the step carries it.
    variable: Any = None
    #: Whether it has a row for each of the batch's.
    by_rows: bool = False


class Watched:
    """What taps choose from: the layers and weights of what is trained.

    Args:
        subject: what is trained.
        facts: of the strategy that trains.
        lenient: names that find nothing are passed over.
    """

    def __init__(
        self, subject: Subject, facts: StrategyFacts, *, lenient: bool = False
    ) -> None:
        self.subject = subject
        self.facts = facts
        self.model = subject.root
        #: What could be watched, or was asked for, and is not: name -> why.
        self.unwatched = Unwatched(lenient=lenient)
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
    #: Further words that patterns may begin with, besides those of the selector.
    prefixes: ClassVar[tuple[str, ...]] = ()
    #: Why there may be nothing of what is asked for, as far as it is known.
    absent: str = "the step has nothing of the kind"
    #: Whether weights are read around the optimizer's step, which is not free.
    observes_optimizer: ClassVar[bool] = False
    #: Whether the learning rate is read there, too.
    observes_rate: ClassVar[bool] = False
    #: Whether its patterns are over variables, which the name of their layer means, too.
    of_variables: ClassVar[bool] = False
    #: Whether its signals have a row for each of the batch's.
    by_rows: ClassVar[bool] = False
    #: Whether it computes its signals itself, from tensors of the step as examples.
    computes: ClassVar[bool] = False

    def __init_subclass__(cls, selector: type[Selector] | None = None) -> None:
        if selector is not None:
            TAPS[selector] = cls

    def __init__(self, selector: Any, watched: Watched) -> None:
        selector = with_paths(selector, watched, of_variables=self.of_variables)
        self.selector = selector
        self.watched = watched
        #: Whether it is known before any step that there is nothing to watch.
        self.hopeless = False
        prefixes = (*self.prefixes, *selector.prefixes)
        self.request = Request(
            selector, prefixes, watched.unwatched, self.paths, inside=self.of_variables
        )

    def paths(self) -> list[str]:
        """The paths that patterns choose from."""
        return []

    def check(self) -> None:  # noqa: B027 - most kinds have nothing to refuse
        """Refuse, before the first step, what is known to be impossible.

        Raises:
            UnknownSignalError: what was named does not exist.
            UnwatchableError: what was named cannot be watched.
        """

    @abstractmethod
    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        """The signals that the selector chooses, in the order of the model.

        Raises:
            UnknownSignalError: what was named does not exist.
            UnwatchableError: what was named cannot be watched.
        """

    def pick(self, capture: StepCapture) -> Iterator[PickedSignal]:
        """Those of them that can be watched; what is asked for in vain is passed over.

        Raises:
            UnknownSignalError: what was named does not exist.
            UnwatchableError: what was named cannot be watched, or is not in the step.
        """
        found = []
        for picked in self.find(capture):
            why = _unwatchable(picked.tensor)
            if why is None:
                found.append(picked.name)
                yield picked._replace(by_rows=self.by_rows)
            else:
                self.skip(picked.name, why)
        self.request.settle(found, self.absent)

    def skip(self, name: str, why: str) -> None:
        """Pass over a signal.

        Raises:
            UnwatchableError: it was named.
        """
        if self.request.names(name):
            raise UnwatchableError(
                f"{name!r} was asked for but cannot be watched: {why}. Choose others, or "
                "leave the pattern out to pass over it."
            )
        self.watched.unwatched[name.partition("/")[2] or name] = why

    def chosen_among(self, named: dict[str, Any], of: str) -> dict[str, Any]:
        """Those of the named variables that the selector chooses; ``of`` says what they are."""
        if self.selector.chosen is None:
            return named
        paths = matching(
            self.selector.chosen,
            list(named),
            prefixes=self.selector.prefixes,
            of=of,
            inside=self.of_variables,
            pass_over=self.request.pass_over,
        )
        return {path: named[path] for path in paths}

    def table_key(self, name: str) -> Any:
        """Signals of different keys are in different tables."""
        return None

    def layout(self, picked: PickedSignal) -> TensorLayout | None:
        """How raw deltas are kept, if they are."""
        return None

    def maker(
        self, picked: Sequence[PickedSignal], capturer: StepCapturer
    ) -> Callable[[], Sequence[Tensor]] | None:
        """What computes the signals only at steps that are looked at, if anything does."""
        return None


def with_paths(selector: Any, watched: Watched, *, of_variables: bool) -> Any:
    """The selector with the paths of those layers that it was given as objects.

    Raises:
        UnknownSignalError: one is no layer of what is trained.
    """
    if not any(isinstance(pattern, LayerName) for pattern in selector.chosen or ()):
        return selector
    path_of = {id(place.layer): place.path for place in watched.places}
    if of_variables:
        path_of[id(watched.model)] = ""

    def path(pattern: Pattern) -> Pattern:
        if not isinstance(pattern, LayerName):
            return pattern
        if id(pattern.layer) not in path_of:
            raise UnknownSignalError(
                f"{selector.kind}: the layer {pattern!r} that was given is not in this model "
                "(another one may have its name); give model.get_layer(...), or a path."
            )
        return ExactPath(path_of[id(pattern.layer)])

    resolved = copy.copy(selector)
    # The class is frozen for its users.
    object.__setattr__(resolved, "patterns", tuple(map(path, selector.chosen)))
    return resolved


#: The tap of each kind of selector.
TAPS: dict[type[Selector], type[Tap]] = {}


class LayerTap(Tap):
    """A tap whose patterns are over layer paths."""

    prefixes = ("activation",)
    absent = "not called in the step's own graph"

    def paths(self) -> list[str]:
        return [place.path for place in self.watched.layers]

    def check(self) -> None:
        if self.selector.chosen is not None:
            self.chosen_layers()

    def chosen_layers(self) -> list[Place]:
        """The layers that the selector chooses."""
        layers = self.watched.layers
        if self.selector.chosen is None:
            usual = self._usual_layers()
            return [place for place in layers if id(place.layer) in usual]
        prefixes = (*self.prefixes, *self.selector.prefixes)
        named = set(
            matching(
                self.selector.chosen,
                self.paths(),
                prefixes=prefixes,
                pass_over=self.request.pass_over,
                hint=selector_hint if self.selector.kind == "activations" else lambda _: "",
            )
        )
        return [place for place in layers if place.path in named]

    def _usual_layers(self) -> set[int]:
        """Ids of the layers that are watched by default; those left out are listed."""
        usual, left_out = default_layers(self.watched.model)
        for place in self.watched.places:
            if id(place.layer) in left_out:
                self.watched.unwatched[place.path] = why_left_out(place.layer)
        return usual

    def calls(self, place: Place, capture: StepCapture) -> list[Call]:
        """The calls of a layer; where there are none it is listed why."""
        calls = capture.calls.get(place.path, [])
        if not calls:
            where = capture.elsewhere.get(place.path)
            # A later step may call again what it traced in the first.
            self.watched.unwatched.setdefault(
                place.path, _CALLED_ELSEWHERE.format(where) if where else LayerTap.absent
            )
        return calls

    def outputs(self, capture: StepCapture) -> Iterator[tuple[str, Any]]:
        """Name -> tensor of everything that the chosen layers put out."""
        for place in self.chosen_layers():
            calls = self.calls(place, capture)
            yield from leaves(place.path, [call.outputs for call in calls])


class WeightTap(Tap):
    """A tap whose patterns are over variable paths."""

    of_variables = True
    absent = "the step has no such weight"

    def paths(self) -> list[str]:
        return list(weight_paths(self.watched.model))

    def check(self) -> None:
        if self.watched.model.built:
            self.chosen_weights()

    def chosen_weights(self) -> dict[str, Any]:
        """Path -> variable of those that the selector chooses."""
        return self.chosen_among(weight_paths(self.watched.model), "weight")


class OptimizerTap(WeightTap):
    """A tap of what an optimizer is given, or does."""

    observes_optimizer = True
    absent = "no optimizer is given it in the step"

    def check(self) -> None:
        super().check()
        if not self.watched.subject.optimizers:
            self.hopeless = True
            self.request.give_up("the model has no optimizer")

    def steps(self, capture: StepCapture) -> list[Applied]:
        """What optimizers did in the step, in that order.

        Raises:
            UnwatchableError: something was named, and no known optimizer was applied.
        """
        if not capture.applied:
            where = capture.elsewhere.get(OPTIMIZER)
            self.absent = _APPLIED_ELSEWHERE.format(where) if where else _NOT_APPLIED
            self.request.give_up(self.absent)
        return capture.applied

    def applied(self, capture: StepCapture) -> Iterator[tuple[str, Applied, int]]:
        """The variables that the optimizer was given: path, what it did, position.

        Raises:
            UnwatchableError: something was named, and no known optimizer was applied.
        """
        path_of = {id(variable): path for path, variable in self.chosen_weights().items()}
        times: Counter[int] = Counter()
        for applied in self.steps(capture):
            for i, variable in enumerate(applied.variables):
                if id(variable) in path_of:
                    number = times[id(variable)]
                    times[id(variable)] += 1
                    again = f"#{number}" if number else ""
                    yield path_of[id(variable)] + again, applied, i


_CALLED_ELSEWHERE = "called inside {}, out of reach"
_NOT_APPLIED = (
    "the train step does not call the apply method of an optimizer that is known: one that "
    "the model was compiled with or has as an attribute, or that watching was given"
)
_APPLIED_ELSEWHERE = (
    "the optimizer is applied inside {}, out of reach; distwatch.weights() shows what it did"
)


def _unwatchable(leaf: Any) -> str | None:
    """Say why a tensor cannot be watched, or None if it can."""
    if not isinstance(leaf, tf.Tensor):
        return f"it is a {type(leaf).__name__}, only dense tensors can be compared"
    if not (leaf.dtype.is_floating or leaf.dtype.is_integer):
        return f"it is of dtype {leaf.dtype.name}, not of real numbers"
    if leaf.shape.rank is None:
        return "the number of its dims is unknown"
    return None
