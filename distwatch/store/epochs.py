"""What a training's epochs came to: Keras's logs at the end of each, and the learning rate.

Each start appends to a file of its own, a JSON object a line, by the same means as its tally.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distwatch.records import Epoch, with_epoch
from distwatch.store.locations import Location
from distwatch.store.value_types import LONGEST_NAME, MOST

#: Bytes of such a file that are read.
_MOST_BYTES = 16 * 2**20

_NAME = re.compile(r"worker-([0-9]{4,16})-start-([0-9]{4,16})\.epochs")


@dataclass(frozen=True)
class EpochLine:
    """An epoch as a line of the file."""

    epoch: Epoch

    def line(self) -> bytes:
        """As it is written. JSON has no NaN: what is not finite is null."""
        given = asdict(self.epoch)
        given["metrics"] = {name: _finite(value) for name, value in given["metrics"].items()}
        rate = given["learning_rate"]
        given["learning_rate"] = None if rate is None else _finite(rate)
        return json.dumps(given, allow_nan=False).encode() + b"\n"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    number: Annotated[int, Field(ge=0, le=MOST)]
    step: Annotated[int, Field(ge=0, le=MOST)]
    metrics: Annotated[
        dict[Annotated[str, Field(max_length=LONGEST_NAME)], float | None],
        Field(max_length=10_000),
    ]
    learning_rate: Annotated[float | None, Field(allow_inf_nan=False)] = None


def epochs_name(worker: int, start: int) -> str:
    """The key of the epochs of one start within its run."""
    return f"worker-{worker:04d}-start-{start:04d}.epochs"


def is_epochs_name(name: str) -> bool:
    """Whether a file of a run has epochs."""
    return _NAME.fullmatch(name) is not None


def epochs_of(location: Location, starts: dict[int, int]) -> tuple[Epoch, ...]:
    """The epochs of a training, in order: all workers say the same, so those of the first.

    A line that cannot be understood, such as one that a crash left half, is left out.

    Args:
        location: the run's.
        starts: start -> its first step, from which on it replaces what earlier ones did.

    Raises:
        UnreachableError, DamagedStoreError: a file cannot be read.
    """
    named = [match for name in location.children() if (match := _NAME.fullmatch(name))]
    first = min((int(match[1]) for match in named), default=0)
    found: list[Epoch] = []
    for match in named:
        begin = starts.get(int(match[2]))
        if int(match[1]) == first and begin is not None:
            content = location.read(match[0], _MOST_BYTES) or b""
            lines = (_read(line) for line in content.split(b"\n"))
            # An epoch that ends where the start begins was done before.
            found = [each for each in found if each.step <= begin]
            for each in lines:
                found = found if each is None else with_epoch(found, each)
    return tuple(found)


def _read(line: bytes) -> Epoch | None:
    try:
        said: Any = _Entry.model_validate_json(line)
    except (ValidationError, ValueError):
        return None
    metrics = {
        name: math.nan if value is None else value for name, value in said.metrics.items()
    }
    return Epoch(said.number, said.step, metrics, said.learning_rate)
