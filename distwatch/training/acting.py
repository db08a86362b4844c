"""Acting on findings while a training goes on: `distwatch.actions`, carried out."""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from distwatch.actions import CALL, CHECKPOINT, STOP, Action, RuleChoice, own_rules
from distwatch.errors import ActionFailedWarning
from distwatch.findings import AFTER_EPOCH, AT_ONCE, Finding, Rule, document
from distwatch.records import CLOSED, TRAIN
from distwatch.store import Change
from distwatch.text import counted

#: Findings that may wait for a function that is still busy with others.
WAITING = 64

#: Seconds for which functions that still run are waited for at the end of a training.
PATIENCE = 5.0

#: Judging takes at most this part of the time of a training.
MOST_TIME = 0.01

#: In a run of fewer steps nothing is concluded from the data.
_STEPS = 32


class Judged(Protocol):
    """A phase whose rows are judged: a `distwatch.training.phase.Phase`."""

    @property
    def name(self) -> str:
        """Such as "train"."""
        ...

    @property
    def steps_done(self) -> int:
        """How many steps it has had."""
        ...

    def findings(self, asked: Callable[[Rule], bool], ended: str | None) -> list[Finding]:
        """What the rules find that are asked."""
        ...


class Met(NamedTuple):
    """A finding, and where a training was when it was made."""

    finding: Finding
    phase: str
    steps: int


class Acting:
    """Judges the rows of a training while it goes on, and acts on what is found.

    All is done on the thread that trains, but for functions and files, of which each has a
    thread of its own. An action that fails is warned of and stored; the training goes on.

    Args:
        choices: which actions on what.
        worker: this process's number.
        save: saves the model as a file.

    Raises:
        ConfigError: a function cannot be imported.
    """

    def __init__(
        self,
        choices: Iterable[RuleChoice],
        worker: int = 0,
        save: Callable[[str], None] = lambda path: None,
    ) -> None:
        self._choices = [choice.resolved() for choice in choices]
        #: The rules of the user's own; one that fails is not asked again.
        self.rules = [_guarded(rule, self._failed) for rule in own_rules(self._choices)]
        #: Whether the training is to stop.
        self.stops = False
        #: Asks all workers to stop, where there are several; they set ``stops`` together.
        self.ask_all_to_stop: Callable[[str], None] | None = None
        #: Whether an interrupt or an error ends it: then there is no time to save a model.
        self.leaves = False
        #: Stores what is done; None before and after the training.
        self.declare: Callable[[Change], None] | None = None
        self._worker = worker
        self._save = save
        self._acted: set[tuple[str, str, int, int]] = set()
        self._beside: dict[str | int, _Beside] = {}
        #: Steps of each phase that were judged.
        self._judged: Counter[str] = Counter()
        self._next = 0.0
        self._at = ("", 0)

    def judge(self, phases: Iterable[Judged], *, epochs: int, whole: bool = False) -> None:
        """Ask the rules, if that is due, and act on what they find.

        Args:
            phases: all rows of theirs were drained.
            epochs: how many epochs have ended.
            whole: whether the training is over, so that all rules are asked.

        Raises:
            DistwatchError: what was done could not be stored.
        """
        if not self._choices or (time.monotonic() < self._next and not whole):
            return
        asking = 0.0
        self._warn_of_failures()
        for phase in phases:
            self._at = (phase.name, phase.steps_done)
            if whole or phase.steps_done > self._judged[phase.name]:
                self._judged[phase.name] = phase.steps_done
                asking += self._judge(phase, epochs, whole)
        # What is done on a finding is done once, and counts not.
        self._next = time.monotonic() + asking / MOST_TIME

    def _judge(self, phase: Judged, epochs: int, whole: bool) -> float:
        """Ask, and act; returns for how many seconds was asked."""
        begun = time.monotonic()
        seen = phase.name == TRAIN and epochs > 0 and phase.steps_done >= _STEPS
        now = {AT_ONCE, AFTER_EPOCH} if seen else {AT_ONCE}
        try:
            found = phase.findings(
                lambda rule: whole or rule.asked in now, CLOSED if whole else None
            )
        except Exception as error:
            # A fault of distwatch's own; what is recorded is not touched by it.
            self._choices = []
            self._failed(
                f"the rules cannot be asked, so nothing more is done on findings: "
                f"{type(error).__name__}: {error}"
            )
            return 0.0
        asked = time.monotonic() - begun
        for action, finding in self._due(found):
            self._act(action, Met(finding, phase.name, phase.steps_done), whole)
        return asked

    def _due(self, found: Iterable[Finding]) -> Iterator[tuple[Action, Finding]]:
        """Which actions are meant by what was found, and were not done in this phase yet."""
        phase, _ = self._at
        for finding, (number, choice) in itertools.product(found, enumerate(self._choices)):
            for place, action in enumerate(choice.do if choice.takes(finding) else ()):
                key = (phase, finding.rule, number, place)
                if key not in self._acted:
                    self._acted.add(key)
                    yield action, finding

    def _act(self, action: Action, met: Met, whole: bool) -> None:
        finding = met.finding
        why = f"{action}, as {finding.rule} says: {finding.text}"
        if self.leaves and action.what in (STOP, CHECKPOINT):
            return
        if action.what == STOP:
            if whole:
                return  # there is nothing left to stop
            if self.ask_all_to_stop is not None:
                self.ask_all_to_stop(why[:_LONGEST])
                return
            self.stops = True
        elif action.what == CHECKPOINT:
            if not self._checkpoint(action, met):
                return
        else:
            self._thread_of(action).submit(met)
        self._store(action.what, why)

    def _thread_of(self, action: Action) -> _Beside:
        """One for each function and each file, in however many choices it is."""
        # A function need not be hashable.
        of = action.given if isinstance(action.given, str) else id(action.given)
        if of not in self._beside:
            self._beside[of] = _Beside(action, self._worker)
        return self._beside[of]

    def _checkpoint(self, action: Action, met: Met) -> bool:
        path = str(action.given).replace("{rule}", met.finding.rule)
        path = path.replace("{step}", str(met.steps))
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._save(path)
        except Exception as error:
            self._failed(f"{action} failed: {type(error).__name__}: {error}")
            return False
        return True

    def close(self) -> None:
        """Wait a moment for functions that still run, and say what became of them."""
        until = time.monotonic() + PATIENCE
        for beside in self._beside.values():
            beside.close(until)
        self._warn_of_failures()
        self._beside.clear()
        self.declare = None

    def _warn_of_failures(self) -> None:
        for beside in self._beside.values():
            for failure in beside.failures():
                self._failed(failure)

    def _failed(self, why: str) -> None:
        self._store("failed", why)
        warnings.warn(
            f"{why}. The training and its record go on.", ActionFailedWarning, stacklevel=2
        )

    def _store(self, what: str, why: str) -> None:
        if self.declare is not None:
            phase, step = self._at
            why = why[:_LONGEST]
            self.declare(Change(phase=phase, step=step, by="rule", what=what, why=why))


