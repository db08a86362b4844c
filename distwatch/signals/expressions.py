"""Matching regular expressions in a time that is bounded, whatever they are.

Python's own matcher tries one way after another, and cannot be given a limit; an expression
such as ``(a+)+b`` has more ways than anybody can wait for.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import regex

from distwatch.errors import ConfigError
from distwatch.text import shortened

#: How long one text may take. Names take microseconds, but on a machine that is overloaded.
SECONDS = 5.0

_FLAGS = ("ASCII", "DOTALL", "IGNORECASE", "MULTILINE", "UNICODE", "VERBOSE")


def fullmatch(expression: re.Pattern[str], text: str) -> bool:
    """Whether an expression matches all of a text.

    Raises:
        ConfigError: that takes too long.
    """
    try:
        return _limited(expression).fullmatch(text, timeout=SECONDS) is not None
    except TimeoutError:
        raise ConfigError(
            f"the regular expression {shortened(expression.pattern)} has more ways to match "
            f"{shortened(text)} than can be tried in {SECONDS:g} seconds; write it with fewer "
            "repetitions within repetitions."
        ) from None


@functools.lru_cache(maxsize=256)
def _limited(expression: re.Pattern[str]) -> Any:
    flags = regex.VERSION0  # Python's own dialect
    for name in _FLAGS:
        if expression.flags & re.RegexFlag[name]:
            flags |= regex.RegexFlag[name]
    return regex.compile(expression.pattern, flags)
