"""Claiming a run's path before the first step, on one worker or on all of them together."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, cast

from distwatch.actions import CHECKPOINT, STOP
from distwatch.config import WatchConfig
from distwatch.errors import ConfigError, NotWritableError, RunExistsError
from distwatch.event_files.folders import files_in_the_way
from distwatch.store import (
    Budget,
    Claim,
    claim_again,
    claim_new,
    claim_with,
    location_of,
    now,
    run_name,
)
from distwatch.store.schema import root_attributes
from distwatch.training import strategies
from distwatch.training.phase import run_info, versions

#: Seconds that a shared folder may take until a worker sees what another one wrote.
_SHARED_FOLDER_WAIT = 10.0


class Claiming:
    """Claims the path of a watched training.

    Args:
        config: says where, and what may be there.
        strategy: the strategy that trains.
        phase: the first phase that is recorded.
    """

    def __init__(self, config: WatchConfig, strategy: Any, phase: str) -> None:
        self._config = config
        self._strategy = strategy
        self._facts = strategies.facts_of(strategy)
        self._phase = phase
        #: Event files of the run that is overwritten, to delete when the first step is done.
        self.old_events: list[Path] = []

    def claim(self) -> Claim:
        """Claim the path, before the first step.

        Raises:
            RunExistsError: something is there already.
            RunInUseError: a run is there that another process writes.
            NotWritableError: one of the workers cannot write it.
            ConfigError: an option does not work on several workers.
        """
        # Random, so that no worker takes a run that lay there before for this one.
        run = secrets.randbits(50) or 1
        if self._facts.workers == 1:
            return self._claimed(run)
        self._check_options_of_workers()
        return self._claimed_for_all(run)

    def budget(self, claim: Claim) -> Budget | None:
        """This worker's part of ``max_bytes``, less what earlier starts left."""
        if self._config.max_bytes is None:
            return None
        # What is overwritten is there until the first step is done.
        used = location_of(self._config.store).size_below() if claim.start else 0
        return Budget(
            self._config.max_bytes // self._facts.workers,
            thins=self._config.at_max_bytes == "thin",
            used=used // self._facts.workers,
        )

    def _claimed(self, run: int) -> Claim:
        """Claim the path for a run of this name, or to continue the run that is there."""
        store, synced = self._config.store, self._config.durability == "power"
        there = run_name(store) if self._config.resume else None
        # Without a name, several workers could not know that they mean the same run.
        if there or (there is not None and self._facts.workers == 1):
            return claim_again(store, synced=synced)
        if self._config.tensorboard is not None:
            self.old_events = files_in_the_way(
                self._config.tensorboard, overwrite=self._config.overwrite
            )
        described = run_info(self._facts, versions(), self._phase)
        attributes = root_attributes(described, now(), f"{run:x}")
        return claim_new(store, attributes, overwrite=self._config.overwrite, synced=synced)

    def _claimed_for_all(self, run: int) -> Claim:
        """Claim on the first worker, and go on only if every worker sees the claim.

        Every worker calls this before its first step, so none waits for one that was
        refused.
        """
        refusal: Exception | None = None
        claim: Claim | None = None
        if self._facts.worker == 0:
            try:
                claim = self._claimed(run)
            except Exception as error:
                refusal = error
        mine, start = (int(claim.run, 16), claim.start) if claim else (0, 0)
        claimed = strategies.sum_over_workers(self._strategy, mine)
        start = strategies.sum_over_workers(self._strategy, start)
        if refusal is not None:
            raise refusal
        if not claimed:
            raise RunExistsError(
                f"{self._config.store} was refused by worker 0, which says why; no worker is "
                "watched."
            )
        if claim is None:
            try:
                claim = self._joined(f"{claimed:x}", start)
            except Exception as error:
                refusal = error
        self._check_all_see(claim, refusal)
        return cast(Claim, claim)

    def _joined(self, run: str, start: int) -> Claim | None:
        return claim_with(
            self._config.store,
            run,
            self._facts.worker,
            start=start,
            synced=self._config.durability == "power",
            wait=_SHARED_FOLDER_WAIT,
        )

    def _check_all_see(self, claim: Claim | None, refusal: Exception | None) -> None:
        """Refuse, on every worker, what one of them cannot write."""
        blind = strategies.sum_over_workers(self._strategy, 0 if claim else 1)
        if not blind:
            return
        if claim is not None:
            claim.release(undo=True)
        if refusal is not None:
            raise refusal
        raise NotWritableError(
            f"{self._config.store}: {blind} of the workers cannot see or write it (this one "
            f"{'can' if claim else 'cannot'}); give Watch a path in a folder that all "
            "workers share."
        )

    def _check_options_of_workers(self) -> None:
        if self._config.max_bytes and self._config.at_max_bytes == "thin":
            raise ConfigError(
                "max_bytes on several workers: each would keep other steps of the old part, "
                'which then could not be merged; pass at_max_bytes="stop".'
            )
        if self._config.max_overhead is not None:
            raise ConfigError(
                "max_overhead on several workers: each would look at other steps, whose rows "
                "then could not be merged; choose a schedule such as distwatch.every(10)."
            )
        asked = {action.what for choice in self._config.rules for action in choice.do}
        if asked & {STOP, CHECKPOINT}:
            raise ConfigError(
                "rules with stop or checkpoint on several workers: each knows the rows of its "
                "own replicas only, so that one would stop, or save, and leave the others "
                "waiting; call and log_json work on each of them."
            )
        if self._config.log_to_keras:
            raise ConfigError(
                "log_to_keras on several workers: each knows the rows of its own replicas "
                "only, so that EarlyStopping would stop one of them and leave the others "
                "waiting; read the run with open_run instead."
            )
