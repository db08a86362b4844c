"""From selectors to tables: what is looked at together, and what feeds it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from distwatch import signals
from distwatch.config import WatchConfig
from distwatch.errors import ConfigError, NothingToWatchError, UnsupportedTrainingError
from distwatch.records import PREDICT, TEST, TRAIN, Table, TensorLayout, fitting
from distwatch.signals import Selector, Signal
from distwatch.statistics import automatic, with_row
from distwatch.training.device.ring import StepInput, TablePlan
from distwatch.training.taps.capturing import StepCapturer
from distwatch.training.taps.layer_paths import places
from distwatch.training.taps.probing import evaluator
from distwatch.training.taps.selecting import PickedSignal, Selecting
from distwatch.training.taps.step_capture import StepCapture
from distwatch.training.taps.subject import Subject

Tensor = Any

#: Raw deltas are drained this often, in steps.
_TENSOR_WINDOW = 8


@dataclass(frozen=True)
class TracedPlan:
    """The signals of one step, table by table."""

    feeds: tuple[TablePlan, ...]
    unwatched: dict[str, str]
    #: The optimizer's count before the step; -1 without an optimizer.
    iteration: int = -1

    @property
    def names(self) -> list[str]:
        """The signals' names."""
        return [name for feed in self.feeds for name in feed.table.names]

    @property
    def tensor_indices(self) -> list[tuple[int, ...]]:
        """Which signals share tensors."""
        return [feed.tensor_index for feed in self.feeds]


@dataclass
class _Group:
    """Signals that will make a table."""

    selector: Selector
    schedule: Any
    statistics: tuple[Any, ...]
    picked: list[PickedSignal]
    signals: list[Signal]


#: What a traced step gives: for each table its tensors and their companions.
TracedTensors = list[tuple[list[Tensor], list[Tensor | None]]]


class Taps:
    """Where the signals of a step are picked up.

    Args:
        subject: what is trained.
        config: what to watch.
        phase: in which steps.

    Raises:
        UnknownSignalError: a pattern matches nothing.
        UnwatchableError: Keras hides what is asked for.
        NothingToWatchError: nothing that was chosen happens in this phase.
        UnsupportedTrainingError: it cannot be resumed.
    """

    def __init__(self, subject: Subject, config: WatchConfig, phase: str = TRAIN) -> None:
        self.subject = subject
        self._config = config
        self._selectors = _in_phase(config.signals or (signals.activations(),), phase)
        self._unwatched: dict[str, str] = {}
        self._selecting = Selecting(subject, self._unwatched)
        if config.resume:
            _check_resumable(subject)
        for selector in self._selectors:
            self._selecting.check(selector)
        kinds = (signals.Gradients, signals.Updates)
        self._capturer = StepCapturer(
            subject,
            self._selecting.traced_places,
            optimizers=any(isinstance(selector, kinds) for selector in self._selectors),
        )
        self._evaluators: list[Callable[[Tensor], Sequence[Tensor]] | None] = []

    @contextlib.contextmanager
    def capturing(self, data: Any) -> Iterator[StepCapture]:
        """Hear one train step on ``data``, on this thread."""
        with self._capturer.capturing() as capture:
            capture.data = data
            yield capture

    def choose(self, capture: StepCapture) -> tuple[TracedPlan, TracedTensors]:
        """Name the signals among what was heard, and give their tensors.

        This comes after the step was traced, when every layer is built and it is
        known which of them own weights.

        Raises:
            NothingToWatchError: nothing that is to be watched was heard.
            UnwatchableError: something that was named cannot be watched.
            ConfigError: a signal is chosen twice in the same way.
        """
        self._note_late_layers()
        groups = [group for group in self._groups(capture) if group.signals]
        if not groups:
            raise NothingToWatchError(_nothing(self.subject.root, self._unwatched))
        fed = [self._feed(number, group) for number, group in enumerate(groups)]
        self._evaluators = [self._evaluator(group) for group in groups]
        feeds = tuple(feed for feed, _ in fed)
        heard = TracedPlan(feeds, self._unwatched, self.subject.count_iterations())
        return heard, [tensors for _, tensors in fed]

    def fed(self, given: TracedTensors) -> list[StepInput]:
        """What the recorder takes, in the graph where it records."""
        return [
            StepInput(tensors, companions, evaluate)
            for (tensors, companions), evaluate in zip(given, self._evaluators, strict=True)
        ]

    def _groups(self, capture: StepCapture) -> list[_Group]:
        groups: dict[Any, _Group] = {}
        names: dict[str, str] = {}
        for selector in self._selectors:
            schedule = selector.schedule or self._config.schedule
            statistics = (*automatic(selector.kind), *selector.statistics)
            for picked in self._selecting.pick(selector, capture):
                reference = self._reference(selector, picked)
                name = _free_name(picked.name, reference, names)
                names[name] = reference
                # Schedules may change one by one, so equal ones are not the same.
                key = (id(schedule), statistics, _apart(selector, name))
                group = groups.setdefault(key, _Group(selector, schedule, statistics, [], []))
                group.picked.append(picked)
                group.signals.append(Signal(name, reference))
        return list(groups.values())

    def _reference(self, selector: Selector, picked: PickedSignal) -> str:
        return selector.reference or picked.reference or self._config.reference

    def _feed(
        self, number: int, group: _Group
    ) -> tuple[TablePlan, tuple[list[Tensor], list[Tensor | None]]]:
        positions: dict[tuple[int, str], int] = {}
        tensors: list[Tensor] = []
        companions: list[Tensor | None] = []
        references: list[str] = []
        tensor_index: list[int] = []
        for picked, signal in zip(group.picked, group.signals, strict=True):
            key = (id(picked.tensor), signal.reference)
            if key not in positions:
                positions[key] = len(tensors)
                tensors.append(picked.tensor)
                companions.append(picked.companion)
                references.append(signal.reference)
            tensor_index.append(positions[key])
        table = self._table(number, group)
        feed = TablePlan(table, group.schedule, tuple(tensor_index), tuple(references))
        return feed, (tensors, companions)

    def _table(self, number: int, group: _Group) -> Table:
        table = Table(
            name=f"table-{number:02d}",
            signals=tuple(group.signals),
            schedule=str(group.schedule),
            window=self._config.window,
            statistic=with_row(group.statistics),
            tensor=_layout(group),
        )
        table = fitting(table)
        if table.tensor is None:
            return table
        return replace(table, window=min(table.window, _TENSOR_WINDOW))

    def _evaluator(self, group: _Group) -> Callable[[Tensor], Sequence[Tensor]] | None:
        if not isinstance(group.selector, signals.Probe):
            return None
        return evaluator(self.subject.root, group.selector, group.picked, self._capturer)

    def _note_late_layers(self) -> None:
        known = {place.path for place in self._selecting.places}
        for place in places(self.subject.root):
            if place.path not in known:
                self._unwatched[place.path] = _LATE


