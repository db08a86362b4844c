"""One watched training, from its first batch to its closed store.

The session owns what lives as long as one fit: the claim on the store and one `Phase` for
each phase. It also keeps the law that a watcher never ends a training: until the first
step is done its errors raise, afterwards they disable the watching.
"""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from distwatch.actions import STOP
from distwatch.config import WatchConfig
from distwatch.errors import (
    ConfigError,
    DistwatchWarning,
    NothingToWatchError,
    RowsLostWarning,
    UnwatchedWarning,
    WatcherDisabledWarning,
    WatcherError,
)
from distwatch.event_files.folders import delete
from distwatch.findings import Finding
from distwatch.records import CLOSED, TRAIN, TRAIN_ON_BATCH, Epoch
from distwatch.store import Budget, Change, Claim, request
from distwatch.store.addresses import Address
from distwatch.training import shutdown, sinks, strategies
from distwatch.training.acting import Acting
from distwatch.training.agreement import Agreement, agreement_of
from distwatch.training.claiming import Begun, Claiming
from distwatch.training.device.ring import Recorder
from distwatch.training.epoch_logs import numbers_of
from distwatch.training.phase import Phase, run_info, versions
from distwatch.training.progress import Progress
from distwatch.training.provenance import provenance
from distwatch.training.requested import Requested
from distwatch.training.retargeting import Retargeting
from distwatch.training.shutdown import termination_deferred
from distwatch.training.sinks import Counts
from distwatch.training.taps import TracedPlan

Method = TypeVar("Method", bound=Callable[..., None])


@dataclass(frozen=True)
class Status(Counts):
    """How the watching goes: counts of steps, and the error that ended it, if one did.

    A step that several tables look at counts in each of them.
    """

    error: Exception | None = None


def _disables_on_error(method: Method) -> Method:
    """Let an error in a method disable the watching; the training goes on."""

    @functools.wraps(method)
    def guarded(self: Session, *args: Any, **kwargs: Any) -> None:
        if self.error is not None:
            return
        with termination_deferred():
            try:
                method(self, *args, **kwargs)
            except Exception as error:
                self.fail(error)

    return cast(Method, guarded)


