"""Having several workers do one thing after the same execution, so that none waits for another.

No collective operation is used: a worker whose watching has failed would not enter it, and the
others would wait. Each execution of a training waits for the gradients of all workers. So what
one has written into the run before an execution, all others find there after it. All look there
after the same executions, and

1. the first worker plans something, by its own wish or that of another;
2. each worker that finds the plan writes that it follows, and reads from then on what the
   first one decides, however long the disk takes;
3. once the first worker has read that all follow, it writes that they do it, all after the next
   look. If one does not follow in time, it writes nothing, and nobody does it.

So one worker alone decides, by what is in the run; what another one wrote too late counts as
not written. A worker that does not watch any more does not follow.
"""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from abc import ABC, abstractmethod

from distwatch.errors import ActionFailedWarning, DistwatchError
from distwatch.store import Claim, Request, Tally, location_of
from distwatch.store.locations import Bucket
from distwatch.store.plans import Plan, plans_name, plans_of
from distwatch.training.strategies import StrategyFacts

#: Executions between two looks in a folder, and in a bucket, which takes longer to answer.
LOOK_EVERY, LOOK_EVERY_IN_BUCKETS = 16, 256

#: For how many looks the first worker waits until all follow a plan.
LOOKS_AHEAD = 4

#: Seconds for which a look waits for a disk: where nothing is followed, so that the next look
#: will do; and where the others count on it.
PATIENCE, LONG_PATIENCE = 1.0, 60.0

#: Seconds between two tries to read what cannot be read.
_PAUSE = 0.5


def agreement_of(claim: Claim, facts: StrategyFacts) -> Agreement:
    """That of this worker with the others.

    Args:
        claim: on the run that all write.
        facts: about the strategy.
    """
    return (FurtherWorker if facts.worker else FirstWorker)(claim, facts)


class Agreement(ABC):
    """What a worker asks of all, and does with all; see `agreement_of`."""

    def __init__(self, claim: Claim, facts: StrategyFacts) -> None:
        # Other machines see what a shared folder itself has.
        self._location = location_of(claim.address, synced=True)
        self._start = claim.start
        name = plans_name(facts.worker, claim.start)
        self._file = Tally(self._location, claim, facts.worker, name)
        in_bucket = isinstance(self._location, Bucket)
        self._look_every = LOOK_EVERY_IN_BUCKETS if in_bucket else LOOK_EVERY
        self._executions = 0
        #: Those that this one listens to.
        self._others = range(1, facts.workers) if facts.worker == 0 else range(1)
        self._reading: threading.Thread | None = None
        #: What they have said, as far as it is known here, and how much of it was taken up.
        self._said: dict[int, list[Plan]] = {worker: [] for worker in self._others}
        self._taken = dict.fromkeys(self._others, 0)
        #: What is to be said at the next look. A folder may deny for long a file that was
        #: looked for before it was there, so each is made early.
        self._waiting = [Plan(said="join")]
        #: Plans that were made and not decided yet, by their numbers.
        self._open: dict[int, Plan] = {}
        #: What was decided, until its time comes.
        self._decided: dict[int, Plan] = {}

    def stop(self, why: str) -> None:
        """Ask that all stop training."""
        self._waiting.append(Plan(said="ask", stop=why))

    def change(self, request: Request, by: str) -> None:
        """Ask that all change their schedules."""
        self._waiting.append(Plan(said="ask", request=request, by=by))

    def after_execution(self, *, goes_on: bool) -> list[Plan]:
        """What is to be done now, by all workers alike.

        Args:
            goes_on: whether this worker still watches, and so asks, plans and follows.

        Raises:
            DistwatchError: the run cannot be written.
        """
        self._executions += 1
        if self._executions % self._look_every:
            return []
        self._look()
        self._hear()
        now = [plan for plan in self._decided.values() if plan.after <= self._executions]
        for plan in now:
            del self._decided[plan.number]
        if goes_on:
            waiting, self._waiting = self._waiting, []
            self._speak(waiting)
        return now

    def close(self) -> None:
        """Say nothing more; what all have agreed to is still done."""
        self._file.close()

    @property
    def _patience(self) -> float:
        """Seconds for which a look tries to read."""
        return PATIENCE

    @abstractmethod
    def _hear(self) -> None:
        """Take up what the others have said."""

    @abstractmethod
    def _speak(self, waiting: list[Plan]) -> None:
        """Write what this worker has to say."""

    def _look(self) -> None:
        """Read what the others have said, unless the disk does not answer."""
        begins = self._reading is None or not self._reading.is_alive()
        if begins:
            self._reading = threading.Thread(
                target=self._read, args=(self._patience,), name="distwatch-plans", daemon=True
            )
            self._reading.start()
        # A disk that hangs is not waited for at each look.
        if self._reading is not None and (begins or self._patience > PATIENCE):
            self._reading.join(self._patience)

    def _read(self, patience: float) -> None:
        until = time.monotonic() + patience - PATIENCE
        missing = list(self._others)
        while missing:
            worker = missing[0]
            # What cannot be read now is read at the next look.
            with contextlib.suppress(DistwatchError, OSError):
                self._said[worker] = plans_of(self._location, worker, self._start)
                missing.remove(worker)
                continue
            if time.monotonic() >= until:
                missing.remove(worker)
            else:
                time.sleep(_PAUSE)

    def _new(self, worker: int) -> list[Plan]:
        """What a worker said since this was asked."""
        lines = self._said[worker]
        new, self._taken[worker] = lines[self._taken[worker] :], len(lines)
        return new


