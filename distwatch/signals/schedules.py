"""When to look: functions ``step -> bool`` written as array arithmetic.

The same expression decides on the host for NumPy integers and inside the
training graph for tensors. What may change while training runs (the k of
``every(k)``) is kept apart in ``parameters``, so that the graph can hold it in a
variable and follow a change without a retrace.
"""

from __future__ import annotations

import functools
import operator
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import PlainValidator, WithJsonSchema
from typing_extensions import TypeAliasType

from distwatch.errors import ConfigError, DistwatchWarning
from distwatch.text import shortened

#: No step is larger: the graph counts in int64, and files in float64.
MOST_STEP = 2**53

#: How many steps may be named: each is a comparison in the graph.
MOST_NAMED = 10_000

#: Steps that are asked about at once.
_AT_ONCE = 1_000_000


class Schedule(ABC):
    """A function ``step -> bool``, the same for NumPy integers and for tensors."""

    @property
    def parameters(self) -> tuple[int, ...]:
        """What the decision depends on and what may change; usually nothing."""
        return ()

    @abstractmethod
    def decide(self, step: Any, parameters: Any) -> Any:
        """Tell for ``step`` (integer, array or tensor) whether to look."""

    def __call__(self, step: Any) -> Any:
        return self.decide(step, self.parameters)

    def looks(self, steps: int) -> int:
        """At how many of the first ``steps`` it looks."""
        ranges = (
            np.arange(start, min(start + _AT_ONCE, steps))
            for start in range(0, steps, _AT_ONCE)
        )
        return sum(int(np.count_nonzero(self(each))) for each in ranges)


@dataclass
class Every(Schedule):
    """Every k-th step, from step 0 on. ``k`` may be changed while training runs.

    A change to what is no positive whole number is not made, and warned of: an error would
    end the training whose callback makes it.

    Raises:
        ConfigError: k is not a positive whole number.
    """

    k: int

    def __post_init__(self) -> None:
        _positive("every(k)", self.k)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self):
            try:
                _positive("every(k)", value)
            except ConfigError as error:
                message = f"{error} It stays every({self.k})."
                warnings.warn(message, DistwatchWarning, stacklevel=2)
                return
        super().__setattr__(name, value)

    @property
    def parameters(self) -> tuple[int, ...]:
        return (self.k,)

    def decide(self, step: Any, parameters: Any) -> Any:
        return step % parameters[0] == 0

    def __str__(self) -> str:
        return f"every({self.k})"


@dataclass(frozen=True)
class At(Schedule):
    """The named steps only."""

    steps: tuple[int, ...]
    label: str

    def decide(self, step: Any, parameters: Any) -> Any:
        return functools.reduce(operator.or_, [step == named for named in self.steps])

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class First(Schedule):
    """The first n steps.

    Raises:
        ConfigError: n is not a positive whole number.
    """

    n: int

    def __post_init__(self) -> None:
        _positive("first(n)", self.n)

    def decide(self, step: Any, parameters: Any) -> Any:
        return step < self.n

    def __str__(self) -> str:
        return f"first({self.n})"


def every(k: int) -> Every:
    """Look at every k-th step: 0, k, 2k, ...

    Raises:
        ConfigError: k is not a positive whole number.
    """
    return Every(k)


def first(n: int) -> First:
    """Look at the first n steps.

    Raises:
        ConfigError: n is not a positive whole number.
    """
    return First(n)


def at(*steps: int) -> At:
    """Look at the named steps only.

    Raises:
        ConfigError: no step is named, or one is not a whole number from 0.
    """
    if not steps or any(not is_whole(step) or not 0 <= step <= MOST_STEP for step in steps):
        raise ConfigError(
            f"at{shortened(steps)}: name one or more steps, whole numbers from 0 to 2**53."
        )
    _check_number("at(...)", len(steps))
    return At(tuple(sorted(set(steps))), f"at({', '.join(map(str, steps))})")


def logarithmic(until: int, per_decade: int = 10) -> At:
    """Look often at first and ever more rarely: evenly spaced on a logarithmic axis.

    Args:
        until: the last step of interest.
        per_decade: how many looks between one power of ten and the next.

    Raises:
        ConfigError: an argument is not a positive whole number.
    """
    _positive("logarithmic(until)", until)
    _positive("logarithmic(per_decade)", per_decade)
    looks = int(np.ceil(np.log10(until + 1) * per_decade)) + 1
    _check_number("logarithmic(...)", looks)
    steps = np.unique(np.rint(np.logspace(0, np.log10(until + 1), looks) - 1))
    return At(
        tuple(int(step) for step in steps if step <= until),
        f"logarithmic({until}, per_decade={per_decade})",
    )


def from_mapping(mapping: Any) -> Schedule:
    """Read a schedule as configuration files write it: ``{every: 10}``.

    Raises:
        ConfigError: it is no such mapping, or its value is wrong.
    """
    if isinstance(mapping, dict) and len(mapping) == 1:
        ((name, value),) = mapping.items()
        if name == "at":
            return at(*(value if isinstance(value, Sequence) else (value,)))
        if name in _MAKERS:
            return _MAKERS[name](value)
    raise ConfigError(
        f"schedule {shortened(mapping)}: write one of {{every: 10}}, {{first: 100}}, "
        "{at: [0, 10]} or {logarithmic: 100000}."
    )


_MAKERS: dict[str, Callable[[int], Schedule]] = {
    "every": every,
    "first": first,
    "logarithmic": logarithmic,
}


def _read_when(given: Any) -> Schedule | None:
    if given is None or isinstance(given, Schedule):
        return given
    return from_mapping(given) if isinstance(given, dict) else every(given)


def _read_schedule(given: Any) -> Schedule:
    if given is None or is_whole(given):
        return every(1 if given is None else given)
    return given if isinstance(given, Schedule) else from_mapping(given)


def is_whole(value: Any) -> bool:
    """Whether something is a whole number: True and False are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _positive(what: str, value: Any) -> None:
    if not is_whole(value) or not 1 <= value <= MOST_STEP:
        raise ConfigError(f"{what}: {shortened(value)} is not a whole number from 1 to 2**53.")


def _check_number(what: str, steps: int) -> None:
    if steps > MOST_NAMED:
        raise ConfigError(
            f"{what}: {steps:,} steps, at most {MOST_NAMED:,} can be named; use every(k)."
        )


_COUNT = {"type": "integer", "minimum": 1}
_STEP = {"type": "integer", "minimum": 0}
_STEPS = {"anyOf": [_STEP, {"type": "array", "items": _STEP, "minItems": 1}]}
_SCHEDULE_FORMS = [
    {"type": "null"},
    *(
        {
            "type": "object",
            "properties": {name: form},
            "required": [name],
            "additionalProperties": False,
        }
        for name, form in {**dict.fromkeys(_MAKERS, _COUNT), "at": _STEPS}.items()
    ),
]

_FORMS = {"anyOf": [_COUNT, *_SCHEDULE_FORMS]}

#: At which steps to look: a schedule, what a file writes for one, or a number k for every k-th
#: step; None for every step.
WrittenSchedule = Annotated[Schedule, PlainValidator(_read_schedule), WithJsonSchema(_FORMS)]

#: The same; None where something else decides.
When = TypeAliasType(
    "When",
    Annotated[
        Schedule | int | None,
        PlainValidator(_read_when),
        WithJsonSchema(_FORMS),
    ],
)
