"""What of a run goes into event files."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator, StrictBool, WithJsonSchema

from distwatch.errors import ConfigError, nearest
from distwatch.signals.patterns import GLOB_FORM, Pattern, matches_name
from distwatch.signals.validation import validated
from distwatch.statistics import VALUES
from distwatch.store.addresses import absolute, address_of

#: What is written unless something else is asked for. A value takes about 40 bytes, as
#: tests/benchmarks/exports.py measures.
STATISTICS = tuple(value.name for value in VALUES if value.logged)

#: All that a signal may have.
KNOWN = tuple(value.name for value in VALUES)


def _names(given: Any) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, (list, tuple)) or not all(isinstance(x, str) for x in listed):
        raise ConfigError(f"{given!r}: give a list of names.")
    return tuple(listed)


def _statistics(given: Any) -> tuple[str, ...]:
    names = _names(given)
    for name in names:
        if name not in KNOWN:
            close = nearest(name, list(KNOWN))
            raise ConfigError(f"unknown statistic {name!r}; nearest: {close}.")
    return names


def _folder(given: Any) -> Path:
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        raise ConfigError(
            f"{given!r}: give a folder, such as 'logs/', or a mapping such as "
            "{folder: logs/, every: 10}."
        )
    folder = absolute(address_of(given))
    if isinstance(folder, str):
        raise ConfigError(
            f"{folder!r}: event files are written to folders of this machine; "
            "give one, and copy it."
        )
    return folder


def _one_or_more(form: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [form, {"type": "array", "items": form}]})


@validated
class EventOptions:
    """What of a run goes into event files, and where.

    Args:
        folder: TensorBoard's ``--logdir``, or a folder in it.
        statistics: the scalars of each signal, of those that it has.
        signals: patterns that the signals' names match; none for all.
        every: write at most one of every so many steps: the first that was recorded.
        replicas: write each replica.
        merged: write what is merged over the replicas.

    Raises:
        ConfigError: a value is wrong, or TensorBoard is not installed.
    """

    folder: Annotated[
        Path, PlainValidator(_folder), WithJsonSchema({"type": "string", "minLength": 1})
    ] = field(kw_only=False)
    statistics: Annotated[
        tuple[str, ...], PlainValidator(_statistics), _one_or_more({"enum": list(KNOWN)})
    ] = STATISTICS
    signals: Annotated[
        tuple[Pattern, ...], PlainValidator(_names), _one_or_more(GLOB_FORM)
    ] = ()
    every: Annotated[int, Field(strict=True, ge=1)] = 1
    replicas: StrictBool = True
    merged: StrictBool = True

    #: The argument of a Watch, for messages.
    kind: ClassVar[str] = "tensorboard"

    def __post_init__(self) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError(
                "it is not installed, and event files are written with it: "
                'pip install "distwatch[tensorboard]".'
            )
        if not (self.replicas or self.merged):
            raise ConfigError("neither replicas nor merged leaves nothing.")


def event_options(given: Any) -> EventOptions:
    """Read what was given as ``tensorboard``: a folder, or a mapping of `EventOptions`.

    Raises:
        ConfigError: it is neither, or one of its keys or values is wrong.
    """
    if isinstance(given, EventOptions):
        return given
    if isinstance(given, dict):
        return EventOptions(**{str(key): value for key, value in given.items()})
    return EventOptions(given)


def chosen_signals(options: EventOptions, names: Sequence[str]) -> set[str]:
    """Which of some names are written: none, where no pattern matches."""
    patterns = options.signals
    return {
        name
        for name in names
        if not patterns or any(matches_name(pattern, name) for pattern in patterns)
    }
