"""Claiming a run's path before the first step, on one worker or on all of them together."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from distwatch.actions import CHECKPOINT
from distwatch.config import WatchConfig
from distwatch.errors import ConfigError, NotWritableError, RunExistsError, RunInUseError
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
from distwatch.store.addresses import Address, inside
from distwatch.store.new_runs import (
    SUFFIX,
    FolderOfRuns,
    beside,
    dated_names,
    names_beside,
    title_of,
)
from distwatch.store.schema import root_attributes
from distwatch.training import strategies
from distwatch.training.phase import run_info, versions

#: Seconds that a shared folder may take until a worker sees what another one wrote.
_SHARED_FOLDER_WAIT = 10.0


class Begun:
    """The random names of the runs that a Watch has begun: its copies share them."""

    def __init__(self) -> None:
        self.runs: set[str] = set()

    def __deepcopy__(self, memo: Any) -> Begun:
        return self


class Claiming:
    """Claims the path of a watched training.

    Args:
        config: says where, and what may be there.
        strategy: the strategy that trains.
        phase: the first phase that is recorded.
        model: the model's name.
        begun: the runs that the same Watch has begun: a further one goes beside them.
    """

    def __init__(
        self,
        config: WatchConfig,
        strategy: Any,
        phase: str,
        *,
        model: str = "",
        begun: Begun | None = None,
    ) -> None:
        #: What was given; once the path is claimed, with that of the run itself.
        self.config = config
        self._given = config
        self._title = script_name() or model
        self._begun = begun or Begun()
        #: The run's place relative to what was given; "" where that is its path.
        self._key = ""
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
            claim = self._claimed(run)
        else:
            self._check_options_of_workers()
            claim = self._claimed_for_all(run)
        self._begun.runs.add(claim.run)
        return claim

    def budget(self, claim: Claim) -> Budget | None:
        """This worker's part of ``max_bytes``, less what earlier starts left."""
        if self.config.max_bytes is None:
            return None
        # What is overwritten is there until the first step is done.
        used = location_of(self.config.address).size_below() if claim.start else 0
        return Budget(
            self.config.max_bytes // self._facts.workers,
            thins=self.config.at_max_bytes == "thin",
            used=used // self._facts.workers,
        )

    def _claimed(self, run: int) -> Claim:
        """Claim the path for a run of this name, or to continue the run that is there."""
        store = self._given.store
        if isinstance(store, FolderOfRuns):
            return self._claim_in(store, run)
        there = run_name(store) if self.config.resume or self._begun.runs else None
        # Without a name, several workers could not know that they mean the same run.
        if self.config.resume and (there or (there is not None and self._facts.workers == 1)):
            return claim_again(store, synced=self.config.durability == "power")
        if there in self._begun.runs:
            return self._claim_first_free(names_beside(store), run)
        return self._claim_new(run)

    def _claim_in(self, place: FolderOfRuns, run: int) -> Claim:
        if place.key is not None:
            self._go_to(place.key)
            return self._claim_new(run)
        if run_name(place.folder) is not None:
            raise RunExistsError(
                f"{place.folder} is a run itself, and a path that ends in a slash is a folder "
                "of runs: leave the slash out, or choose another folder."
            )
        return self._claim_first_free(dated_names(place.folder, self._title), run)

    def _claim_first_free(self, keys: Iterable[str], run: int) -> Claim:
        """Claim the first of some places that is free: another process may be faster."""
        for key in keys:
            self._go_to(key)
            try:
                return self._claim_new(run)
            except (RunExistsError, RunInUseError):
                continue
        raise RunExistsError(f"{self._given.store}: no name is free.")

    def _claim_new(self, run: int) -> Claim:
        # Nothing but what was named is overwritten.
        overwrite = self.config.overwrite and not self._key
        if self.config.tensorboard is not None:
            self.old_events = files_in_the_way(self.config.tensorboard, overwrite=overwrite)
        described = run_info(self._facts, versions(), self._phase)
        attributes = root_attributes(described, now(), f"{run:x}")
        synced = self.config.durability == "power"
        return claim_new(self.config.address, attributes, overwrite=overwrite, synced=synced)

    def _go_to(self, key: str) -> None:
        """Have the run, and its event files, in a place of its own."""
        self._key = key
        if not key:
            return
        given = self._given.store
        store: Address = (
            inside(given.folder, key) if isinstance(given, FolderOfRuns) else beside(given, key)
        )
        update: dict[str, Any] = {"store": store}
        if (board := self._given.tensorboard) is not None:
            folder = board.folder / key.removesuffix(SUFFIX)
            update["tensorboard"] = replace(board, folder=folder)
        self.config = self._given.model_copy(update=update)

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
                f"{self.config.store} was refused by worker 0, which says why; no worker is "
                "watched."
            )
        self._go_to(strategies.text_of_first_worker(self._strategy, self._key))
        if claim is None:
            try:
                claim = self._joined(f"{claimed:x}", start)
            except Exception as error:
                refusal = error
        self._check_all_see(claim, refusal)
        return cast(Claim, claim)

    def _joined(self, run: str, start: int) -> Claim | None:
        return claim_with(
            self.config.address,
            run,
            self._facts.worker,
            start=start,
            synced=self.config.durability == "power",
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
            f"{self.config.store}: {blind} of the workers cannot see or write it (this one "
            f"{'can' if claim else 'cannot'}); give Watch a path in a folder that all "
            "workers share."
        )

    def _check_options_of_workers(self) -> None:
        if self.config.max_bytes and self.config.at_max_bytes == "thin":
            raise ConfigError(
                "max_bytes on several workers: each would keep other steps of the old part, "
                'which then could not be merged; pass at_max_bytes="stop".'
            )
        if self.config.max_overhead is not None:
            raise ConfigError(
                "max_overhead on several workers: each would look at other steps, whose rows "
                "then could not be merged; choose a schedule such as distwatch.every(10)."
            )
        asked = {action.what for choice in self.config.rules for action in choice.do}
        if CHECKPOINT in asked:
            raise ConfigError(
                "rules with checkpoint on several workers: each knows the rows of its own "
                "replicas only, so that one would save and leave the others waiting; stop, "
                "call and log_json work on several."
            )
        if self.config.log_to_keras:
            raise ConfigError(
                "log_to_keras on several workers: each knows the rows of its own replicas "
                "only, so that EarlyStopping would stop one of them and leave the others "
                "waiting; read the run with open_run instead."
            )


def script_name() -> str:
    """The name of the script that runs; "" in a notebook or a shell."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return title_of(Path(path)) if path else ""
