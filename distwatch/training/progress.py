"""Noting how far the phases of a training have come, for the start that continues it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from distwatch.records import TRAIN, TRAIN_ON_BATCH, Epoch
from distwatch.store import Claim, EpochLine, Note, Tally, epochs_name, location_of
from distwatch.training.phase import Phase


class Progress:
    """Notes where each phase begins, how far it is when a round of it ends, and epochs.

    Args:
        claim: on the run.
        worker: this process's number.
        iterations: the optimizer's count as it stands.
        synced: whether a note waits until the disk itself has it.
    """

    def __init__(
        self, claim: Claim, worker: int, iterations: Callable[[], int], *, synced: bool
    ) -> None:
        location = location_of(claim.address, synced=synced)
        self._tally = Tally(location, claim, worker)
        self._epochs = Tally(location, claim, worker, epochs_name(worker, claim.start))
        self._iterations = iterations
        self._begun: set[str] = set()

    def begin(self, phase: Phase) -> None:
        """Note where a phase begins, once.

        Raises:
            DistwatchError: it could not be written.
        """
        origin = phase.info.origin
        if phase.info.tables and phase.info.phase not in self._begun:
            self._begun.add(phase.info.phase)
            self._tally.note(Note(phase.info.phase, origin.iteration, origin.step))

    def note(self, phase: Phase) -> None:
        """Note how far a phase is; of a training, its rows and the optimizer's count tell.

        Raises:
            DistwatchError: it could not be written.
        """
        name = phase.info.phase
        if name in self._begun and name not in (TRAIN, TRAIN_ON_BATCH):
            self._tally.note(Note(name, self._iterations(), phase.steps_done))

    def note_epoch(self, epoch: Epoch) -> None:
        """Store what an epoch of ``fit`` came to.

        Raises:
            DistwatchError: it could not be written.
        """
        self._epochs.note(EpochLine(epoch))

    def close(self, phases: list[Phase], *, counted: bool) -> None:
        """Note how far all phases are, or that they are not counted from here on."""
        # The error that ended the watching, if any, was told; another one helps nobody.
        with contextlib.suppress(Exception):
            for phase in phases:
                if counted:
                    self.note(phase)
                elif self._begun:
                    self._tally.note(Note(phase.info.phase, self._iterations(), None))
        self._tally.close()
        self._epochs.close()
