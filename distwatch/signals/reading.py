"""What a Watch or a configuration file says of its signals, as selectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, NamedTuple

from distwatch.errors import ConfigError, nearest
from distwatch.signals.kinds import (
    Activations,
    Gradients,
    Inputs,
    Loss,
    Selector,
    Tensors,
    Updates,
    Weights,
)
from distwatch.signals.patterns import is_pattern
from distwatch.signals.schedules import from_mapping
from distwatch.signals.selectors import (
    activations,
    gradients,
    inputs,
    loss,
    tensors,
    updates,
    weights,
)


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


class Maker(NamedTuple):
    """A function that makes selectors of one kind."""

    make: Callable[..., Selector]
    of_batches: bool


#: Kinds of signals that a file can name, each by what makes its selectors.
MAKERS = {
    kind.kind: Maker(make, kind.of_batches)
    for kind, make in (
        (Activations, activations),
        (Gradients, gradients),
        (Weights, weights),
        (Updates, updates),
        (Inputs, inputs),
        (Loss, loss),
        (Tensors, tensors),
    )
}


def _from_mapping(mapping: dict[str, Any]) -> Selector:
    named = [key for key in mapping if key in MAKERS]
    # `inputs` is a kind, and what activations take.
    kinds = [key for key in named if not any(key in _arguments(each) for each in named)]
    if len(kinds) != 1:
        raise ConfigError(
            f"{mapping!r}: write one kind of signal, such as {{gradients: 'dense_*'}}; "
            f"known: {', '.join(MAKERS)} (a probe needs data: give it in Python)."
        )
    (kind,) = kinds
    more = {key: value for key, value in mapping.items() if key != kind}
    _check_keys(mapping, kind, more)
    if isinstance(more.get("every"), dict):
        more["every"] = from_mapping(more["every"])
    chosen = () if mapping[kind] in (None, True) else (mapping[kind],)
    try:
        return MAKERS[kind].make(*chosen, **more)
    except TypeError as error:
        raise ConfigError(f"{mapping!r}: {error}.") from error


def _arguments(kind: str) -> list[str]:
    """What a kind's maker takes beside patterns."""
    return [name for name in signature(MAKERS[kind].make).parameters if name != "patterns"]


def _check_keys(mapping: dict[str, Any], kind: str, more: dict[str, Any]) -> None:
    known = _arguments(kind)
    for key in more:
        if key not in known:
            raise ConfigError(
                f"{mapping!r}: {kind} take no {key!r}; nearest: {nearest(str(key), known)}."
            )
