"""What ``log_to_keras`` asks for: signals and a statistic of each."""

from __future__ import annotations

from typing import Any, NamedTuple

from distwatch.errors import ConfigError


class LogRequest(NamedTuple):
    """Signals, by a pattern, and the statistic of each that is asked for."""

    pattern: str
    statistic: str


def log_requests(given: Any) -> tuple[LogRequest, ...]:
    """Read ``["activation/dense:l2", ...]``.

    Raises:
        ConfigError: one is not of this form.
    """
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, (list, tuple)):
        raise ConfigError(f"log_to_keras={given!r}: {_FORM}")
    return tuple(each if isinstance(each, LogRequest) else _request(each) for each in listed)


_FORM = "give a list such as ['activation/dense:l2', 'update/*:ratio']."


def _request(given: Any) -> LogRequest:
    pattern, _, statistic = given.rpartition(":") if isinstance(given, str) else ("", "", "")
    if not pattern or not statistic:
        raise ConfigError(
            f"log_to_keras={given!r}: name a signal, or a pattern, and a statistic; {_FORM}"
        )
    return LogRequest(pattern, statistic)