class Session:
    """One watched training.

    Args:
        config: what to watch and where to write it.
        strategy: the strategy that trains.
        steps_per_execution: how many steps pass between two looks at the rings.
        phases: what is recorded, each separately.
        iterations: the optimizer's count as it stands.
        refuses: whether an error before the first step is raised; if not, it disables the
            watching as later ones do, without a warning.
        model: the model's name, for that of a run in a folder of runs.
        begun: the runs that the same Watch has begun.
        save: saves the model as a file.

    Raises:
        ConfigError: a function that a rule names cannot be imported.
    """

    def __init__(
        self,
        config: WatchConfig,
        strategy: Any,
        *,
        steps_per_execution: int,
        phases: tuple[str, ...] = (TRAIN,),
        iterations: Callable[[], int],
        refuses: bool = True,
        save: Callable[[str], None] = lambda path: None,
        model: str = "",
        begun: Begun | None = None,
    ) -> None:
        self.error: Exception | None = None
        self._refuses = refuses
        self._claim: Claim | None = None
        self._iterations = iterations
        self._progress: Progress | None = None
        self._requested: Requested | None = None
        self._agreement: Agreement | None = None
        self._finished = False
        self._config = config
        self._strategy = strategy
        self._facts = facts = strategies.facts_of(strategy)
        self._acting = Acting(config.rules, facts.worker, save)
        self._epochs = 0
        self._claiming = Claiming(config, strategy, phases[0], model=model, begun=begun)
        self._done = 0
        self._under_way = False
        #: When the rows are drained next, even if no window is full.
        self._due: float | None = None
        self._budget: Budget | None = None
        self._salvaged = self._closed = False
        self._make_phase = functools.partial(
            Phase,
            strategy=strategy,
            steps_per_execution=steps_per_execution,
            iterations=iterations,
            rules=self._acting.rules,
        )
        self._provenance = provenance()
        self._phases: dict[str, Phase] = {}
        for phase in phases:
            self.add_phase(phase)

    def add_phase(self, name: str) -> None:
        """Have one more phase: a validation set's comes when it is first evaluated."""
        info = run_info(self._facts, versions(), name, self._provenance)
        made = self._make_phase(self._config, info)
        made.epoch = max((phase.epoch for phase in self._phases.values()), default=0)
        self._phases[name] = made

    def begin(self) -> None:
        """Claim the store before the first step.

        Raises:
            RunExistsError: something is there already.
            NotWritableError: one of the workers cannot write it.
            ConfigError: an option does not work on several workers.
        """
        self._claim = self._claiming.claim()
        self._config = self._claiming.config
        for phase in self._phases.values():
            phase.place(self._config)
        self._budget = self._claiming.budget(self._claim)
        synced = self._config.durability == "power"
        self._progress = Progress(
            self._claim, self._facts.worker, self._iterations, synced=synced
        )
        if self._facts.workers > 1:
            self._agreement = agreement_of(self._claim, self._facts)
            self._acting.ask_all_to_stop = self._agreement.stop
        self._requested = Requested(
            self._claim, self._facts, synced=synced, agreement=self._agreement
        )
        self._acting.declare = self._requested.declare
        shutdown.register(self.abandon)

    def make_recorder(self, plan: TracedPlan, phase: str = TRAIN) -> Recorder:
        """Set up for the signals of the first traced step, see `Phase.make_recorder`.

        Raises:
            WatcherError: the store was not claimed.
        """
        if self._claim is None or self._requested is None:
            raise WatcherError("a step was traced before the store was claimed.")
        made = self._phases[phase].make_recorder(
            plan, self._claim, self._budget, self._requested.declare
        )
        self._requested.add(self._phases[phase])
        return made

    def set(self, signals: Any, every: Any) -> None:
        """Change when signals are looked at, from the next execution on; see `Watch.set`.

        What is refused is warned of: an error would end the training that asks.
        """
        if self._requested is None or self._closed or self.error is not None:
            why = "nothing is watched now."
        else:
            try:
                why = self._requested.ask(request(signals=signals, every=every))
            except ConfigError as error:
                why = str(error)
        if why:
            message = f"nothing is changed: {why}"
            warnings.warn(message, DistwatchWarning, stacklevel=3)

    @_disables_on_error
    def begin_epoch(self, epoch: int) -> None:
        """Label the rows from here on with this epoch."""
        for phase in self._phases.values():
            # A validation set may come when the end of its epoch was noted.
            phase.drain_pending()
            phase.epoch = epoch
        self._interrupt()

    def after_steps(self, steps: int, phase: str = TRAIN) -> None:
        """Count steps that were done, and drain the rings whose window is full."""
        self._after_steps(steps, phase)
        if self._agreement is not None and phase in (TRAIN, TRAIN_ON_BATCH):
            # Also where the watching has ended: the others may count on what was agreed.
            self._keep_agreements(self._agreement, self._phases[phase])

    @_disables_on_error
    def _after_steps(self, steps: int, phase: str) -> None:
        if self._done == 0:
            self._phases[phase].try_once()
            delete(self._claiming.old_events)
        if self._claim is not None and self._done == 0 and self._facts.workers > 1:
            # The other workers wait for it. A single one does this beside the training.
            self._claim.settle()
        self._done += steps
        self._phases[phase].after_steps(steps)
        if self._progress is not None:
            self._progress.begin(self._phases[phase])
        self._drain_if_due()
        if self._requested is not None:
            self._requested.leave(self._phases[phase])

    def _keep_agreements(self, agreement: Agreement, phase: Phase) -> None:
        try:
            for plan in agreement.after_execution(goes_on=self.error is None):
                if plan.stop is not None:
                    self._stop_as_agreed(phase, plan.stop)
                elif plan.request is not None and self._requested is not None:
                    self._requested.follow(plan.request, plan.by)
        except Exception as error:
            if self.error is None:
                self.fail(error)

    def _stop_as_agreed(self, phase: Phase, why: str) -> None:
        self._acting.stops = True
        # The first worker says it for all.
        if self._requested is not None and self.error is None and self._facts.worker == 0:
            self._requested.declare(
                Change(phase=phase.name, step=phase.steps_done, by="rule", what=STOP, why=why)
            )

    @_disables_on_error
    def end_round(self, phase: str) -> None:
        """Note how far a phase is, when a round of it (one validation) ends."""
        if self._progress is not None:
            self._progress.note(self._phases[phase])
        self._interrupt()

    @_disables_on_error
    def end_epoch(self) -> None:
        """Drain the epoch's last rows, and commit them if that is due."""
        for phase in self._phases.values():
            phase.end_epoch()
        # A loop of one's own may begin its first epoch by ending none.
        self._epochs += self._done > 0
        self._judge()

    @_disables_on_error
    def note_epoch(
        self, number: int, logs: Mapping[str, Any], rate: Callable[[], float | None]
    ) -> None:
        """Store what an epoch of ``fit`` came to, once its rows are drained.

        Args:
            number: the epoch's.
            logs: Keras's; what is no number is left out.
            rate: gives the optimizer's learning rate.
        """
        if TRAIN in self._phases and self._progress is not None:
            phase = self._phases[TRAIN]
            epoch = Epoch(number, phase.steps_done, numbers_of(logs), rate())
            phase.note_epoch(epoch)
            self._progress.note_epoch(epoch)

    def retargeting(self, phase: str) -> Retargeting | None:
        """What adjusts the schedules of a phase; None before its first step was traced."""
        return self._phases[phase].retargeting

    def drains(self, phase: str) -> int:
        """How often rows of a phase were read from the devices."""
        return self._phases[phase].drains

    @property
    def stops(self) -> bool:
        """Whether a rule has the training stop."""
        return self._acting.stops

    @property
    def epoch_logs(self) -> dict[str, float]:
        """The last epoch's values for Keras's logs; NaN where nothing is known."""
        logs = self._phases[TRAIN].logs if TRAIN in self._phases else {}
        return logs if self.error is None else dict.fromkeys(logs, float("nan"))

    def finish(self) -> None:
        """Drain everything, commit it and close the store."""
        self._drain_and_close()
        # Also after an error that was raised, and that the caller went on from.
        self._close(undo=True)

    @_disables_on_error
    def _drain_and_close(self) -> None:
        for phase in self._phases.values():
            phase.drain_rest(together=True)
        self._judge(whole=True)
        self._close()
        for phase in self._phases.values():
            phase.check()
        self._finished = True
        self._warn_of_lost()

    def abandon(self) -> None:
        """Close after an interrupt or error: drain what there is, without collectives."""
        if self._closed:
            return
        with termination_deferred():
            for phase in self._phases.values():
                if self.error is None:
                    try:
                        phase.drain_rest(together=False)
                    except Exception as error:
                        self._disable(error)
            # What is done on findings may take longer than is left: rows are written first.
            healthy = self.error is None
            self._close(undo=True, leaving=healthy)

    @_disables_on_error
    def training_goes_on(self) -> None:
        """Note a step of the training, also of a phase that is not recorded."""
        self._under_way = True
        self._drain_if_due()

    def fail(self, error: Exception, phase: str = TRAIN) -> None:
        """End the watching: raise before the first step or if strict, else warn.

        A phase in which there is nothing to watch ends alone, where the training is watched.

        Raises:
            Exception: ``error`` itself.
        """
        if isinstance(error, NothingToWatchError) and self._done and len(self._phases) > 1:
            self._phases[phase].pass_over()
            warnings.warn(f"phase {phase!r}: {error}", UnwatchedWarning, stacklevel=2)
            return
        if self._config.strict or (self._refuses and not self._done and not self._under_way):
            self.error = error
            raise error
        if self.error is None:
            self._disable(error)
            self._close(undo=True)

    @property
    def path(self) -> Address | None:
        """Where the run is; None before its path is claimed."""
        return None if self._claim is None else self._claim.address

    @property
    def status(self) -> Status:
        """The counts of all phases, and the error that ended the watching."""
        counts = sum((phase.counts for phase in self._phases.values()), Counts())
        return Status(**vars(counts), error=self.error)

    def sentences(self) -> list[str]:
        """What stands out in the run, phase by phase."""
        lines = []
        for name, phase in self._phases.items():
            found = phase.sentences(self._ended)
            if name != TRAIN and found:
                lines.append(f"Phase {name}:")
            lines += found
        return lines

    def findings(self) -> list[Finding]:
        """What stands out in the run, phase by phase; see `Digest.findings`."""
        phases = self._phases.values()
        return [
            each for phase in phases for each in phase.findings(lambda _: True, self._ended)
        ]

    @property
    def _ended(self) -> str | None:
        """What ended the writing, as a run says it; None while it goes on."""
        if self.error is not None:
            return f"{type(self.error).__name__}: {self.error}"
        return CLOSED if self._finished else None

    def _interrupt(self) -> None:
        """Have nobody take for a step what comes between two of them."""
        for phase in self._phases.values():
            if phase.retargeting is not None:
                phase.retargeting.interrupt()

    def _drain_if_due(self) -> None:
        """Drain and commit all phases: another one may be under way for long."""
        if self._config.drain_every is None:
            return
        clock = time.monotonic()
        if self._due is None:
            self._due = clock + self._config.drain_every
        if clock >= self._due:
            for phase in self._phases.values():
                phase.drain_now()
            self._due = clock + self._config.drain_every
            self._judge()

    def _judge(self, *, whole: bool = False) -> None:
        """Ask the rules; only of rows that all tables have, so that none comes too late."""
        self._acting.judge(self._phases.values(), epochs=self._epochs, whole=whole)

    def _close(self, *, undo: bool = False, leaving: bool = False) -> None:
        """Close the store, with the error if there is one. A second time, do nothing.

        Args:
            undo: whether to leave the path as it was, if no row was drained.
            leaving: whether an interrupt or an error of the training ends it, so that what is
                still to be said of it is said once all rows are written.
        """
        if self._closed:
            return
        # SIGTERM may come while the last rows are written, so the run stays registered.
        with termination_deferred():
            if self.error is not None and not self._salvaged:
                self._salvaged = True
                for phase in self._phases.values():
                    phase.salvage()
            for phase in self._phases.values():
                phase.close(None if self.error is None else self._ended)
            self._closed = True
            try:
                self._close_the_rest(leaving=leaving)
            finally:
                try:
                    self._release(undo=undo)
                finally:
                    shutdown.unregister(self.abandon)

    def _close_the_rest(self, *, leaving: bool) -> None:
        if leaving:
            self._acting.leaves = True
            with contextlib.suppress(Exception):
                self._judge()
        try:
            self._acting.close()
        finally:
            if self._requested is not None:
                self._requested.close()
            if self._agreement is not None:
                self._agreement.close()
            if self._progress is not None:
                self._progress.close([*self._phases.values()], counted=self.error is None)

    def _release(self, *, undo: bool) -> None:
        if self._is_stuck:
            # Releasing writes, too. The lock ends with the process.
            self._warn_of_stuck()
        elif self._claim is not None:
            try:
                if not undo:
                    self._claim.settle()
            finally:
                self._claim.release(undo=undo and not self.status.steps)

    @property
    def _is_stuck(self) -> bool:
        return any(phase.stuck for phase in self._phases.values())

    def _warn_of_stuck(self) -> None:
        counts = self.status
        warnings.warn(
            f"{self._config.store}: nothing could be written for {sinks.PATIENCE:g} seconds, "
            f"and it is not waited for any longer. {counts.committed} steps are committed; "
            f"{counts.lost} are lost, unless the disk answers before this process ends.",
            RowsLostWarning,
            stacklevel=2,
        )

    def _disable(self, error: Exception) -> None:
        self.error = error
        # Without refusals the caller reports the error in its own way.
        if self._refuses:
            warnings.warn(
                f"distwatch stopped watching after {self._done} steps, training goes on: "
                f"{type(error).__name__}: {error}",
                WatcherDisabledWarning,
                stacklevel=2,
            )

    def _warn_of_lost(self) -> None:
        # What was overwritten on a device was told when that happened.
        lost = self.status.lost - self.status.overwritten
        if lost and not self._is_stuck:
            warnings.warn(
                f"{lost} steps are missing from {self._config.store}: the disk was slower "
                "than training. Watch fewer signals or steps, or write to a faster disk.",
                RowsLostWarning,
                stacklevel=2,
            )
