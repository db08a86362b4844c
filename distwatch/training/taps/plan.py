"""From selectors to tables: what is looked at together, and what feeds it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from distwatch import signals
from distwatch.config import WatchConfig
from distwatch.errors import ConfigError, NothingToWatchError, UnsupportedTrainingError
from distwatch.records import NO_GRADIENT, TRAIN, Card, Table, fitting
from distwatch.signals import Adjustable, Selector, Signal
from distwatch.signals.schedules import Schedule, every
from distwatch.statistics import automatic, with_row
from distwatch.training.device.cadence import Making, StepInput, TablePlan
from distwatch.training.device.copies import CopiesPlan
from distwatch.training.strategies import StrategyFacts
from distwatch.training.taps.between_steps import BetweenStepsTap
from distwatch.training.taps.capturing import StepCapturer
from distwatch.training.taps.card import card_of
from distwatch.training.taps.kinds import TAPS
from distwatch.training.taps.layer_paths import OUTPUT, places, weight_paths
from distwatch.training.taps.recomputation import KeptTensors
from distwatch.training.taps.step_capture import StepCapture
from distwatch.training.taps.subject import Subject
from distwatch.training.taps.tap import PickedSignal, Tap, Watched
from distwatch.training.taps.unwatched import Unwatched

Tensor = Any

#: Raw deltas are drained this often, in steps.
_TENSOR_WINDOW = 8

#: Rows of checksums come rarely: with larger chunks most of a chunk would never be filled.
_COPIES_WINDOW = 16


@dataclass(frozen=True)
class TracedPlan:
    """The signals of one step, table by table."""

    feeds: tuple[TablePlan, ...]
    #: The tables of checksums of copies, which the host asks for between steps.
    copies: tuple[CopiesPlan, ...]
    #: What could be watched, or was asked for, and is not.
    unwatched: Unwatched
    #: The optimizer's count before the step; -1 without an optimizer.
    iteration: int = -1
    #: Whether a mean over each replica's own rows was differentiated as it is.
    undivided: bool = False
    #: What is trained, and how.
    card: Card | None = None

    @property
    def names(self) -> list[str]:
        """The signals' names."""
        return [name for table in self.tables for name in table.names]

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables."""
        return (*(each.table for each in self.feeds), *(each.table for each in self.copies))

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """At which steps each table looks."""
        return (
            *(each.schedule for each in self.feeds),
            *(each.schedule for each in self.copies),
        )

    @property
    def tensor_indices(self) -> list[tuple[int, ...]]:
        """Which signals share tensors."""
        return [feed.tensor_index for feed in self.feeds]


@dataclass
class _Group:
    """Signals that will make a table."""

    tap: Tap
    schedule: Any
    statistics: tuple[Any, ...]
    picked: list[PickedSignal] = field(default_factory=list)
    signals: list[Signal] = field(default_factory=list)


#: What a traced step gives: for each table its tensors and their companions.
TracedTensors = list[tuple[list[Tensor], list[Tensor | None]]]


class Taps:
    """Where the signals of a step are picked up.

    Args:
        subject: what is trained.
        config: what to watch.
        facts: of the strategy that trains.
        phase: in which steps.
        lenient: pass over names that are not found in a step, too.

    Raises:
        UnknownSignalError: what was named does not exist.
        UnwatchableError: what was named cannot be watched.
        NothingToWatchError: nothing that was chosen happens in this phase.
        UnsupportedTrainingError: it cannot be resumed.
    """

    def __init__(
        self,
        subject: Subject,
        config: WatchConfig,
        facts: StrategyFacts,
        phase: str = TRAIN,
        *,
        lenient: bool = False,
    ) -> None:
        self.subject = subject
        self._config = config
        self._watched = Watched(subject, facts, lenient=lenient)
        selectors = config.signals or usual_signals(subject, config, facts)
        taps = [TAPS[type(selector)](selector, self._watched) for selector in selectors]
        # What nobody asked for need not be there.
        for tap in taps[1:] if config.signals is None else ():
            tap.request.asked = False
        if not any(isinstance(selector, signals.Logged) for selector in selectors):
            taps.append(TAPS[signals.Logged](signals.Logged(), self._watched))
            taps[-1].request.asked = False
        self._taps = _in_phase(taps, phase)
        if config.resume:
            _check_resumable(subject)
        for tap in self._taps:
            tap.check()
        if all(tap.hopeless for tap in self._taps if tap.request.asked):
            raise self._nothing()
        self._capturer = StepCapturer(
            subject,
            self._watched.layers,
            optimizers=any(tap.observes_optimizer for tap in self._taps),
            rates=any(tap.observes_rate for tap in self._taps),
        )
        self._makings: list[Making | None] = []
        #: Kept, so that each trace finds the same, and no other object gets the identity.
        self._schedules: dict[tuple[int, int], Adjustable] = {}

    @contextlib.contextmanager
    def capturing(self, data: Any) -> Iterator[StepCapture]:
        """Capture one train step on ``data``, on this thread."""
        with self._capturer.capturing() as capture:
            capture.data = data
            yield capture

    def log(self, name: str, value: Any) -> None:
        """Note a number that the step on this thread names, if it is captured."""
        self._capturer.log(name, value)

    def choose(self, capture: StepCapture) -> tuple[TracedPlan, TracedTensors]:
        """Name the signals among what a step did, and give their tensors.

        This comes after the step was traced, when every layer is built and it is
        known which of them own weights.

        Raises:
            NothingToWatchError: nothing that is to be watched happened.
            UnwatchableError: what was named cannot be watched.
            ConfigError: a signal is chosen twice in the same way.
        """
        self._note_late_layers()
        self._note_missing_gradients(capture)
        kept = KeptTensors(capture.handed)
        groups = self._groups(capture, kept)
        unwatched = self._watched.unwatched
        if not any(group.tap.request.asked for group in groups):
            raise self._nothing()
        copies = [group for group in groups if isinstance(group.tap, BetweenStepsTap)]
        groups = [group for group in groups if not isinstance(group.tap, BetweenStepsTap)]
        planned = [self._plan(number, group) for number, group in enumerate(groups)]
        self._makings = [
            self._making(group.tap, picked, kept)
            for group, (_, picked) in zip(groups, planned, strict=True)
        ]
        self.subject.count_by(capture.optimizers)
        card = card_of(self.subject, self._watched.places, capture)
        plan = TracedPlan(
            tuple(feed for feed, _ in planned),
            tuple(self._plan_of_copies(number, group) for number, group in enumerate(copies)),
            unwatched,
            self.subject.count_iterations(),
            capture.undivided,
            card,
        )
        return plan, [
            ([each.tensor for each in picked], [each.companion for each in picked])
            for _, picked in planned
        ]

    def fed(self, given: TracedTensors) -> list[StepInput]:
        """What the recorder takes, in the graph where it records."""
        # They hold the step's graph, so they are not kept.
        makings, self._makings = self._makings, []
        return [
            StepInput(tensors, companions, making)
            for (tensors, companions), making in zip(given, makings, strict=True)
        ]

    def _making(
        self, tap: Tap, picked: Sequence[PickedSignal], kept: KeptTensors
    ) -> Making | None:
        if make := tap.maker(picked, self._capturer):
            return Making(range(len(picked)), make)
        return kept.making([each.tensor for each in picked])

    def _groups(self, capture: StepCapture, kept: KeptTensors) -> list[_Group]:
        groups: dict[Any, _Group] = {}
        names: dict[str, str] = {}
        for tap in self._taps:
            schedule = self._schedule(tap.selector)
            statistics = (*automatic(tap.selector.kind), *tap.selector.statistics)
            for picked in tap.pick(capture):
                reference = tap.selector.reference or picked.reference or self._config.reference
                name = _free_name(picked.name, reference, names)
                names[name] = reference
                # Schedules may change one by one, so equal ones are not the same.
                key = (id(schedule), statistics, tap.table_key(name))
                group = groups.setdefault(key, _Group(tap, schedule, statistics))
                group.picked.append(picked)
                group.signals.append(
                    Signal(
                        name,
                        reference,
                        after=picked.after,
                        recomputed=0 if tap.computes else kept.count_again(picked.tensor),
                        scaled=picked.scaled,
                        order=capture.order_of(picked.name, picked.tensor),
                        copied=picked.copied,
                        trained=picked.trained,
                    )
                )
        return list(groups.values())

    def _schedule(self, selector: Selector) -> Adjustable:
        """When to look at a selector's signals, which is the same object for all of a schedule.

        Under a budget each selector is adjusted by itself. Otherwise those of one schedule
        stay together, since each further ring and condition has a cost.
        """
        chosen = selector.schedule or self._config.schedule
        apart = self._config.max_overhead is not None
        key = (id(chosen), id(selector) if apart else 0)
        return self._schedules.setdefault(key, Adjustable(chosen))

    def _plan(self, number: int, group: _Group) -> tuple[TablePlan, list[PickedSignal]]:
        """A table, with each tensor once for all signals that are measured alike."""
        # What a tap computes itself may be apart where the examples are one.
        keys = [
            (picked.name if group.tap.computes else id(picked.tensor), signal.reference)
            for picked, signal in zip(group.picked, group.signals, strict=True)
        ]
        positions = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        first = [group.picked[keys.index(key)] for key in positions]
        plan = TablePlan(
            self._table(f"table-{number:02d}", group),
            group.schedule,
            tuple(positions[key] for key in keys),
            tuple(reference for _, reference in positions),
            frozenset(i for i, picked in enumerate(first) if picked.by_rows),
            frozenset(i for i, picked in enumerate(first) if self._may_overflow(picked)),
            drained_after=self._config.window,
        )
        return plan, first

    def _may_overflow(self, picked: PickedSignal) -> bool:
        """Whether it is a gradient with which a loss scale finds its size."""
        scaling = keras.optimizers.LossScaleOptimizer
        scaled = any(isinstance(each, scaling) for each in self.subject.optimizers)
        return scaled and picked.name.startswith("gradient")

    def _plan_of_copies(self, number: int, group: _Group) -> CopiesPlan:
        # Counted apart, so that they change no other table's name.
        table = self._table(f"copies-{number:02d}", group)
        table = replace(table, window=min(table.window, _COPIES_WINDOW))
        assert isinstance(group.tap, BetweenStepsTap)
        compared = group.tap.compared(group.picked)
        return CopiesPlan(table, group.schedule, compared, self._config.window)

    def _table(self, name: str, group: _Group) -> Table:
        table = fitting(
            Table(
                name=name,
                signals=tuple(group.signals),
                schedule=str(group.schedule),
                window=self._config.window,
                statistic=with_row(group.statistics),
                tensor=group.tap.layout(group.picked[0]),
            )
        )
        if table.tensor is None:
            return table
        return replace(table, window=min(table.window, _TENSOR_WINDOW))

    def _nothing(self) -> NothingToWatchError:
        unwatched = self._watched.unwatched
        asked = " of what was asked for" if self._config.signals else ""
        # By default nobody asked for activations.
        usual = [tap.selector.kind for tap in self._taps if not tap.request.asked]
        known = [
            name for name in unwatched if asked or name not in (*unwatched.passed_over, *usual)
        ]
        reasons = "".join(f"; {name}: {unwatched[name]}" for name in known)
        remedy = "Choose others, such as distwatch.inputs(),"
        if not asked and set(known) <= {OUTPUT}:
            remedy = "Give it a layer with weights or a distwatch.Tracker, or name layers"
        return NothingToWatchError(
            f"model {self.subject.root.name!r} has nothing to watch{asked}{reasons}. "
            f"{remedy} in signals=[...]."
        )

    def _note_late_layers(self) -> None:
        known = {place.path for place in self._watched.places}
        for place in places(self.subject.root):
            if place.path not in known:
                self._watched.unwatched[place.path] = _LATE

    def _note_missing_gradients(self, capture: StepCapture) -> None:
        missing = {each for each, has in capture.has_gradient.items() if not has}
        if missing:
            for path, variable in weight_paths(self.subject.root).items():
                if id(variable) in missing:
                    self._watched.unwatched[path] = NO_GRADIENT


def usual_signals(
    subject: Subject, config: WatchConfig, facts: StrategyFacts
) -> tuple[signals.Selector, ...]:
    """What is watched where nothing is asked for: the activations, and the rest if there is it.

    Of a loop written by hand it is not known which of its step's arguments are what.
    """
    usual: list[signals.Selector] = [signals.activations(), signals.loss()]
    if not subject.by_hand:
        # Whoever chooses the steps gets no others.
        chosen = str(config.schedule) != str(every(1))
        usual.append(signals.data(every=config.schedule) if chosen else signals.data())
    if facts.has_copies:
        usual.append(signals.desync())
    return tuple(usual)


def _in_phase(taps: list[Tap], phase: str) -> list[Tap]:
    chosen = [tap for tap in taps if phase in tap.phases]
    if not any(tap.request.asked for tap in chosen):
        named = ", ".join(tap.selector.kind for tap in taps if tap.request.asked)
        raise NothingToWatchError(
            f"phase {phase!r}: none of the chosen signals ({named}) happens in it; add "
            "distwatch.activations(), or leave the phase out."
        )
    return chosen


def _check_resumable(subject: Subject) -> None:
    for optimizer in subject.optimizers:
        if getattr(optimizer, "gradient_accumulation_steps", None):
            raise UnsupportedTrainingError(
                "resume=True: under gradient accumulation the optimizer's count, which is all "
                "that a checkpoint keeps, does not tell the step; write to another path."
            )


_LATE = (
    "made while the first step was traced; build the model (call it once on a batch) "
    "before training to watch it"
)


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
