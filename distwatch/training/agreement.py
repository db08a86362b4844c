"""Having several workers do one thing after the same execution, so that none waits for another.

No collective operation is used: a worker whose watching has failed would not enter it, and the
others would wait. Each execution of a training waits for the gradients of all workers. So what
one has written into the run before an execution, all others find there after it. All look there
after the same executions, and

1. the first worker plans something for three looks ahead, by its own wish or that of another;
2. each worker that finds the plan at a look before that one writes that it follows;
3. at that look it is done by all if all had said so, else by none.

A worker that does not watch any more does not follow, and then nobody does.
"""

from __future__ import annotations

import contextlib
import threading
import warnings

from distwatch.errors import ActionFailedWarning, DistwatchError
from distwatch.store import Claim, Request, Tally, location_of
from distwatch.store.locations import Bucket
from distwatch.store.plans import Plan, plans_name, plans_of
from distwatch.training.strategies import StrategyFacts

#: Executions between two looks in a folder, and in a bucket, which takes longer to answer.
LOOK_EVERY, LOOK_EVERY_IN_BUCKETS = 16, 256

#: Looks from a plan to what is planned.
LOOKS_AHEAD = 3

#: Seconds for which a look waits for a disk; the next one finds what this one missed.
PATIENCE = 1.0


class Agreement:
    """What this worker asks of all, plans, follows and does.

    Args:
        claim: on the run that all write.
        facts: about the strategy.
        synced: whether what is written waits until the disk itself has it.
    """

    def __init__(self, claim: Claim, facts: StrategyFacts, *, synced: bool) -> None:
        self._location = location_of(claim.address, synced=synced)
        self._start = claim.start
        self._worker, self._workers = facts.worker, range(facts.workers)
        name = plans_name(facts.worker, claim.start)
        self._file = Tally(self._location, claim, facts.worker, name)
        in_bucket = isinstance(self._location, Bucket)
        self._look_every = LOOK_EVERY_IN_BUCKETS if in_bucket else LOOK_EVERY
        self._executions = 0
        self._reading: threading.Thread | None = None
        #: What each worker has said, as far as it is known here.
        self._said: dict[int, list[Plan]] = {worker: [] for worker in self._workers}
        #: What is to be said at the next look. A folder may deny for long a file that was
        #: looked for before it was there, so each is made early.
        self._waiting = [Plan(said="join")]
        #: Plans whose time has not come, by their numbers.
        self._ahead: dict[int, Plan] = {}
        #: How much of what each worker said was taken up.
        self._taken = dict.fromkeys(self._workers, 0)

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
        for plan in self._new(0, "plan"):
            self._ahead[plan.number] = plan
        now = [plan for plan in self._ahead.values() if plan.after <= self._executions]
        for plan in now:
            del self._ahead[plan.number]
        if goes_on:
            self._speak()
        return [plan for plan in now if self._is_followed(plan)]

    def close(self) -> None:
        """Say nothing more; what all have agreed to is still done."""
        self._file.close()

    def _look(self) -> None:
        """Read what the others have said, unless the disk does not answer."""
        if self._reading is None or not self._reading.is_alive():
            # Of a plan everybody says something; before there is one, the first does.
            everybody = self._worker == 0 or self._ahead
            heard = [w for w in self._workers if w != self._worker and (everybody or w == 0)]
            self._reading = threading.Thread(
                target=self._read, args=(heard,), name="distwatch-plans", daemon=True
            )
            self._reading.start()
        self._reading.join(PATIENCE)

    def _read(self, workers: list[int]) -> None:
        for worker in workers:
            # What cannot be read now is read at the next look.
            with contextlib.suppress(DistwatchError, OSError):
                self._said[worker] = plans_of(self._location, worker, self._start)

    def _new(self, worker: int, said: str) -> list[Plan]:
        """What a worker said since this was asked, of one sort."""
        lines = self._said[worker]
        new, self._taken[worker] = lines[self._taken[worker] :], len(lines)
        return [plan for plan in new if plan.said == said]

    def _speak(self) -> None:
        """Write that this worker follows, and what it asks for; the first one plans it."""
        waiting, self._waiting = self._waiting, []
        if self._worker == 0:
            asked = [each for worker in self._workers[1:] for each in self._new(worker, "ask")]
            asked += [each for each in waiting if each.said == "ask"]
            waiting = [each for each in waiting if each.said != "ask"] + self._planned(asked)
        else:
            waiting += [
                Plan(said="follow", number=number)
                for number in self._ahead
                if not self._follows(self._worker, number)
            ]
        for each in waiting:
            self._said[self._worker].append(each)
            self._file.note(each)

    def _planned(self, asked: list[Plan]) -> list[Plan]:
        after = self._executions + LOOKS_AHEAD * self._look_every
        made = sum(each.said == "plan" for each in self._said[0])
        stops = any(plan.stop is not None for plan in self._ahead.values())
        planned: list[Plan] = []
        for each in asked:
            # Several workers may find a reason to stop.
            if each.stop is None or not stops:
                stops |= each.stop is not None
                number = made + len(planned) + 1
                update = {"said": "plan", "number": number, "after": after}
                planned.append(each.model_copy(update=update))
        return planned

    def _is_followed(self, plan: Plan) -> bool:
        """Whether all workers said in time that they follow a plan; the first says if not."""
        missing = [w for w in self._workers[1:] if not self._follows(w, plan.number)]
        if missing and self._worker == 0:
            self._warn_of_missing(plan, missing)
        return not missing

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

    def _follows(self, worker: int, number: int) -> bool:
        return any(
            each.said == "follow" and each.number == number for each in self._said[worker]
        )
