"""Types of the values in documents, with their bounds.

A document may come from anybody: a value of another type, or out of its bounds, is refused.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from distwatch.phases import checked
from distwatch.text import shortened

#: No number of steps, workers or starts is larger.
MOST = 2**53

#: Commits of a table whose times are noted.
MOST_MOMENTS = 64

#: Characters of a name.
LONGEST_NAME = 4096

#: Characters of other texts; the rest is cut off. An error message may be long.
LONGEST_TEXT = 65_536

#: Names of groups are names of folders, on any system.
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _text(value: str) -> str:
    return value[:LONGEST_TEXT]


# Not bounds of pydantic's, which refuse half of a surrogate pair.
def _name(value: str) -> str:
    if not 0 < len(value) <= LONGEST_NAME:
        raise ValueError(f"expected a name of 1 to {LONGEST_NAME} characters")
    return value


def _values(value: dict[Any, Any]) -> dict[str, tuple[float, float]]:
    """Name -> how many values, and their mean."""
    for name, pair in value.items():
        numbers = isinstance(pair, list) and len(pair) == 2
        if not (numbers and all(type(x) in (int, float) for x in pair) and pair[0] > 0):
            raise ValueError(f"{shortened(name)}: expected a number of values and their mean")
    return {_name(name): (float(n), float(mean)) for name, (n, mean) in value.items()}


def _moments(value: list[Any]) -> list[tuple[int, float]]:
    for moment in value:
        if not (isinstance(moment, list) and [type(x) for x in moment] == [int, float]):
            raise ValueError("expected steps and seconds")
        if not 0 <= moment[0] <= MOST:
            raise ValueError("expected a number of steps")
    return [(steps, seconds) for steps, seconds in value]


def is_group_name(value: Any) -> bool:
    """Whether a value is a name that a group may have."""
    return isinstance(value, str) and _GROUP.fullmatch(value) is not None


def _group_name(value: str) -> str:
    if not is_group_name(value):
        raise ValueError("this is no name of a group")
    return value


def _texts(value: dict[Any, Any]) -> dict[str, str]:
    # Not dict[str, str]: pydantic would list every wrong entry of a large document.
    if not all(isinstance(text, str) for pair in value.items() for text in pair):
        raise ValueError("expected names and texts")
    return {key[:LONGEST_NAME]: _text(text) for key, text in value.items()}


Count = Annotated[int, Field(ge=0, le=MOST)]
Positive = Annotated[int, Field(ge=1, le=MOST)]
Replica = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, AfterValidator(_text)]
Texts = Annotated[dict[Any, Any], AfterValidator(_texts)]
Name = Annotated[str, AfterValidator(_name)]
Values = Annotated[dict[Any, Any], AfterValidator(_values)]
Moments = Annotated[list[Any], Field(max_length=MOST_MOMENTS), AfterValidator(_moments)]
PhaseName = Annotated[str, AfterValidator(checked)]
GroupName = Annotated[str, AfterValidator(_group_name)]
Commit = Annotated[str, Field(pattern=r"^(?:[0-9a-f]{40}|[0-9a-f]{64})$")]

#: A list stops at its first wrong item, since a document may hold millions.
FIRST = Field(fail_fast=True)
