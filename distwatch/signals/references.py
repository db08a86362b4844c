"""What a delta can be measured against, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema
from typing_extensions import TypeAliasType

from distwatch.errors import ConfigError

#: What a delta can be measured against; ``ema`` takes its decay: ``ema(0.99)``.
REFERENCES = ("previous", "batch_mean", "first", "ema", "neighbour", "none")

#: References that compare the rows of a batch, of which a weight has none.
OF_BATCHES = ("batch_mean", "neighbour")

_EMA = re.compile(r"ema\((?P<decay>[0-9.eE+-]+)\)")


def ema(decay: float) -> str:
    """The reference ``ema(decay)``: an exponential moving average of the batches.

    Raises:
        ConfigError: the decay is not between 0 and 1.
    """
    return check_reference(f"ema({decay})")


def check_reference(reference: str) -> str:
    """Return ``reference`` if it is a known one.

    Raises:
        ConfigError: it is not; the message names the known ones.
    """
    found = _EMA.fullmatch(reference)
    if found is None and (reference not in REFERENCES or reference == "ema"):
        known = ", ".join(repr(name) for name in REFERENCES).replace("'ema'", "'ema(0.99)'")
        raise ConfigError(f"unknown reference {reference!r}: choose one of {known}.")
    if found is not None and not _between_0_and_1(found["decay"]):
        raise ConfigError(f"{reference}: the decay is a number between 0 and 1, such as 0.99.")
    return reference


def _between_0_and_1(number: str) -> bool:
    try:
        return 0.0 < float(number) < 1.0
    except ValueError:
        return False


def _form(references: Iterable[str]) -> dict[str, Any]:
    """References in a file; the decay is a decimal, or has a negative exponent."""
    decay = r"(0?\.[0-9]*[1-9][0-9]*|[1-9](\.[0-9]+)?[eE]-0*[1-9][0-9]*)"
    names = {"enum": [None, *(name for name in references if name != "ema")]}
    return {"anyOf": [names, {"type": "string", "pattern": rf"^ema\({decay}\)$"}]}


#: A reference by its name.
Reference = TypeAliasType(
    "Reference",
    Annotated[
        str,
        Field(strict=True),
        AfterValidator(check_reference),
        WithJsonSchema(_form(REFERENCES)),
    ],
)

#: How files write what a signal without a batch dim can be measured against.
UNBATCHED_FORM = _form(name for name in REFERENCES if name not in OF_BATCHES)
