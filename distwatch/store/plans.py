"""What several workers agree to do at one place of their training, said in the run.

Each worker of each start appends to a file of its own, a JSON object a line, by the same means
as its tally, and reads those of the others.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distwatch.store.locations import Location
from distwatch.store.requests import Request
from distwatch.store.value_types import LONGEST_TEXT, MOST

#: Bytes of such a file that are read.
_MOST_BYTES = 2**20

_NAME = re.compile(r"worker-[0-9]{4,16}-start-[0-9]{4,16}\.plans")

Count = Annotated[int, Field(ge=0, le=MOST)]
_Text = Annotated[str, Field(max_length=LONGEST_TEXT)]


class Plan(BaseModel):
    """Something that all workers are to do after the same execution."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: A worker has joined, asks for something, or follows; the first one plans and decides.
    said: Literal["join", "ask", "plan", "follow", "do"]
    #: Counts plans; what is followed and decided has the plan's.
    number: Count = 0
    #: Until after how many executions it may be followed, or after how many it is done, by the
    #: count of all workers since this start.
    after: Count = 0
    #: Why the training is to stop.
    stop: _Text | None = None
    #: How schedules are to change, and by whose wish: a "call", or the run's "file".
    request: Request | None = None
    by: _Text = ""

    def line(self) -> bytes:
        """As a line of the file."""
        return self.model_dump_json(exclude_defaults=True).encode() + b"\n"


def plans_name(worker: int, start: int) -> str:
    """The key of what a worker said in one start within its run."""
    return f"worker-{worker:04d}-start-{start:04d}.plans"


def is_plans_name(name: str) -> bool:
    """Whether a file of a run has plans."""
    return _NAME.fullmatch(name) is not None


def plans_of(location: Location, worker: int, start: int) -> list[Plan]:
    """What a worker has said so far, in order. A line without an end is not said yet.

    Raises:
        UnreachableError, DamagedStoreError: the file cannot be read.
    """
    content = location.read(plans_name(worker, start), _MOST_BYTES) or b""
    found = [_read(line) for line in content.split(b"\n")[:-1]]
    return [plan for plan in found if plan is not None]


def _read(line: bytes) -> Plan | None:
    try:
        return Plan.model_validate_json(line)
    except (ValidationError, ValueError):
        return None