class FurtherWorker(Agreement):
    """One that follows what the first worker plans, and does what that decides."""

    @property
    def _patience(self) -> float:
        # Of what it follows it must not miss the decision.
        return LONG_PATIENCE if self._open else PATIENCE

    def _hear(self) -> None:
        for plan in self._new(0):
            if plan.said == "plan" and plan.after > self._executions:
                self._open[plan.number] = plan
                self._waiting.append(Plan(said="follow", number=plan.number))
            elif plan.said == "do":
                self._decided[plan.number] = plan
        for plan in [*self._open.values()]:
            # A decision is written at its last look, for the one after that.
            if plan.number in self._decided or plan.after + self._look_every < self._executions:
                del self._open[plan.number]

    def _speak(self, waiting: list[Plan]) -> None:
        for each in waiting:
            self._file.note(each)


class FirstWorker(Agreement):
    """The one that plans what any asks for, and decides when all follow."""

    def __init__(self, claim: Claim, facts: StrategyFacts) -> None:
        super().__init__(claim, facts)
        #: How many plans there were.
        self._made = 0

    def _hear(self) -> None:
        new = [each for worker in self._others for each in self._new(worker)]
        self._waiting += [each for each in new if each.said == "ask"]

    def _speak(self, waiting: list[Plan]) -> None:
        for each in waiting:
            if each.said != "ask":
                self._file.note(each)
            elif each.stop is None or not self._stops:
                self._plan(each)
        for plan in [*self._open.values()]:
            self._decide(plan)

    @property
    def _stops(self) -> bool:
        """Whether all are to stop already: several workers may find a reason."""
        ahead = (*self._open.values(), *self._decided.values())
        return any(plan.stop is not None for plan in ahead)

    def _plan(self, asked: Plan) -> None:
        self._made += 1
        after = self._executions + LOOKS_AHEAD * self._look_every
        update = {"said": "plan", "number": self._made, "after": after}
        self._open[self._made] = plan = asked.model_copy(update=update)
        self._file.note(plan)

    def _decide(self, plan: Plan) -> None:
        """Write that a plan is done, if all follow it; if one does not in time, warn."""
        missing = [worker for worker in self._others if not self._follows(worker, plan)]
        if not missing:
            del self._open[plan.number]
            after = self._executions + self._look_every
            decided = plan.model_copy(update={"said": "do", "after": after})
            self._file.note(decided)
            # The others do what they read, so it has to be there before this one goes on.
            self._file.wait(LONG_PATIENCE)
            self._decided[plan.number] = decided
        elif plan.after <= self._executions:
            del self._open[plan.number]
            self._warn_of_missing(plan, missing)

    def _follows(self, worker: int, plan: Plan) -> bool:
        return any(
            each.said == "follow" and each.number == plan.number for each in self._said[worker]
        )

    def _warn_of_missing(self, plan: Plan, workers: list[int]) -> None:
        what = "no schedule is changed" if plan.stop is None else "the training is not stopped"
        who = f"worker{'s' * (len(workers) > 1)} {', '.join(map(str, workers))}"
        warnings.warn(
            f"{what}: {who} did not say in the run to follow. The watching has ended there, or "
            f"what is written into the run is not seen there within {self._look_every} "
            "executions. The training and its record go on.",
            ActionFailedWarning,
            stacklevel=2,
        )