#: Characters of what is stored of an action.
_LONGEST = 2_000


def _guarded(rule: Rule, failed: Callable[[str], None]) -> Rule:
    """A rule that is not asked again once it failed."""
    broken = False

    def find(looked_at: Any) -> list[Finding]:
        nonlocal broken
        if broken:
            return []
        try:
            found = list(rule.find(looked_at))
            wrong = next((each for each in found if not isinstance(each, Finding)), None)
            if wrong is not None:
                raise TypeError(f"it gives {type(wrong).__name__}, expected Finding")
            return found
        except Exception as error:
            broken = True
            failed(
                f"the rule {rule.name} failed, and is not asked again: "
                f"{type(error).__name__}: {error}"
            )
            return []

    return replace(rule, find=find)


class _Beside:
    """Calls a function, or writes a file, on a thread of its own.

    Args:
        action: a "call" or "log_json".
        worker: this process's number.
    """

    def __init__(self, action: Action, worker: int) -> None:
        self._action = action
        self._worker = worker
        self._queue: queue.Queue[Met | None] = queue.Queue(WAITING)
        self._failures: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._dropped = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, met: Met) -> None:
        """Give it a finding; if too many wait, it is dropped, and counted."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name=f"distwatch-{self._action.what}", daemon=True
            )
            self._thread.start()
        try:
            self._queue.put_nowait(met)
        except queue.Full:
            self._dropped += 1

    def failures(self) -> Iterable[str]:
        """What went wrong since this was asked last."""
        while not self._failures.empty():
            yield self._failures.get()

    def close(self, until: float) -> None:
        """Wait until all is done, or a moment of `time.monotonic`."""
        while self._queue.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.01)
        waits, dropped = self._queue.unfinished_tasks, self._dropped
        self._closed = True
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        if waits:
            self._failures.put(
                f"{self._action} has not returned, and is waited for no longer; "
                f"{counted(waits - 1 + dropped, 'further finding')} not given to it"
            )
        elif dropped:
            self._failures.put(
                f"{self._action} is slower than findings come; "
                f"{counted(dropped, 'finding')} not given to it"
            )

    def _work(self) -> None:
        while (met := self._queue.get()) is not None and not self._closed:
            try:
                self._do(met)
            # Also what ends a program: it is this thread's.
            except BaseException as error:
                self._failures.put(f"{self._action} raised {type(error).__name__}: {error}")
            finally:
                self._queue.task_done()

    def _do(self, met: Met) -> None:
        if self._action.what == CALL:
            self._action.given(met.finding)
            return
        path = Path(self._action.given)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._line(met), allow_nan=False) + "\n")

    def _line(self, met: Met) -> dict[str, Any]:
        return {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "phase": met.phase,
            "steps": met.steps,
            "worker": self._worker,
            **document(met.finding),
        }
