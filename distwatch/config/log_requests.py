"""What ``log_to_keras`` asks for: signals and a statistic of each."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import PlainValidator, WithJsonSchema

from distwatch.errors import ConfigError


class LogRequest(NamedTuple):
    """Signals, by a pattern, and the statistic of each that is asked for."""

    pattern: str
    statistic: str


def log_requests(given: Any) -> tuple[LogRequest, ...]:
    """Read ``["activation/dense:l2", ...]``; None asks for nothing.

    Raises:
        ConfigError: one is not of this form.
    """
    listed = [given] if isinstance(given, str) else given or ()
    if not isinstance(listed, (list, tuple)):
        raise ConfigError(f"log_to_keras={given!r}: {_EXAMPLE}")
    return tuple(each if isinstance(each, LogRequest) else _request(each) for each in listed)


_EXAMPLE = "give a list such as ['activation/dense:l2', 'update/*:ratio']."


def _request(given: Any) -> LogRequest:
    pattern, _, statistic = given.rpartition(":") if isinstance(given, str) else ("", "", "")
    if not pattern or not statistic:
        raise ConfigError(
            f"log_to_keras={given!r}: name a signal, or a pattern, and a statistic; {_EXAMPLE}"
        )
    return LogRequest(pattern, statistic)


_FORM = {"type": "string", "pattern": r"^[\s\S]+:[^:]+$"}

#: Signals and a statistic each, for Keras's logs.
LogRequests = Annotated[
    tuple[LogRequest, ...],
    PlainValidator(log_requests),
    WithJsonSchema({"anyOf": [{"type": "null"}, _FORM, {"type": "array", "items": _FORM}]}),
]
