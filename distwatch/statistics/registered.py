"""All statistics, and what is derived from the list of them.

A new one is a module of its own, and its class in `FURTHER`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from distwatch.errors import ConfigError, nearest
from distwatch.statistics.base import Quantity, Statistic, Value
from distwatch.statistics.checksum import Checksum
from distwatch.statistics.log_histogram import LogHistogram
from distwatch.statistics.ratio import Ratio
from distwatch.statistics.row import ROW, Row, by_rank, with_row
from distwatch.statistics.signal_counts import SignalCounts
from distwatch.statistics.units import Units
from distwatch.statistics.usual import SPREAD

#: Statistics beyond those of every row.
FURTHER: tuple[type[Statistic[Any]], ...] = (
    SignalCounts,
    Ratio,
    Checksum,
    Units,
    LogHistogram,
)

_BY_NAME = {statistic.name: statistic for statistic in FURTHER}

#: Those that can be asked for, for signals of every kind.
REQUESTABLE = tuple(
    statistic
    for statistic in FURTHER
    if not statistic.automatic_for and not statistic.of_every_signal
)

#: All that people can read, ``spread`` over replicas last, in the order of lists.
VALUES: tuple[Value, ...] = (
    *ROW.values,
    *(value for statistic in FURTHER for value in statistic.values),
    SPREAD,
)

#: All that figures can draw, by rank.
QUANTITIES: tuple[Quantity, ...] = by_rank((ROW, *FURTHER))


def automatic(kind: str = "") -> tuple[Statistic[Any], ...]:
    """The statistics that signals of a selector's kind have without being asked.

    Without a kind, those that signals of all kinds have.
    """
    return tuple(
        statistic()
        for statistic in FURTHER
        if statistic.of_every_signal or kind in statistic.automatic_for
    )


def from_spec(specs: Iterable[dict[str, Any]]) -> Row:
    """A row with further statistics, as stores describe them.

    Args:
        specs: ``{"name": "histogram", "accuracy": 0.05}`` each; see `Statistic.spec`.

    Raises:
        ConfigError: a name or an argument is unknown, or a value is wrong.
    """
    return with_row(tuple(_made(dict(spec)) for spec in specs))


def requested(given: Any) -> tuple[Statistic[Any], ...]:
    """The statistics that a selector asks for.

    Args:
        given: statistics, their names, or mappings such as ``{"histogram": {"accuracy":
            0.01}}``, as in configuration files; one or several.

    Raises:
        ConfigError: one is not among `REQUESTABLE`, has a wrong argument, or is there twice.
    """
    listed = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    found = tuple(map(_requested, listed))
    # Nothing else: a store has to be able to describe what it holds, and ratios and
    # checksums are meaningful only for the signals that have them anyway.
    if not all(isinstance(each, REQUESTABLE) for each in found):
        names = ", ".join(f"{statistic.name!r}" for statistic in REQUESTABLE)
        raise ConfigError(
            f"statistics={given!r}: choose from [{names}]; moments, extremes and norms are "
            "always recorded."
        )
    if len(found) != len({type(each) for each in found}):
        raise ConfigError(f"statistics={given!r}: each of them can be given once.")
    return found


def _requested(given: Any) -> Statistic[Any]:
    if isinstance(given, str):
        return _made({"name": given})
    if isinstance(given, Statistic):
        return given
    if not isinstance(given, dict) or len(given) != 1:
        raise ConfigError(f"statistic {given!r}: name one statistic, such as histogram.")
    ((name, arguments),) = given.items()
    return _made({"name": name, **(arguments or {})})


def _made(spec: dict[str, Any]) -> Statistic[Any]:
    name = spec.pop("name", None)
    if name not in _BY_NAME:
        raise ConfigError(
            f"unknown statistic {name!r}; nearest: {nearest(str(name), list(_BY_NAME))}."
        )
    make: Callable[..., Statistic[Any]] = _BY_NAME[name]
    try:
        return make(**spec)
    except TypeError as error:
        raise ConfigError(f"statistic {name!r}: {error}.") from error
