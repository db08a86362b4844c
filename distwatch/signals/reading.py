"""What a Watch or a configuration file says of its signals, as selectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distwatch.errors import ConfigError
from distwatch.schedules import from_mapping
from distwatch.signals.kinds import Selector
from distwatch.signals.patterns import is_pattern
from distwatch.signals.selectors import (
    activations,
    gradients,
    inputs,
    loss,
    tensors,
    updates,
    weights,
)
from distwatch.statistics import Statistic, from_spec


def check_selectors(signals: Any) -> tuple[Selector, ...] | None:
    """Return what a Watch is given as signals as selectors; None stays None.

    Selectors stay, strings and patterns become `activations` (all those of one Watch
    one selector), and mappings are read as configuration files write them:
    ``{gradients: "dense_*", every: 10, statistics: [histogram]}``.

    Raises:
        ConfigError: something else is among them, or there are none.
    """
    if signals is None:
        return None
    listed = signals if isinstance(signals, Sequence) and not is_pattern(signals) else [signals]
    if not len(listed) or not all(_is_signals(each) for each in listed):
        raise ConfigError(
            f"signals={signals!r}: give None for the usual layers, glob strings such as "
            '["dense_*"], or selectors such as distwatch.gradients().'
        )
    patterns = [each for each in listed if is_pattern(each)]
    chosen = [each for each in listed if isinstance(each, Selector)]
    chosen += [_from_mapping(each) for each in listed if isinstance(each, dict)]
    return (*([activations(patterns)] if patterns else []), *chosen)


def _is_signals(x: Any) -> bool:
    return is_pattern(x) or isinstance(x, (Selector, dict))


_MAKERS: dict[str, Any] = {
    maker.__name__: maker
    for maker in (activations, gradients, weights, updates, inputs, loss, tensors)
}


def _from_mapping(mapping: dict[str, Any]) -> Selector:
    kinds = [key for key in mapping if key in _MAKERS]
    if len(kinds) != 1:
        raise ConfigError(
            f"{mapping!r}: write one kind of signal, such as {{gradients: 'dense_*'}}; "
            f"known: {', '.join(_MAKERS)} (a probe needs data: give it in Python)."
        )
    (kind,) = kinds
    more = {key: value for key, value in mapping.items() if key != kind}
    if isinstance(more.get("every"), dict):
        more["every"] = from_mapping(more["every"])
    if "statistics" in more:
        more["statistics"] = [_statistic(each) for each in more["statistics"]]
    chosen = () if mapping[kind] in (None, True) else (mapping[kind],)
    try:
        return _MAKERS[kind](*chosen, **more)  # type: ignore[no-any-return]
    except TypeError as error:
        raise ConfigError(f"{mapping!r}: {error}.") from error


def _statistic(written: Any) -> Statistic[Any]:
    """``histogram``, or ``{histogram: {accuracy: 0.01}}``."""
    spec = {written: None} if isinstance(written, str) else written
    if not isinstance(spec, dict) or len(spec) != 1:
        raise ConfigError(f"statistic {written!r}: name one statistic, such as histogram.")
    ((name, more),) = spec.items()
    (statistic,) = from_spec([{"name": name, **(more or {})}]).further
    return statistic
