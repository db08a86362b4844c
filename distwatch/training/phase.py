"""One phase of a watched training: its rings, and the sinks that take its rows."""

from __future__ import annotations

import contextlib
import importlib
import platform
import warnings
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from distwatch.config import WatchConfig
from distwatch.errors import (
    DistwatchWarning,
    RowsLostWarning,
    RowsReplacedWarning,
    UnwatchedWarning,
    WatcherError,
)
from distwatch.findings import Finding, Rule
from distwatch.records import (
    CLOSED,
    TRAIN,
    TRAIN_ON_BATCH,
    Block,
    Epoch,
    Origin,
    Provenance,
    RunInfo,
)
from distwatch.store import Budget, Change, Claim, origin_of, steps_of
from distwatch.training.device.copies import CopiesRecorder
from distwatch.training.device.ring import Recorder, TableRecorder
from distwatch.training.retargeting import Retargeting
from distwatch.training.sinks import Counts, Sink, SinkContext, make_sinks
from distwatch.training.strategies import StrategyFacts
from distwatch.training.taps import TracedPlan
from distwatch.training.traps import warn_of_undivided_loss


class Phase:
    """Moves one phase's rows from the rings on the devices to the sinks.

    Args:
        config: what to watch and where to write it.
        info: what is known before the first step.
        strategy: the strategy that trains.
        steps_per_execution: how many steps pass between two looks at the rings.
        iterations: the optimizer's count as it stands.
        rules: those of the user's own, which are asked beside distwatch's.
    """

    def __init__(
        self,
        config: WatchConfig,
        info: RunInfo,
        strategy: Any,
        *,
        steps_per_execution: int,
        iterations: Callable[[], int],
        rules: Sequence[Rule] = (),
    ) -> None:
        self._rules = rules
        self._iterations = iterations
        self._config = config
        self._info = info
        self._strategy = strategy
        self._steps_per_execution = steps_per_execution
        self._recorder: Recorder | None = None
        #: Adjusts its schedules; None before the first step was traced.
        self.retargeting: Retargeting | None = None
        #: How often rows were read from the devices.
        self.drains = 0
        self._passed_over = False
        self._sinks: list[Sink] = []
        #: What the rows from here on are labelled with.
        self.epoch = 0
        #: Steps since each table's last drain.
        self._pending: Counter[str] = Counter()
        self._warned_of_overrun = False
        #: What was drained, and the sinks that have not taken it yet: an interrupt or error
        #: may come between.
        self._undelivered: deque[tuple[Sink, Block]] = deque()

    def place(self, config: WatchConfig) -> None:
        """Take the arguments with the path that was claimed."""
        self._config = config

    def make_recorder(
        self,
        plan: TracedPlan,
        claim: Claim,
        budget: Budget | None = None,
        declare: Callable[[Change], None] = lambda change: None,
    ) -> Recorder:
        """Set up rings and sinks for the signals of the first traced step.

        Args:
            plan: those signals.
            claim: on the store, which says which start of the run this is.
            budget: what bounds the bytes of the run; None for nothing.
            declare: stores what is changed while training runs.

        Raises:
            ConfigError: this does not continue what the run holds, does not fit into
                the budget, or a sink cannot do what it is asked for.
            UnknownSignalError: a pattern of a sink matches no signal.
        """
        self._info = replace(
            self._info,
            tables=plan.tables,
            unwatched=plan.unwatched,
            origin=Origin(claim.start, 0, plan.iteration),
            card=plan.card,
        )
        if plan.undivided and self._info.phase in (TRAIN, TRAIN_ON_BATCH):
            warn_of_undivided_loss(self._strategy.num_replicas_in_sync)
        if budget is not None:
            budget.check_suffices(self._info)
        if claim.start:
            origin = origin_of(self._config.address, self._info)
            self._info = replace(self._info, origin=origin)
            self._warn_of_replaced(origin)
            self._warn_of_new_references(origin)
        pass_over = plan.unwatched.pass_over
        self._sinks = make_sinks(
            SinkContext(self._config, self._info, budget, claim, pass_over, self._rules)
        )
        self._warn_of_passed_over(plan)
        self._recorder = Recorder(
            self._strategy,
            plan.feeds,
            plan.copies,
            steps_per_execution=self._steps_per_execution,
            first_step=self._info.origin.step,
            keep_batch=self._config.keep_batch,
        )
        self.retargeting = Retargeting(
            self._info.phase, self._recorder, declare, self._config.max_overhead
        )
        return self._recorder

    def _warn_of_passed_over(self, plan: TracedPlan) -> None:
        if plan.unwatched.passed_over and not plan.unwatched.lenient:
            warnings.warn(
                "some of what was asked for cannot be watched in this training, and is listed "
                f"in run.unwatched: {plan.unwatched.said()}. The rest is watched.",
                UnwatchedWarning,
                stacklevel=2,
            )

    @property
    def info(self) -> RunInfo:
        """What is known of the phase: with its tables and origin once a step was traced."""
        return self._info

    @property
    def name(self) -> str:
        """Such as "train"."""
        return self._info.phase

    @property
    def steps_done(self) -> int:
        """How many steps it has had, those of earlier starts among them."""
        return self._recorder.steps if self._recorder else self._info.origin.step

    def pass_over(self) -> None:
        """Let the phase go on unwatched: in it there is nothing of what was asked for."""
        self._passed_over = True

    def _warn_of_replaced(self, origin: Origin) -> None:
        steps = steps_of(self._config.address, self._info)
        # A validation may well be the first one that ends.
        if origin.step == 0 and steps and self._info.phase in (TRAIN, TRAIN_ON_BATCH):
            warnings.warn(
                f"the training starts anew (the optimizer's count is {origin.iteration}), so "
                f"all {steps} steps of {self._config.store} are replaced; was the model meant "
                "to be restored first?",
                RowsReplacedWarning,
                stacklevel=2,
            )

    def _warn_of_new_references(self, origin: Origin) -> None:
        """Some references last a whole training, but are only in a process's memory."""
        lasting = [
            signal.name
            for signal in self._info.signals
            if signal.reference == "first" or signal.reference.startswith("ema(")
        ]
        if lasting and origin.step:
            more = f" and {len(lasting) - 1} more" if len(lasting) > 1 else ""
            warnings.warn(
                f"{self._config.store} is resumed at step {origin.step}, where the references "
                "'first' and 'ema' begin anew, since those of the start before are lost "
                f"({lasting[0]}{more}).",
                DistwatchWarning,
                stacklevel=2,
            )

    def end_epoch(self) -> None:
        """Drain the epoch's last rows, and let the sinks end it."""
        self.drain_pending()
        for sink in self._sinks:
            sink.end_epoch()

    def drain_pending(self) -> None:
        """Drain what was done since the last drain, so that it has the label of this epoch."""
        self.check()
        for table in self._started():
            if self._pending[table.table.name]:
                self._drain(table, together=True)

    def note_epoch(self, epoch: Epoch) -> None:
        """Hand the sinks what an epoch of ``fit`` came to."""
        for sink in self._sinks:
            sink.note_epoch(epoch)

    def try_once(self) -> None:
        """See whether all that is computed between steps can be, after the first one.

        Raises:
            UnwatchableError: it cannot.
        """
        if self._recorder is not None and not self._passed_over:
            self._recorder.try_once()

    def after_steps(self, steps: int) -> None:
        """Count steps that were done, and drain those rings whose window is full.

        Raises:
            WatcherError: they were not captured.
            WriteFailedError: what was drained before could not be written.
        """
        if self._passed_over:
            return
        if self._recorder is None or self.retargeting is None:
            raise WatcherError(
                "a step was done that was not captured: the model's make_train_function does "
                "not use its train_step, or a loop of your own does not use "
                "watch.wrap(train_step)."
            )
        self.retargeting.after_steps(steps)
        self._recorder.after_steps(steps, self._iterations)
        self.check()
        for table in self._recorder.tables:
            self._pending[table.table.name] += steps
            if table.is_due(self._pending[table.table.name]):
                self._drain(table, together=True)

    def drain_now(self) -> None:
        """Drain what there is, whether or not a window is full, and commit it.

        Raises:
            WriteFailedError: what was drained before could not be written.
        """
        self.check()
        if not any(self._pending.values()):
            return
        for table in self._started():
            if self._pending[table.table.name]:
                self._drain(table, together=True)
        for sink in self._sinks:
            sink.commit()

    def drain_rest(self, *, together: bool) -> None:
        """Drain what is left, also of steps that were not reported as done.

        Args:
            together: merge by cross-replica reductions, see `TableRecorder.drain`.
        """
        self.check()
        for table in self._started():
            self._drain(table, together=together)

    def salvage(self) -> None:
        """After an error, drain what can be drained, and count the rest as lost."""
        self._deliver(failing=True)
        for table in self._started():
            try:
                block = table.drain(self.epoch, together=False)
            except Exception:
                self._count_lost(table)
            else:
                self._queue(block)
                self._deliver(failing=True)

    def check(self) -> None:
        """Raise, or warn once, of what went wrong in the background of a sink.

        Raises:
            WriteFailedError: what was drained could not be written.
        """
        for sink in self._sinks:
            sink.check()

    def close(self, ended: str | None = None) -> None:
        """Write and commit everything that was drained, and the error that ended it."""
        for sink in self._sinks:
            sink.close(ended)

    @property
    def stuck(self) -> bool:
        """Whether the disk did not answer, so that `close` stopped waiting for it."""
        return any(sink.stuck for sink in self._sinks)

    @property
    def counts(self) -> Counts:
        """Steps drained, committed, lost and thinned."""
        return sum((sink.counts for sink in self._sinks), Counts())

    @property
    def logs(self) -> dict[str, float]:
        """The last epoch's values for Keras's logs."""
        return {key: value for sink in self._sinks for key, value in sink.logs.items()}

    def sentences(self, ended: str | None = CLOSED) -> list[str]:
        """What stands out, given what ended the writing; see `Digest.findings`."""
        lost = self.counts.lost
        return [sentence for sink in self._sinks for sentence in sink.sentences(lost, ended)]

    def findings(
        self, asked: Callable[[Rule], bool], ended: str | None = None
    ) -> list[Finding]:
        """What those rules find that are asked, given what ended the writing."""
        lost = self.counts.lost
        return [each for sink in self._sinks for each in sink.findings(asked, lost, ended)]

    def _started(self) -> list[TableRecorder | CopiesRecorder]:
        """The tables that have rings to read: a step was traced."""
        return self._recorder.tables if self._recorder and self._recorder.started else []

    def _drain(self, table: TableRecorder | CopiesRecorder, *, together: bool) -> None:
        self._deliver()
        # Between workers no collective of ours is entered: if an error had ended the
        # watching on one, the others, and so the training, would wait for it for ever.
        block = table.drain(self.epoch, together=together and self._info.workers == 1)
        self.drains += block is not None
        self._queue(block)
        self._pending[table.table.name] = 0
        self._deliver()
        if block is not None and block.lost:
            self._warn_of_overrun(table, block.lost)

    def _warn_of_overrun(self, table: TableRecorder | CopiesRecorder, lost: int) -> None:
        if self._warned_of_overrun:
            return
        self._warned_of_overrun = True
        rows = table.capacity + lost
        warnings.warn(
            f"{lost} steps are missing from {self._config.store}: {rows} were recorded between "
            f"two looks at the devices, which keep {table.capacity}, so the oldest were "
            "overwritten. Call watch.after_step more often, or say how many steps are done "
            f"between two calls: watching(..., steps_per_execution={rows}); in fit, a window "
            f"of {-(-rows // 2)} keeps as many. This is said once; watch.status.lost counts "
            "all of them.",
            RowsLostWarning,
            stacklevel=2,
        )

    def _queue(self, block: Block | None) -> None:
        if block is not None:
            self._undelivered.extend([(sink, block) for sink in self._sinks])

    def _deliver(self, *, failing: bool = False) -> None:
        """Give the sinks what they have not taken yet; of those that fail, no error matters."""
        while self._undelivered:
            sink, block = self._undelivered[0]
            with contextlib.suppress(*([Exception] if failing else [])):
                sink.write(block)
            self._undelivered.popleft()

    def _count_lost(self, table: TableRecorder | CopiesRecorder) -> None:
        name = table.table.name
        try:
            lost = table.undrained()
        except Exception:
            lost = self._pending[name]  # the most that it can be
        for sink in self._sinks if lost else ():
            sink.count_lost(name, lost)


def run_info(
    facts: StrategyFacts,
    versions: dict[str, str],
    phase: str,
    provenance: Provenance | None = None,
) -> RunInfo:
    """What is known of a phase before its first step."""
    return RunInfo(
        tables=(),
        replicas=facts.replicas,
        strategy=str(facts),
        versions=versions,
        phase=phase,
        worker=facts.worker,
        workers=facts.workers,
        provenance=provenance,
    )


def versions() -> dict[str, str]:
    """The versions that a run was made with."""
    # Asked of the modules: TensorFlow is also distributed as tensorflow-cpu, tf-nightly, ...
    modules = ("distwatch", "tensorflow", "keras", "numpy", "zarr")
    found = {name: importlib.import_module(name).__version__ for name in modules}
    return {**found, "python": platform.python_version()}
