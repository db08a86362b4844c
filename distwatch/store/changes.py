"""What was changed while a training ran: how often its signals were looked at, and why.

So is what was done because of a rule (`distwatch.actions`).

Each start appends to a file of its own, a JSON object a line, by the same means as its tally.
The rows say at which steps was looked; this says why not at the others.
"""

from __future__ import annotations

import json
import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distwatch.store.locations import Location
from distwatch.store.value_types import LONGEST_NAME, LONGEST_TEXT, MOST

#: Bytes of such a file that are read.
_MOST_BYTES = 16 * 2**20

#: Where the signals of a change are listed by pattern or table.
_MOST_NAMES = 100_000

_NAME = re.compile(r"worker-([0-9]{4,16})-start-([0-9]{4,16})\.changes")

Step = Annotated[int, Field(ge=0, le=MOST)]
_Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
_Names = Annotated[
    tuple[Annotated[str, Field(max_length=LONGEST_NAME)], ...], Field(max_length=_MOST_NAMES)
]


class Change(BaseModel):
    """One thing that was done, or refused: to the schedules of a phase, or by a rule."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    phase: _Text
    #: The first step that it holds for.
    step: Step
    #: Who wanted it: a "call" of `Watch.set`, the run's "file", the "budget", or a "rule".
    by: _Text
    #: "set", "widened" and "narrowed" (by the budget) hold until the next one of a table. From
    #: "measuring" on its signals are looked at by turns, up to ``until`` of "measured", which
    #: begins at the same step, or to the end of the rows. "refused" changed nothing. By a rule:
    #: "stop", "checkpoint", "call" and "log_json" were done, or one "failed".
    what: _Text
    #: The patterns that were asked for.
    patterns: _Names = ()
    #: The tables whose signals it is about.
    tables: _Names = ()
    #: When they are looked at from here on: "every(100)", "off", ...
    schedule: _Text = ""
    #: The step before which it was over.
    until: Step | None = None
    why: _Text = ""
    #: Which start of the run this was.
    start: Step = 0

    def line(self) -> bytes:
        """As a line of the file."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(given).encode() + b"\n"


def changes_name(worker: int, start: int) -> str:
    """The key of the changes of one start within its run."""
    return f"worker-{worker:04d}-start-{start:04d}.changes"


def is_changes_name(name: str) -> bool:
    """Whether a file of a run has changes."""
    return _NAME.fullmatch(name) is not None


def changes_of(location: Location, phase: str) -> list[Change]:
    """What was changed in a phase, in all starts, in order.

    A line that cannot be understood, such as a newer distwatch's or one that a crash left
    half, is left out: it tells of rows, and is none.

    Raises:
        UnreachableError, DamagedStoreError: a file cannot be read.
    """
    found = []
    for name in filter(is_changes_name, location.children()):
        for line in (location.read(name, _MOST_BYTES) or b"").split(b"\n"):
            change = _read(line)
            if change is not None and change.phase == phase:
                found.append(change)
    return found


def _read(line: bytes) -> Change | None:
    try:
        return Change.model_validate_json(line)
    except (ValidationError, ValueError):
        return None