def _check_resumable(subject: Subject) -> None:
    for optimizer in subject.optimizers:
        if getattr(optimizer, "gradient_accumulation_steps", None):
            raise UnsupportedTrainingError(
                "resume=True: under gradient accumulation the optimizer's count, which is all "
                "that a checkpoint keeps, does not tell the step; write to another path."
            )


#: What there is to see where nothing is trained.
_IN_INFERENCE = {
    TEST: (signals.Activations, signals.Tensors, signals.Inputs, signals.Loss),
    PREDICT: (signals.Activations, signals.Tensors, signals.Inputs),
}


def _in_phase(selectors: tuple[Selector, ...], phase: str) -> tuple[Selector, ...]:
    kinds = _IN_INFERENCE.get(phase)
    if kinds is None:
        return selectors
    chosen = tuple(selector for selector in selectors if isinstance(selector, kinds))
    if not chosen:
        named = ", ".join(selector.kind for selector in selectors)
        raise NothingToWatchError(
            f"phase {phase!r}: none of the chosen signals ({named}) happens in it; add "
            "distwatch.activations(), or leave the phase out."
        )
    return chosen


_LATE = (
    "made while the first step was traced; build the model (call it once on a batch) "
    "before training to watch it"
)


def _apart(selector: Selector, name: str) -> Any:
    """What keeps a signal out of the table of others."""
    if isinstance(selector, signals.Probe):
        return id(selector)
    return name if isinstance(selector, signals.Tensors) else None


def _layout(group: _Group) -> TensorLayout | None:
    selector = group.selector
    if not isinstance(selector, signals.Tensors):
        return None
    features = tuple(int(size) for size in group.picked[0].tensor.shape[1:])
    return TensorLayout(features, selector.reduce, selector.dtype)


def _free_name(name: str, reference: str, taken: dict[str, str]) -> str:
    """The first of two signals of one name keeps it, the next one says its reference."""
    if name not in taken:
        return name
    other = f"{name}@{reference}"
    if taken[name] == reference or other in taken:
        raise ConfigError(
            f"{name} is chosen twice against the reference {reference!r}: give one selector "
            "all of its statistics, or another reference."
        )
    return other


def _nothing(model: keras.layers.Layer, unwatched: dict[str, str]) -> str:
    reasons = "".join(f"; {path}: {why}" for path, why in unwatched.items())
    return (
        f"model {model.name!r} has nothing to watch{reasons}. Give it a layer with "
        "weights or a distwatch.Tracker, or name layers in signals=[...]."
    )
