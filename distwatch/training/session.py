"""One watched training, from its first batch to its closed store.

The session owns what lives as long as one fit: the claim on the store and the
recordings, one a phase. It also keeps the law that a watcher never kills a training:
until the first step is done its errors raise, afterwards they disable it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import platform
import secrets
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from distwatch.config import WatchConfig
from distwatch.errors import (
    ConfigError,
    NotWritableError,
    RowsLostWarning,
    RunExistsError,
    WatcherDisabledWarning,
)
from distwatch.event_files.folders import make_room
from distwatch.records import TRAIN
from distwatch.store import (
    Budget,
    claim,
    disclaim,
    is_claimed,
    location_of,
    next_start,
    now,
    run_name,
    sweep,
)
from distwatch.store.schema import root_attributes
from distwatch.training import strategies
from distwatch.training.device.ring import Recorder
from distwatch.training.phase import Phase, describe
from distwatch.training.shutdown import close_before_exit, closed, undisturbed
from distwatch.training.taps import TracedPlan

Method = TypeVar("Method", bound=Callable[..., None])

#: Seconds that a shared folder may take until a worker sees what another one wrote.
_SHARED_FOLDER_WAIT = 10.0


@dataclass(frozen=True)
class Status:
    """How the watching goes: counts of steps, and the error that ended it, if one did.

    A step that is looked at by several tables counts in each of them.
    """

    steps: int = 0
    committed: int = 0
    lost: int = 0
    #: Taken out of the store again, to keep within ``max_bytes``.
    thinned: int = 0
    error: Exception | None = None


def _never_the_killer(method: Method) -> Method:
    """Turn an error in the watching of a running training into a loud end of it."""

    @functools.wraps(method)
    def guarded(self: Session, *args: Any, **kwargs: Any) -> None:
        if self.error is not None:
            return
        with undisturbed():
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
        phases: what is recorded, each apart from the others.
        refuses: whether an error before the first step is raised, or ends the watching as
            later ones do.
    """

    def __init__(
        self,
        config: WatchConfig,
        strategy: Any,
        *,
        steps_per_execution: int,
        phases: tuple[str, ...] = (TRAIN,),
        refuses: bool = True,
    ) -> None:
        self.error: Exception | None = None
        self._refuses = refuses
        self.begun = False
        self._config = config
        self._strategy = strategy
        self._done = 0
        #: Which start of the run this is.
        self._start = 0
        self._budget: Budget | None = None
        self._recordings = {
            phase: Phase(
                config,
                describe(strategy, versions(), phase),
                strategy,
                steps_per_execution=steps_per_execution,
            )
            for phase in phases
        }

    def begin(self) -> None:
        """Claim the store before the first step.

        Raises:
            RunExistsError: something is there already.
            NotWritableError: it cannot be written, by one of the workers.
            ConfigError: several workers cannot keep within its bytes as asked.
        """
        # Random, so that no worker takes a run that lay there before for this one.
        run = secrets.randbits(50) or 1
        worker = strategies.worker_of(self._strategy)
        self._check_budget(worker.count)
        self._check_logs(worker.count)
        if worker.count == 1:
            self._claim(run)
            self._start = self._next_start()
        else:
            self._claim_for_all(worker.number, run)
        self._budget = self._make_budget(worker.count)
        self.begun = True
        close_before_exit(self.abandon)

    def make_recorder(self, heard: TracedPlan, phase: str = TRAIN) -> Recorder:
        """Set up for the signals that the first step was heard to put out."""
        return self._recordings[phase].make_recorder(heard, self._start, self._budget)

    @_never_the_killer
    def begin_epoch(self, epoch: int) -> None:
        """Rows from here on are of this epoch."""
        for recording in self._recordings.values():
            recording.begin_epoch(epoch)

    @_never_the_killer
    def after_steps(self, steps: int, phase: str = TRAIN) -> None:
        """Some steps were done: drain the rings when a window is full."""
        self._done += steps
        self._recordings[phase].after_steps(steps)

    @_never_the_killer
    def end_epoch(self) -> None:
        """Bring home the epoch's last rows, and commit them if that is due."""
        for recording in self._recordings.values():
            recording.end_epoch()

    @property
    def epoch_logs(self) -> dict[str, float]:
        """What Keras's logs are to hold of the last epoch; NaN where nothing is known."""
        recording = self._recordings.get(TRAIN)
        logs = recording.logs if recording else {}
        return logs if self.error is None else dict.fromkeys(logs, float("nan"))

    @_never_the_killer
    def finish(self) -> None:
        """Bring everything home, commit it and close the store."""
        for recording in self._recordings.values():
            recording.drain_rest(together=True)
        self._close()
        for recording in self._recordings.values():
            recording.raise_writer_error()
        self._warn_of_lost()
        for recording in self._recordings.values():
            recording.tell_of_events()

    def abandon(self) -> None:
        """Training was interrupted: bring home what there is, without collectives."""
        closed(self.abandon)
        for recording in self._recordings.values():
            if self.error is None:
                try:
                    recording.drain_rest(together=False)
                except Exception as error:
                    self._disable(error)
        self._close()
        if self.begun and not any(each.written for each in self._recordings.values()):
            # What ended the fit matters more than a folder that cannot be removed.
            with contextlib.suppress(OSError):
                disclaim(self._config.store)

    def fail(self, error: Exception) -> None:
        """The watching failed: raise before the first step, else warn and stop watching."""
        if self._config.strict or (self._done == 0 and self._refuses):
            self.error = error
            raise error
        if self.error is None:
            self._disable(error)
            self._close()

    @property
    def status(self) -> Status:
        """How it goes."""
        recordings = self._recordings.values()
        return Status(
            steps=sum(recording.steps for recording in recordings),
            committed=sum(recording.committed for recording in recordings),
            lost=sum(recording.lost for recording in recordings),
            thinned=sum(recording.thinned for recording in recordings),
            error=self.error,
        )

    def sentences(self) -> list[str]:
        """What stands out in the run, phase by phase."""
        lines = []
        for phase, recording in self._recordings.items():
            told = recording.sentences()
            if phase != TRAIN and told:
                lines.append(f"Phase {phase}:")
            lines += told
        return lines

    def _claim(self, run: int) -> int:
        """Claim the path for a run, or take up the run that is there; returns its name."""
        store = self._config.store
        if self._config.resume and (there := run_name(store)):
            sweep(store)
            return int(there, 16)
        if self._config.tensorboard is not None:
            make_room(self._config.tensorboard, overwrite=self._config.overwrite)
        first = next(iter(self._recordings))
        described = describe(self._strategy, versions(), first)
        attributes = root_attributes(described, now(), f"{run:x}")
        claim(
            store,
            attributes,
            overwrite=self._config.overwrite,
            synced=self._config.durability == "power",
        )
        return run

    def _next_start(self) -> int:
        return next_start(self._config.store) if self._config.resume else 0

    def _claim_for_all(self, worker: int, run: int) -> None:
        """Claim on the first worker, and go on only if every worker sees the claim.

        All of them come through here before their first step, so that none is left
        waiting for one that was refused.
        """
        refusal: Exception | None = None
        mine = start = 0
        if worker == 0:
            try:
                mine = self._claim(run)
                start = self._next_start()
            except Exception as error:
                refusal, mine = error, 0
        claimed = strategies.sum_over_workers(self._strategy, mine)
        self._start = strategies.sum_over_workers(self._strategy, start)
        if refusal is not None:
            raise refusal
        store = self._config.store
        if not claimed:
            raise RunExistsError(
                f"{store} was refused by worker 0, which says why; no worker is watched."
            )
        seen = is_claimed(store, f"{claimed:x}", wait=_SHARED_FOLDER_WAIT)
        blind = strategies.sum_over_workers(self._strategy, 0 if seen else 1)
        if blind:
            raise NotWritableError(
                f"{store}: {blind} of the workers cannot see or write it (this one "
                f"{'can' if seen else 'cannot'}); give Watch a path in a folder that all "
                "workers share."
            )

    def _check_budget(self, workers: int) -> None:
        if workers > 1 and self._config.max_bytes and self._config.at_max_bytes == "thin":
            raise ConfigError(
                "max_bytes on several workers: each would keep other steps of the old part, "
                'which then could not be merged; pass at_max_bytes="stop".'
            )

    def _check_logs(self, workers: int) -> None:
        if workers > 1 and self._config.log_to_keras:
            raise ConfigError(
                "log_to_keras on several workers: each knows the rows of its own replicas "
                "only, so that EarlyStopping would stop one of them and leave the others "
                "waiting; read the run with open_run instead."
            )

    def _make_budget(self, workers: int) -> Budget | None:
        """This worker's part of what the run may hold, beside what earlier starts left."""
        if self._config.max_bytes is None:
            return None
        used = location_of(self._config.store).nbytes
        return Budget(
            self._config.max_bytes // workers,
            thins=self._config.at_max_bytes == "thin",
            used=used // workers,
        )

    def _close(self) -> None:
        closed(self.abandon)
        for recording in self._recordings.values():
            recording.close()

    def _disable(self, error: Exception) -> None:
        self.error = error
        # Where nothing is refused, nothing is said: who asked for that says it in its own way.
        if self._refuses:
            warnings.warn(
                f"distwatch stopped watching after {self._done} steps, training goes on: "
                f"{type(error).__name__}: {error}",
                WatcherDisabledWarning,
                stacklevel=2,
            )

    def _warn_of_lost(self) -> None:
        if lost := self.status.lost:
            warnings.warn(
                f"{lost} steps are missing from {self._config.store}: the disk was slower "
                "than training. Watch fewer signals or steps, or write to a faster disk.",
                RowsLostWarning,
                stacklevel=2,
            )


def versions() -> dict[str, str]:
    """The versions that a run was made with."""
    # Asked of the modules: TensorFlow is also distributed as tensorflow-cpu, tf-nightly, ...
    modules = ("distwatch", "tensorflow", "keras", "numpy", "zarr")
    found = {name: importlib.import_module(name).__version__ for name in modules}
    return {**found, "python": platform.python_version()}
