"""What a running training is asked to do from outside, by a file in its run.

`ask` appends a line to the file ``requests.jsonl``; the training looks there now and then, see
`Requests`. A line is a JSON object, the arguments of `distwatch.Watch.set`:
``{"signals": "gradient/*", "every": 100}``.

Rejected: a signal of the system, which says no more than that there is something, and which
reaches no other machine; a socket, which a cluster's nodes may not open to each other.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from distwatch.errors import ConfigError, DistwatchError
from distwatch.signals.patterns import Pattern, Patterns, written
from distwatch.signals.schedules import MOST_STEP
from distwatch.store.locations import Bucket, Location
from distwatch.text import shortened

#: The file's key in the run.
NAME = "requests.jsonl"

#: Bytes of the file that are read: more than anybody writes by hand.
_MOST_BYTES = 2**20

#: Seconds for which the end of a training waits for a disk that does not answer.
_MAX_WAIT = 1.0


class Request(BaseModel):
    """Signals, and when they are to be looked at: the arguments of `distwatch.Watch.set`."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    #: Patterns over the names of signals.
    signals: Patterns
    #: At every so many steps, not at all, or as chosen at the start.
    every: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=MOST_STEP)] | Literal["off", "on"],
        BeforeValidator(lambda given: "off" if given is None else given),
    ]

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns, one by one."""
        given: Any = self.signals
        return tuple(given)

    @property
    def written(self) -> tuple[str, ...]:
        """The patterns as people write them."""
        return tuple(map(written, self.patterns))


def request(**arguments: Any) -> Request:
    """Validate a request.

    Raises:
        ConfigError: it names no signals, or no cadence.
    """
    try:
        made = Request(**arguments)
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        place = ".".join(str(each) for each in mistake["loc"][:1])
        raise ConfigError(f"{place}={shortened(mistake['input'])}: {_FORM}") from error
    if made.signals is None:
        raise ConfigError(f"signals=None: {_FORM}")
    return made


_FORM = (
    'name signals by a pattern such as "gradient/*", and say every=100, "off", or "on" (as '
    "chosen at the start)."
)


def ask(location: Location, asked: Request) -> None:
    """Ask the training that writes a run.

    Raises:
        OSError, UnreachableError: the run cannot be written.
    """
    line = asked.model_dump_json().encode() + b"\n"
    if isinstance(location, Bucket):
        location.write([(NAME, (location.read(NAME, _MOST_BYTES) or b"") + line)])
        return
    # One call, which no other process's can come into.
    descriptor = os.open(Path(location.address) / NAME, _APPEND, 0o666)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)


class Requests:
    """What comes to be asked of a training, read on a thread of its own.

    A disk or bucket that does not answer holds nobody up.

    Args:
        location: the run's.
        skip: whether what stands there already is passed over.
    """

    def __init__(self, location: Location, *, skip: bool = False) -> None:
        self._location = location
        self._read = (location.size(NAME) or 0) if skip else 0
        self._found: list[Request | str] = []
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._ends = False
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Have the thread look for new ones."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name="distwatch-requests", daemon=True
            )
            self._thread.start()
        self._wanted.set()

    def take(self) -> list[Request | str]:
        """What was found since the last call: requests, and why a line is none."""
        if not self._found:
            return []
        with self._lock:
            found, self._found = self._found, []
        return found

    def close(self) -> None:
        """End the thread, unless the disk does not answer."""
        self._ends = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(_MAX_WAIT)

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._ends:
                return
            try:
                found = self.read()
            except (DistwatchError, OSError):
                continue  # It is looked for again at the next drain.
            if found:
                with self._lock:
                    self._found += found

    def read(self) -> list[Request | str]:
        """Read what is new.

        Raises:
            OSError, UnreachableError, DamagedStoreError: the file cannot be read.
        """
        if (self._location.size(NAME) or 0) <= self._read:
            return []
        content = (self._location.read(NAME, _MOST_BYTES) or b"")[self._read :]
        found: list[Request | str] = []
        for line in content.splitlines(keepends=True):
            if line.strip():
                read = _understood(line)
                # What has no end yet may be the half of a line, unless it is whole JSON.
                if not line.endswith(b"\n") and isinstance(read, str):
                    break
                found.append(read)
            self._read += len(line)
        return found


def _understood(line: bytes) -> Request | str:
    try:
        asked = Request.model_validate_json(line)
        return asked if asked.signals is not None else _FORM
    except (ValidationError, ConfigError, ValueError):
        return f"{shortened(line.decode('utf-8', 'replace').strip())} is no request: {_FORM}"
