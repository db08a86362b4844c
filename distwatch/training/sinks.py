"""Where the blocks of a phase go: the store, findings, Keras's logs, event files.

A new sink is one subclass of `Sink` and one line in `SINKS`.
"""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from distwatch.config import WatchConfig
from distwatch.errors import (
    DistwatchError,
    EventFilesWarning,
    RowsLostWarning,
    RowsThinnedWarning,
    WriteFailedError,
)
from distwatch.event_files.live import start_live_writer
from distwatch.event_files.options import EventOptions
from distwatch.findings import Digest, Finding, Rule, as_plain, version
from distwatch.records import TRAIN, Block, Epoch, RunInfo, with_epoch
from distwatch.signals import names_matching, written
from distwatch.store import MAX_WAIT, BackgroundWriter, Budget, Claim, StoreWriter
from distwatch.training.epoch_logs import EpochLogs

#: Seconds for which the training, or closing a run, waits while nothing at all is written.
PATIENCE = 60.0


@dataclass(frozen=True)
class Counts:
    """Numbers of steps, summed over tables: a step in two tables counts twice."""

    #: Drained from the devices.
    steps: int = 0
    #: Visible to a reader of the store.
    committed: int = 0
    #: Missing from the store: overwritten on a device, or not written.
    lost: int = 0
    #: Removed from the store again, to keep within ``max_bytes``.
    thinned: int = 0
    #: Those of ``lost`` that never came to the store's writer.
    overwritten: int = 0

    def __add__(self, other: Counts) -> Counts:
        # Not by `dataclasses.astuple`, which copies deeply: this runs after each batch.
        return Counts(
            self.steps + other.steps,
            self.committed + other.committed,
            self.lost + other.lost,
            self.thinned + other.thinned,
            self.overwritten + other.overwritten,
        )


@dataclass(frozen=True)
class SinkContext:
    """What sinks are made from, once the first step was traced."""

    config: WatchConfig
    #: The phase, with its tables.
    info: RunInfo
    #: What bounds the bytes of the run, if anything.
    budget: Budget | None = None
    #: The claim on the store, by which this process alone writes it.
    claim: Claim | None = None
    #: Lists what was asked for and finds nothing, with the reason.
    pass_over: Callable[[str, str], None] = lambda name, why: None
    #: Rules of the user's own.
    rules: Sequence[Rule] = ()

    @functools.cached_property
    def digest(self) -> Digest:
        """What the rows add up to that were drained: `FindingsSink` keeps it up to date."""
        return Digest(self.info)


class Sink:
    """Takes the blocks of one phase, in order.

    Each method does nothing here; a sink overrides those that it needs. All are called on
    the thread that trains, so what takes long belongs on a thread of the sink's own.

    Args:
        context: what the sink is made from.

    Raises:
        SetupError: what was asked for does not fit what is watched. Sinks are made while
            the first step is traced, so ``fit`` raises this before it has trained.
    """

    def __init__(self, context: SinkContext) -> None:
        pass

    @classmethod
    def wanted(cls, context: SinkContext) -> bool:
        """Whether the configuration asks for this sink."""
        return True

    def write(self, block: Block) -> None:
        """Take one block: some consecutive steps of one table."""

    def count_lost(self, table: str, steps: int) -> None:
        """Count steps of a table that could not be drained."""

    def commit(self) -> None:
        """Make what was written last, be it little, visible to readers now."""

    def end_epoch(self) -> None:
        """All blocks of an epoch were written."""

    def note_epoch(self, epoch: Epoch) -> None:
        """Take what an epoch of ``fit`` came to."""

    def check(self) -> None:
        """Raise what went wrong in the background, or warn of it once."""

    def close(self, ended: str | None = None) -> None:
        """Finish what waits, and release files and threads.

        Args:
            ended: the error that ended the watching, if one did.
        """

    @property
    def stuck(self) -> bool:
        """Whether `close` stopped waiting for a disk that does not answer."""
        return False

    @property
    def counts(self) -> Counts:
        """This sink's part of the phase's numbers of steps."""
        return Counts()

    @property
    def logs(self) -> dict[str, float]:
        """Values for Keras's ``logs`` of the last epoch."""
        return {}

    def sentences(self, lost: int, ended: str | None) -> list[str]:
        """Sentences for the summary, given how many steps are missing, and what ended the
        writing: "closed" or an error, None while it goes on."""
        return []

    def findings(
        self, asked: Callable[[Rule], bool], lost: int, ended: str | None
    ) -> list[Finding]:
        """What those rules find that are asked; further arguments as in `sentences`."""
        return []


