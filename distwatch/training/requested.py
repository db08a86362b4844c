"""What is asked of a training while it runs, and the file that says what became of it."""

from __future__ import annotations

from distwatch.errors import DistwatchError
from distwatch.store import Change, Claim, Request, Requests, Tally, changes_name, location_of
from distwatch.training.agreement import Agreement
from distwatch.training.phase import Phase
from distwatch.training.retargeting import Retargeting
from distwatch.training.strategies import StrategyFacts


class Requested:
    """Hands requests to the phases of a training, and stores what they change.

    Args:
        claim: on the run.
        facts: about the strategy.
        synced: whether what is stored waits until the disk itself has it.
        agreement: of several workers, which change their schedules at the same step.
    """

    def __init__(
        self,
        claim: Claim,
        facts: StrategyFacts,
        *,
        synced: bool,
        agreement: Agreement | None = None,
    ) -> None:
        location = location_of(claim.address, synced=synced)
        self._claim = claim
        self._agreement = agreement
        #: Of what all workers do alike, the first one says so in the run.
        self._is_first = facts.worker == 0
        name = changes_name(facts.worker, claim.start)
        self._file = Tally(location, claim, facts.worker, name)
        # What stands in the run of an earlier start was asked of that one.
        self._requests = Requests(location, skip=claim.start > 0)
        self._phases: list[tuple[Phase, Retargeting]] = []
        #: What was taken up, for phases that begin later.
        self._taken: list[tuple[Request, str]] = []
        self._drains = 0

    def declare(self, change: Change) -> None:
        """Store a change.

        Raises:
            DistwatchError: it could not be written.
        """
        if change.what != "set" or self._is_first:
            self._file.note(change.model_copy(update={"start": self._claim.start}))

    def add(self, phase: Phase) -> None:
        """Hand requests to a phase whose first step was traced, also those made before."""
        if phase.retargeting is None:
            return
        self._phases.append((phase, phase.retargeting))
        for asked, by in self._taken:
            if not _refusal(phase.retargeting, asked):
                phase.retargeting.ask(asked, by)

    def ask(self, asked: Request, by: str = "call") -> str:
        """Have the phases do what is asked: of one worker, after the steps that are under way.

        Of several, the first one plans it for all, whichever of them are asked as well.

        Returns:
            Why it is refused, if it is: no phase has all of these signals.
        """
        if not self._phases:
            return "no step was traced yet, so it is not known which signals there are."
        refusals = [_refusal(each, asked) for _, each in self._phases]
        if all(refusals):
            return refusals[0]
        if self._agreement is None:
            self.follow(asked, by)
        elif self._is_first:
            self._agreement.change(asked, by)
        return ""

    def follow(self, asked: Request, by: str) -> None:
        """Have the phases do, with the next steps, what was not refused."""
        for _, each in self._phases:
            if not _refusal(each, asked):
                each.ask(asked, by)
        self._taken.append((asked, by))

    def leave(self, phase: Phase) -> None:
        """After each execution: look for requests at drains, and take up what was found.

        Raises:
            DistwatchError: it could not be stored that one was refused.
        """
        drains = sum(each.drains for each, _ in self._phases)
        drained, self._drains = drains > self._drains, drains
        if drained and self._is_first and self._claim.is_settled:
            self._requests.look()
        for asked in self._requests.take():
            given = asked if isinstance(asked, Request) else None
            why = self.ask(given, "file") if given is not None else str(asked)
            if why:
                self._phases[0][1].refuse(why, given)
        if phase.retargeting is not None:
            phase.retargeting.leave(drained=drained)

    def close(self) -> None:
        """End the threads."""
        self._requests.close()
        self._file.close()


def _refusal(retargeting: Retargeting, asked: Request) -> str:
    try:
        retargeting.check(asked)
    except DistwatchError as error:
        return str(error)
    return ""
