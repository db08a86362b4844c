"""What of a run goes into event files."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from distwatch.errors import ConfigError, nearest
from distwatch.signals.patterns import Pattern, matches_name
from distwatch.statistics import VALUES
from distwatch.store.addresses import address_of

#: What is written unless something else is asked for. A value takes about 40 bytes, as
#: tests/benchmarks/exports.py measures.
STATISTICS = tuple(value.name for value in VALUES if value.logged)

#: All that a signal may have.
KNOWN = tuple(value.name for value in VALUES)


@dataclass(frozen=True)
class EventOptions:
    """What of a run goes into event files, and where.

    Args:
        folder: TensorBoard's ``--logdir``, or a folder in it.
        statistics: the scalars of each signal, of those that it has.
        signals: patterns over the signals' names; none for all.
        every: of every so many steps one at most is written: the first that there is.
        replicas: write each replica.
        merged: write what is merged over the replicas.

    Raises:
        ConfigError: a value is wrong, or TensorBoard is not installed.
    """

    folder: Path
    statistics: tuple[str, ...] = STATISTICS
    signals: tuple[Pattern, ...] = ()
    every: int = 1
    replicas: bool = True
    merged: bool = True

    def __post_init__(self) -> None:
        _check_installed()
        check_statistics(self.statistics)
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ConfigError(
                f"tensorboard: every={self.every!r} is not a whole number from 1."
            )
        for name in ("replicas", "merged"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(
                    f"tensorboard: {name}={getattr(self, name)!r} is neither true nor false."
                )
        if not (self.replicas or self.merged):
            raise ConfigError("tensorboard: neither replicas nor merged leaves nothing.")


def event_options(given: Any) -> EventOptions:
    """Read what was given as ``tensorboard``: a folder, or a mapping of `EventOptions`.

    Raises:
        ConfigError: it is neither, or one of its keys or values is wrong.
    """
    if isinstance(given, EventOptions):
        return given
    said = dict(given) if isinstance(given, dict) else {"folder": given}
    known = [field.name for field in fields(EventOptions)]
    for key in said:
        if key not in known:
            raise ConfigError(
                f"tensorboard: unknown key {key!r}; nearest: {nearest(str(key), known, 1)}."
            )
    for key in ("statistics", "signals"):
        if key in said:
            said[key] = _several(key, said[key])
    return EventOptions(**{**said, "folder": _folder(said.get("folder"))})


def chosen_signals(options: EventOptions, names: Sequence[str]) -> set[str]:
    """Which of some names are written: none, where no pattern matches."""
    patterns = options.signals
    return {
        name
        for name in names
        if not patterns or any(matches_name(pattern, name) for pattern in patterns)
    }


def check_statistics(names: Sequence[str]) -> None:
    """Refuse what no signal has.

    Raises:
        ConfigError: naming the nearest.
    """
    for name in names:
        if name not in KNOWN:
            raise ConfigError(
                f"unknown statistic {name!r}; nearest: {nearest(name, list(KNOWN))}."
            )


def _several(key: str, given: Any) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, (list, tuple)) or not all(isinstance(x, str) for x in listed):
        raise ConfigError(f"tensorboard: {key}={given!r}: give a list of names.")
    return tuple(listed)


def _folder(given: Any) -> Path:
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        raise ConfigError(
            f"tensorboard={given!r}: give a folder, such as 'logs/', or a mapping such as "
            "{folder: logs/, every: 10}."
        )
    folder = address_of(given)
    if isinstance(folder, str):
        raise ConfigError(
            f"tensorboard={folder!r}: event files are written to folders of this machine; "
            "give one, and copy it."
        )
    return folder


def _check_installed() -> None:
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "tensorboard is not installed, which event files are written with: "
            'pip install "distwatch[tensorboard]".'
        )