class FindingsSink(Sink):
    """Keeps the digest, from which the findings are derived."""

    def __init__(self, context: SinkContext) -> None:
        self._digest = context.digest
        self._rules = context.rules

    def write(self, block: Block) -> None:
        """Add the block to the digest."""
        self._digest.observe(block)

    def note_epoch(self, epoch: Epoch) -> None:
        """Add it to the digest."""
        self._digest.epochs[:] = with_epoch(self._digest.epochs, epoch)

    def count_lost(self, table: str, steps: int) -> None:
        """Count them in what the findings say."""
        self._digest.count_lost(table, steps)

    @property
    def counts(self) -> Counts:
        """Steps drained, and those that were overwritten on a device."""
        lost = self._digest.lost
        return Counts(steps=self._digest.steps, lost=lost, overwritten=lost)

    def sentences(self, lost: int, ended: str | None) -> list[str]:
        """What stands out, at most ten sentences."""
        return self._digest.sentences(lost=lost, ended=ended, rules=self._rules)

    def findings(
        self, asked: Callable[[Rule], bool], lost: int, ended: str | None
    ) -> list[Finding]:
        """What stands out by these rules."""
        return self._digest.findings(lost=lost, ended=ended, rules=self._rules, asked=asked)


class _BackgroundSink(Sink, ABC):
    """Queues blocks for a writer on a thread of its own, which starts with the first block."""

    def __init__(self, context: SinkContext) -> None:
        self._context = context
        self._writer: BackgroundWriter | None = None
        self._warned: set[type[Warning]] = set()

    @abstractmethod
    def _start(self) -> BackgroundWriter:
        """Start the thread."""

    def write(self, block: Block) -> None:
        """Queue the block for the writer."""
        self._started().submit(block)

    def _started(self) -> BackgroundWriter:
        if self._writer is None:
            self._writer = self._start()
        return self._writer

    def _warn_once(self, message: str, category: type[Warning]) -> None:
        if category not in self._warned:
            self._warned.add(category)
            warnings.warn(message, category, stacklevel=3)

    def close(self, ended: str | None = None) -> None:
        """Write and commit what is queued, unless the disk does not answer."""
        if self._writer is not None:
            self._writer.close(PATIENCE, ended=ended)

    @property
    def stuck(self) -> bool:
        """Whether the disk did not answer."""
        return self._writer is not None and self._writer.stuck


