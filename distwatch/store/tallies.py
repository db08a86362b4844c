"""How far a start has come, noted as it goes on, so that a kill leaves it to the next start.

The optimizer's count, which a checkpoint restores, says where a training is. It does not say
how many steps a validation has had before: those that were not committed are unknown after a
kill. So the end of each validation is noted at once, in a small file beside the segments:
a line for each, appended by one call, which a killed process leaves to the system to write.

Rejected: committing the rows themselves at the end of each validation, which writes their last
chunk anew each time; counting from the rows of the validations before, which a kill may have
taken, too.
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from distwatch.errors import DistwatchError, StoreError, WriteFailedError
from distwatch.phases import is_phase
from distwatch.records import RunInfo
from distwatch.store.value_types import MOST

if TYPE_CHECKING:
    from distwatch.store.claims import Claim
    from distwatch.store.locations import Location

#: Seconds for which the training waits until a note is written. Nobody waits for the next
#: note of a disk that took longer.
MAX_WAIT = 1.0

#: How often is looked whether a run is there to be written, in seconds.
_LOOK = 0.1

#: Bytes of a tally that are read.
_MOST_BYTES = 16 * 2**20

_NAME = re.compile(r"worker-([0-9]{4,16})-start-([0-9]{4,16})\.tally")


@dataclass(frozen=True)
class Note:
    """How many steps a phase had when the optimizer's count was ``iteration``."""

    phase: str
    iteration: int
    #: None from where on they were not counted any more.
    steps: int | None

    def line(self) -> bytes:
        """As a line of the tally."""
        return json.dumps([self.phase, self.iteration, self.steps]).encode() + b"\n"


class Line(Protocol):
    """What is written as a line."""

    def line(self) -> bytes:
        """As it is written, with its end."""
        ...


class Appended(Protocol):
    """A file that only grows."""

    def append(self, content: bytes) -> None:
        """Write more behind what is there."""

    def close(self) -> None:
        """Release it."""


class Tally:
    """Notes how far a start has come, on a thread of its own.

    Args:
        location: the run's.
        claim: by which this process writes it.
        worker: the worker's number.
        name: the file's, where it is another one than the tally.
    """

    def __init__(
        self, location: Location, claim: Claim, worker: int, name: str | None = None
    ) -> None:
        #: What went wrong; nothing is noted any more.
        self.error: Exception | None = None
        self._location = location
        self._claim = claim
        self._name = name or tally_name(worker, claim.start)
        self._waiting: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        #: Whether the last note was written, or waits for the run to be there.
        self._is_done = threading.Event()
        self._is_slow = False
        self._thread: threading.Thread | None = None

    def note(self, note: Line) -> None:
        """Write a note, and wait a moment until it is written.

        Raises:
            WriteFailedError: it, or one before it, could not be written.
            DistwatchError: the same, where the error is one of distwatch.
        """
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name="distwatch-tally", daemon=True
            )
            self._thread.start()
        self._is_done.clear()
        self._waiting.put(note)
        if not self._is_slow:
            self._is_slow = not self._is_done.wait(MAX_WAIT)
        if isinstance(self.error, DistwatchError):
            raise self.error
        if self.error is not None:
            raise WriteFailedError(
                f"{self._location.address} could not be written "
                f"({type(self.error).__name__}: {self.error})."
            ) from self.error

    def wait(self, seconds: float) -> None:
        """Wait until the last note is written, longer than `note` does."""
        self._is_done.wait(seconds)

    def close(self) -> None:
        """End the thread, unless the disk does not answer."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(MAX_WAIT)

    def _work(self) -> None:
        file: Appended | None = None
        noted, goes_on = b"", True
        while goes_on:
            given = None
            with contextlib.suppress(queue.Empty):
                # A run that will be overwritten is there until rows of this one come.
                given = self._waiting.get(timeout=_LOOK if noted else None)
                goes_on = given is not None
            try:
                noted += b"" if given is None else given.line()
                if noted and self.error is None and self._claim.is_settled:
                    file = file or self._opened()
                    file.append(noted)
                    noted = b""
            except Exception as error:
                self.error, noted = error, b""
            self._is_done.set()
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _opened(self) -> Appended:
        with self._claim.writing():
            return self._location.appended_file(self._name, self._claim.writing)


def tally_name(worker: int, start: int) -> str:
    """The key of the tally of one start within its run."""
    return f"worker-{worker:04d}-start-{start:04d}.tally"


def start_noted_in(name: str) -> int | None:
    """The start whose tally has this name; None if no tally has it."""
    named = _NAME.fullmatch(name)
    return int(named[2]) if named else None


def noted_steps(location: Location, info: RunInfo, starts: set[int]) -> Note | None:
    """The last note of a phase before a start goes on with it; None where that is not known.

    Args:
        location: the run's.
        info: the start's, with the optimizer's count in ``origin``.
        starts: those that wrote rows of the phase. Each must have a tally.
    """
    notes: list[Note] = []
    tallies = _tallies(location, info)
    begun = tallies.pop(info.origin.start, None)
    if not starts <= tallies.keys():
        return None
    for _, said in sorted(tallies.items()):
        if said is None:
            return None
        notes = [*_not_taken_back(notes, said), *said]
    # This start may have trained on from an earlier place before it came to this phase.
    notes = _not_taken_back(notes, begun or [])
    now = info.origin.iteration
    own = [each for each in notes if each.phase == info.phase and each.iteration <= now]
    if own:
        return own[-1] if own[-1].steps is not None else None
    # What earlier starts had of the phase, later ones took back, and nothing else is unknown.
    every = tallies.keys() == set(range(info.origin.start))
    return Note(info.phase, now, 0) if every else None


def _not_taken_back(notes: list[Note], later: list[Note]) -> list[Note]:
    """A start takes back all that earlier ones did after where it begins."""
    if not later:
        return notes
    return [each for each in notes if each.iteration <= later[0].iteration]


def _tallies(location: Location, info: RunInfo) -> dict[int, list[Note] | None]:
    """The notes of each start of a worker up to this; None where they cannot be understood."""
    found: dict[int, list[Note] | None] = {}
    for name in location.children():
        named = _NAME.fullmatch(name)
        if named and int(named[1]) == info.worker and int(named[2]) <= info.origin.start:
            try:
                found[int(named[2])] = list(_notes_in(location.read(name, _MOST_BYTES) or b""))
            except (StoreError, ValueError, TypeError, RecursionError):
                found[int(named[2])] = None
    return found


def _notes_in(content: bytes) -> Iterator[Note]:
    # After the last line's end may be the half of one more.
    for line in content.split(b"\n")[:-1]:
        phase, iteration, steps = json.loads(line)
        if not is_phase(phase) or not _is_number(iteration, least=-1):
            raise ValueError("this is no note")
        if steps is not None and not _is_number(steps):
            raise ValueError("this is no number of steps")
        yield Note(phase, iteration, steps)


def _is_number(value: object, least: int = 0) -> bool:
    return type(value) is int and least <= value <= MOST
