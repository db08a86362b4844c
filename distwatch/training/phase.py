"""One phase of a watched training: its rings, its digest and its part of the store."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from distwatch.config import WatchConfig
from distwatch.errors import (
    DistwatchError,
    RowsReplacedWarning,
    RowsThinnedWarning,
    WatcherError,
    WriteFailedError,
)
from distwatch.event_files.live import LiveEvents
from distwatch.findings import Digest
from distwatch.records import TRAIN, Block, Origin, RunInfo
from distwatch.signals import names_matching
from distwatch.store import (
    MAX_WAIT,
    BackgroundWriter,
    Budget,
    StoreWriter,
    origin_of,
    steps_of,
)
from distwatch.training import strategies
from distwatch.training.device.ring import DrainedRows, Recorder, TableRecorder
from distwatch.training.epoch_logs import EpochLogs
from distwatch.training.taps import TracedPlan


class Phase:
    """The way of one phase's rows, from the rings on the devices to the store.

    Args:
        config: what to watch and where to write it.
        info: what is known before the first step.
        strategy: the strategy that trains.
        steps_per_execution: how many steps pass between two looks at the rings.
    """

    def __init__(
        self, config: WatchConfig, info: RunInfo, strategy: Any, *, steps_per_execution: int
    ) -> None:
        self._config = config
        self._info = info
        self._strategy = strategy
        self._steps_per_execution = steps_per_execution
        self._recorder: Recorder | None = None
        self._writer: BackgroundWriter | None = None
        self._budget: Budget | None = None
        self._told_of_thinning = False
        self._digest: Digest | None = None
        self._events: LiveEvents | None = None
        self._logs: EpochLogs | None = None
        self._epoch = 0
        #: Steps since each table's last drain.
        self._pending: Counter[str] = Counter()

    def make_recorder(
        self, heard: TracedPlan, start: int, budget: Budget | None = None
    ) -> Recorder:
        """Set up for the signals that the first step was heard to put out.

        Args:
            heard: those signals.
            start: which start of the run this is.
            budget: what bounds the bytes of the run.

        Raises:
            ConfigError: this does not continue what the run holds, or does not fit into
                the budget.
        """
        self._info = replace(
            self._info,
            tables=tuple(feed.table for feed in heard.feeds),
            unwatched=heard.unwatched,
            origin=Origin(start, 0, heard.iteration),
        )
        if budget is not None:
            budget.check_suffices(self._info)
        self._budget = budget
        if start:
            origin = origin_of(self._config.store, self._info)
            self._info = replace(self._info, origin=origin)
            self._warn_of_replaced(origin)
        if self._config.log_to_keras and self._info.phase == TRAIN:
            self._logs = EpochLogs(self._config.log_to_keras, self._info)
        self._check_events()
        self._digest = Digest(self._info)
        self._recorder = Recorder(
            self._strategy,
            heard.feeds,
            steps_per_execution=self._steps_per_execution,
            first_step=self._info.origin.step,
        )
        return self._recorder

    def _check_events(self) -> None:
        """Refuse signals for TensorBoard that are not watched, before the first step.

        Other phases need not have what the first one has.
        """
        options = self._config.tensorboard
        if options is not None and self._info.phase == self._config.phases[0]:
            where = "this Watch (see tensorboard)"
            names_matching(options.signals, self._info.names, where)

    def _warn_of_replaced(self, origin: Origin) -> None:
        steps = steps_of(self._config.store, self._info)
        if origin.step == 0 and steps:
            warnings.warn(
                f"the training begins anew (the optimizer's count is {origin.iteration}), so "
                f"all {steps} steps of {self._config.store} are replaced; was the model meant "
                "to be restored first?",
                RowsReplacedWarning,
                stacklevel=2,
            )

    def begin_epoch(self, epoch: int) -> None:
        """Rows from here on are of this epoch."""
        self._epoch = epoch

    def end_epoch(self) -> None:
        """Bring home the epoch's last rows, and commit them if that is due."""
        self.drain()
        if self._writer is not None:
            self._writer.commit_tail()
        if self._logs is not None:
            self._logs.end_epoch()

    @property
    def logs(self) -> dict[str, float]:
        """What the last epoch came to of what Keras's logs are to hold."""
        return self._logs.values if self._logs is not None else {}

    def after_steps(self, steps: int) -> None:
        """Some steps were done: drain those rings whose window is full.

        Raises:
            WatcherError: they were not heard.
            WriteFailedError: what was brought home before could not be written.
        """
        if self._recorder is None:
            raise WatcherError(
                "a step was done that was not heard: the model's make_train_function does "
                "not use its train_step, or a loop of your own does not use "
                "watch.wrap(train_step)."
            )
        self._recorder.follow_schedules()
        self.raise_writer_error()
        self._tell_of_thinning()
        self.tell_of_events()
        for table in self._recorder.tables:
            self._pending[table.table.name] += steps
            if self._pending[table.table.name] >= table.table.window:
                self._bring_home(table, together=True)

    def drain(self) -> None:
        """Bring home the rows of all steps that were done since the last drain."""
        self.raise_writer_error()
        for table in self._started():
            if self._pending[table.table.name]:
                self._bring_home(table, together=True)

    def drain_rest(self, *, together: bool) -> None:
        """Bring home what is left, also of steps that nobody said were done.

        Args:
            together: merge by cross-replica reductions, see `TableRecorder.drain`.
        """
        self.raise_writer_error()
        for table in self._started():
            self._bring_home(table, together=together)

    def close(self) -> None:
        """Write and commit everything that was brought home."""
        if self._writer is not None:
            self._writer.close()
        if self._events is not None:
            self._events.close()

    def tell_of_events(self) -> None:
        """Warn, once, of what is missing from TensorBoard's event files."""
        if self._events is not None:
            self._events.tell()

    def raise_writer_error(self) -> None:
        """Pass on what went wrong on the writer's thread."""
        error = self._writer.error if self._writer else None
        if error is None:
            return
        if isinstance(error, DistwatchError):
            raise error
        raise WriteFailedError(
            f"{self._config.store} could not be written ({type(error).__name__}: {error}); "
            f"{self.committed} steps are committed and stay readable."
        ) from error

    @property
    def written(self) -> bool:
        """Whether anything was brought home to be written."""
        return self._writer is not None

    @property
    def steps(self) -> int:
        """Steps brought home, summed over tables."""
        return self._digest.steps if self._digest else 0

    @property
    def committed(self) -> int:
        """Steps that a reader sees, summed over tables."""
        return self._writer.committed if self._writer else 0

    @property
    def lost(self) -> int:
        """Steps that are missing, summed over tables."""
        writer, digest = self._writer, self._digest
        return (writer.lost if writer else 0) + (digest.lost if digest else 0)

    @property
    def thinned(self) -> int:
        """Steps that were taken out of the store again, summed over tables."""
        return self._writer.thinned if self._writer else 0

    def sentences(self) -> list[str]:
        """What stands out."""
        return self._digest.sentences(lost=self.lost) if self._digest else []

    def _tell_of_thinning(self) -> None:
        if self.thinned and not self._told_of_thinning:
            self._told_of_thinning = True
            warnings.warn(
                f"{self._config.store} comes near its max_bytes: from now on only every "
                "second, fourth, ... step of its old part is kept. Watch fewer signals or "
                "steps, or give it more room, to keep all of them.",
                RowsThinnedWarning,
                stacklevel=2,
            )

    def _started(self) -> list[TableRecorder]:
        """The tables that have rings to read: a step was traced."""
        return self._recorder.tables if self._recorder and self._recorder.started else []

    def _bring_home(self, table: TableRecorder, *, together: bool) -> None:
        self._pending[table.table.name] = 0
        # No collective of ours goes from worker to worker: one whose watching was ended
        # by an error would leave the others, and so the training, waiting for ever.
        drained = table.drain(together=together and self._info.workers == 1)
        if drained is not None and self._digest is not None:
            block = self._block(table.table.name, drained)
            self._digest.observe(block)
            self._open_writer(self._digest.info).submit(block)
            if self._logs is not None:
                self._logs.observe(block)
            self._write_events(block)

    def _write_events(self, block: Block) -> None:
        options = self._config.tensorboard
        if options is not None:
            self._events = self._events or LiveEvents(options, self._info)
            self._events.submit(block)

    def _block(self, table: str, drained: DrainedRows) -> Block:
        return Block(
            table=table,
            step=drained.step,
            epoch=np.full(len(drained.step), self._epoch, np.int64),
            iteration=drained.iteration,
            rows=drained.rows,
            merged=drained.merged,
            tensors=drained.tensors,
            lost=drained.lost,
        )

    def _open_writer(self, info: RunInfo) -> BackgroundWriter:
        if self._writer is None:
            config = self._config
            make = functools.partial(
                StoreWriter,
                config.store,
                info,
                synced=config.durability == "power",
                budget=self._budget,
            )
            max_wait = None if config.on_full == "wait" else MAX_WAIT
            self._writer = BackgroundWriter(make, max_wait=max_wait)
        return self._writer


def describe(strategy: Any, versions: dict[str, str], phase: str) -> RunInfo:
    """What is known of a phase before its first step."""
    worker = strategies.worker_of(strategy)
    return RunInfo(
        tables=(),
        replicas=strategies.replica_numbers(strategy),
        strategy=strategies.describe(strategy),
        versions=versions,
        phase=phase,
        worker=worker.number,
        workers=worker.count,
    )