class StoreSink(_BackgroundSink):
    """Writes the run."""

    def _start(self) -> BackgroundWriter:
        config = self._context.config
        make = functools.partial(
            StoreWriter,
            config.address,
            self._context.info,
            synced=config.durability == "power",
            budget=self._context.budget,
            claim=self._context.claim,
            findings=self._findings_of,
        )
        max_wait = None if config.on_full == "wait" else MAX_WAIT
        return BackgroundWriter(make, max_wait=max_wait, patience=PATIENCE)

    def _findings_of(self, steps: int, ended: str) -> tuple[str, list[dict[str, Any]]] | None:
        """What is kept beside the rows: if the digest is of what was committed, no less."""
        digest = self._context.digest
        if digest.steps != steps or digest.lost:
            return None
        return version(digest.epochs), [*map(as_plain, digest.findings(lost=0, ended=ended))]

    def count_lost(self, table: str, steps: int) -> None:
        """Have the store say how many are missing."""
        self._started().count_lost(table, steps)

    def commit(self) -> None:
        """Commit the rows of a chunk that is not full yet."""
        if self._writer is not None:
            self._writer.commit_tail(at_once=True)

    def end_epoch(self) -> None:
        """Commit the rows of a chunk that is not full yet, if that is due."""
        if self._writer is not None:
            self._writer.commit_tail()

    def check(self) -> None:
        """Raise the writer's error, or warn once that steps are thinned out.

        Raises:
            WriteFailedError: the store could not be written.
            DistwatchError: the writer's own error, where it has one.
        """
        error = self._writer.error if self._writer else None
        if isinstance(error, DistwatchError):
            raise error
        if error is not None:
            raise WriteFailedError(
                f"{self._context.config.store} could not be written "
                f"({type(error).__name__}: {error}); {self.counts.committed} steps are "
                "committed and stay readable."
            ) from error
        if self._writer is not None and self._writer.hangs:
            self._warn_once(
                f"{self._context.config.store}: nothing could be written for {PATIENCE:g} "
                f"seconds, so the training goes on: {self.counts.lost} steps are lost by now. "
                "As long as nothing can be written, further ones will be; watch.status.lost "
                "and the run count them.",
                RowsLostWarning,
            )
        if self.counts.thinned:
            self._warn_once(
                f"{self._context.config.store} comes near its max_bytes: from now on only "
                "every second, fourth, ... step of its old part is kept. Watch fewer signals "
                "or steps, or give it more room, to keep all of them.",
                RowsThinnedWarning,
            )

    @property
    def counts(self) -> Counts:
        """Steps committed, not written, and thinned out."""
        writer = self._writer
        if writer is None:
            return Counts()
        return Counts(committed=writer.committed, lost=writer.lost, thinned=writer.thinned)


class LogsSink(Sink):
    """Merges what ``log_to_keras`` asks for over each epoch of the training."""

    def __init__(self, context: SinkContext) -> None:
        self._logs = EpochLogs(context.config.log_to_keras, context.info, context.pass_over)

    @classmethod
    def wanted(cls, context: SinkContext) -> bool:
        """In the phase "train", if ``log_to_keras`` names anything."""
        return bool(context.config.log_to_keras) and context.info.phase == TRAIN

    def write(self, block: Block) -> None:
        """Merge the block into this epoch's values."""
        self._logs.observe(block)

    def end_epoch(self) -> None:
        """Derive the epoch's values, and start the next one."""
        self._logs.end_epoch()

    @property
    def logs(self) -> dict[str, float]:
        """The last epoch's values, NaN where nothing was looked at."""
        return self._logs.values


class EventsSink(_BackgroundSink):
    """Writes event files for TensorBoard.

    An error is reported once, and ends only the writing of event files.
    """

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        config, info = context.config, context.info
        # Other phases need not have the signals that the first one has.
        if info.phase == config.phases[0]:
            names_matching(
                self._options.signals,
                info.names,
                "this Watch (see tensorboard)",
                pass_over=lambda pattern, what: context.pass_over(
                    f"tensorboard: {written(pattern)}", f"it matches no {what}"
                ),
            )

    @classmethod
    def wanted(cls, context: SinkContext) -> bool:
        """If ``tensorboard`` names a folder."""
        return context.config.tensorboard is not None

    @property
    def _options(self) -> EventOptions:
        return cast(EventOptions, self._context.config.tensorboard)

    def _start(self) -> BackgroundWriter:
        return start_live_writer(self._options, self._context.info)

    def check(self) -> None:
        """Warn once if something is missing from the event files."""
        if self._writer is not None and (self._writer.error or self._writer.lost):
            error = self._writer.error
            why = (
                f"{type(error).__name__}: {error}" if error else "they are slower than training"
            )
            self._warn_once(
                f"{self._options.folder}: TensorBoard's event files are not complete ({why}). "
                "Training and the run's own record go on; 'distwatch export RUN --tensorboard "
                "DIR' makes whole ones of it.",
                EventFilesWarning,
            )


#: All sinks, in the order in which they take a block.
SINKS: tuple[type[Sink], ...] = (FindingsSink, StoreSink, LogsSink, EventsSink)


def make_sinks(context: SinkContext) -> list[Sink]:
    """The sinks that a configuration asks for.

    Raises:
        SetupError: one of them cannot do what it is asked for.
    """
    return [sink(context) for sink in SINKS if sink.wanted(context)]
