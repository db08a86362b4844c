"""What a Watch is given as ``signals``, in Python or by a file: read as a list of selectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distwatch.errors import ConfigError
from distwatch.signals.patterns import Pattern, as_pattern, is_pattern
from distwatch.signals.selector import KINDS, Selector
from distwatch.signals.selectors import Activations
from distwatch.signals.validation import argument_names


def list_signals(signals: Any) -> list[Any]:
    """What a Watch is given as signals, as a list.

    Raises:
        ConfigError: the list is empty.
    """
    if is_pattern(signals) or not isinstance(signals, Sequence):
        return [signals]
    if not signals:
        raise ConfigError(_SIGNALS.format(signals))
    return list(signals)


def read_selector(signal: Any) -> Pattern | Selector:
    """Read one of the signals: mappings become selectors, the others stay.

    Args:
        signal: a pattern, a layer, a selector, or a mapping as files write it:
            ``{gradients: "dense_*", every: 10, statistics: [histogram]}``.

    Raises:
        ConfigError: it is nothing of that, or the mapping is wrong.
    """
    if isinstance(signal, dict):
        return _from_mapping({str(key): value for key, value in signal.items()})
    signal = as_pattern(signal)
    if not is_pattern(signal) and not isinstance(signal, Selector):
        raise ConfigError(_SIGNALS.format(signal))
    return signal  # type: ignore[no-any-return]


def join_patterns(signals: Sequence[Pattern | Selector]) -> tuple[Selector, ...]:
    """All patterns of a Watch become one selector of activations."""
    patterns = [each for each in signals if not isinstance(each, Selector)]
    selectors = [each for each in signals if isinstance(each, Selector)]
    return (*([Activations(patterns)] if patterns else []), *selectors)


_SIGNALS = (
    "signals={!r}: give None for the usual layers, glob strings such as "
    '["dense_*"], layers of the model, or selectors such as distwatch.gradients().'
)


def _from_mapping(mapping: dict[str, Any]) -> Selector:
    named = [key for key in mapping if key in KINDS]
    # `inputs` is a kind, and an option of activations.
    options = {option for key in named for option in argument_names(KINDS[key])}
    kinds = [key for key in named if key not in options]
    if len(kinds) != 1:
        raise ConfigError(
            f"{mapping!r}: write one kind of signal, such as {{gradients: 'dense_*'}}; "
            f"known: {', '.join(KINDS)} (a probe and a canary need data: give them in Python)."
        )
    (kind,) = kinds
    patterns = mapping.pop(kind)
    chosen = () if patterns is None or patterns is True else (patterns,)
    return KINDS[kind](*chosen, **mapping)
