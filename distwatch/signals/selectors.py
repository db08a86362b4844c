"""The selectors that people write: one function a kind of signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distwatch.errors import ConfigError
from distwatch.signals.kinds import (
    Activations,
    Gradients,
    Inputs,
    Loss,
    Probe,
    Tensors,
    Updates,
    Weights,
)
from distwatch.signals.patterns import Pattern, expression, is_pattern
from distwatch.signals.schedules import Schedule, schedule_of
from distwatch.statistics import LogHistogram, Statistic, requested

Patterns = Pattern | Sequence[Pattern] | None
Further = Sequence[Statistic[Any] | str]
When = Schedule | int | None


def activations(
    patterns: Patterns = None,
    *,
    outputs: bool = True,
    inputs: bool = False,
    reference: str | None = None,
    statistics: Further = (),
    every: When = None,
) -> Activations:
    """What layers put out (``activation/PATH``) or take in (``activation_input/PATH``).

    Args:
        patterns: globs or regular expressions over layer paths; None for the outermost
            layers that own weights, every Tracker and the model's own output.
        outputs, inputs: which side of the layers.
        reference: against what; None for the Watch's own, which is "previous".
        statistics: further ones, such as `histogram`, or their names.
        every: at which steps: a schedule, or a number k for every k-th.

    Raises:
        ConfigError: an argument is wrong.
    """
    if not (outputs or inputs):
        raise ConfigError("activations(outputs=False, inputs=False) would watch nothing.")
    return Activations(
        *_common(patterns, reference, statistics, every), outputs=outputs, inputs=inputs
    )


def gradients(
    patterns: Patterns = None,
    *,
    local: bool = True,
    applied: bool = True,
    reference: str = "none",
    statistics: Further = (),
    every: When = None,
) -> Gradients:
    """The gradient of each trainable variable, before and after the replicas add theirs.

    ``gradient_local/PATH`` is the gradient of each replica's own loss, as the
    optimizer is given it, with Keras's division by the number of replicas and any loss
    scaling undone, before clipping; the replicas' mean of it is what is applied.
    ``gradient/PATH`` is what is applied, once (the first replica's row holds it); where
    the optimizer clips it is called ``gradient_clipped/PATH``.

    Args:
        patterns: over variable paths such as ``dense_1/kernel``; None for all.
        local, applied: which of the two.
        reference, statistics, every: as in `activations`; the value itself by default.

    Raises:
        ConfigError: an argument is wrong.
    """
    if not (local or applied):
        raise ConfigError("gradients(local=False, applied=False) would watch nothing.")
    return Gradients(
        *_common(patterns, reference, statistics, every), local=local, applied=applied
    )


def weights(
    patterns: Patterns = None,
    *,
    reference: str = "none",
    statistics: Further = (),
    every: When = None,
) -> Weights:
    """Each weight as the step left it, on each replica: ``weight/PATH``.

    Weights that are not trained, such as moving averages of BatchNormalization, are
    among them: those are what may differ between replicas.

    Args:
        patterns: over variable paths such as ``dense_1/kernel``; None for all.
        reference, statistics, every: as in `activations`; the value itself by default.

    Raises:
        ConfigError: an argument is wrong.
    """
    return Weights(*_common(patterns, reference, statistics, every))


def updates(
    patterns: Patterns = None,
    *,
    reference: str = "none",
    statistics: Further = (),
    every: When = None,
) -> Updates:
    """What the optimizer did to each trainable variable in a step: ``update/PATH``.

    That is the weight after the step minus the weight before it. The statistic
    ``ratio`` is the update-to-weight ratio, the norm of the update over that of the
    weight before it; healthy trainings keep it near 1e-3.

    Args:
        patterns: over variable paths such as ``dense_1/kernel``; None for all.
        reference, statistics, every: as in `activations`; the value itself by default.

    Raises:
        ConfigError: an argument is wrong.
    """
    return Updates(*_common(patterns, reference, statistics, every))


def inputs(*, reference: str = "none", statistics: Further = (), every: When = None) -> Inputs:
    """Each replica's input batch: ``input``, or ``input:KEY`` where there are several.

    The statistic ``checksum`` is equal where replicas were given the same batch.

    Args:
        reference, statistics, every: as in `activations`; the value itself by default.

    Raises:
        ConfigError: an argument is wrong.
    """
    return Inputs(*_common(None, reference, statistics, every))


def loss(*, reference: str = "none", statistics: Further = (), every: When = None) -> Loss:
    """The loss of each replica's own batch, before any reduction: ``loss``.

    Args:
        reference, statistics, every: as in `activations`; the value itself by default.

    Raises:
        ConfigError: an argument is wrong.
    """
    return Loss(*_common(None, reference, statistics, every))


def probe(
    x: Any,
    *,
    layers: Patterns = "output",
    reference: str = "none",
    statistics: Further = (),
    every: When = 50,
) -> Probe:
    """The model's outputs on one fixed batch, as each step left the weights.

    A change can only come from the weights, since the batch is always the same. The
    model runs in inference mode beside the training and leaves no trace in it:
    ``probe/output``, or ``probe/PATH`` for chosen layers.

    Args:
        x: what the model takes, of any batch size; the same on every replica.
        layers: over layer paths; the model's own output by default.
        reference, statistics, every: as in `activations`; the value itself by default.
            With reference "previous" the probe also runs on the step before a look.

    Raises:
        ConfigError: an argument is wrong.
    """
    if x is None:
        raise ConfigError("probe(x): give a batch of what the model takes.")
    return Probe(*_common(layers, reference, statistics, every), x=x)


def tensors(
    patterns: Patterns = None,
    *,
    every: When,
    reduce: str | None = None,
    dtype: str = "float32",
    reference: str = "previous",
) -> Tensors:
    """The raw deltas of layers' outputs, element by element: ``tensor/PATH``.

    This is large: say how rarely.

    Args:
        patterns: over layer paths; None as in `activations`.
        every: at which steps: a schedule, or a number k for every k-th.
        reduce: None keeps each replica's; "mean" or "sum" reduces over replicas, row by
            row over those replicas that have the row, and keeps the result alone. It is
            refused on several workers, each of which knows its own replicas only.
        dtype: what is stored, "float32" or "float16" (which ends at 65504).
        reference: as in `activations`.

    Raises:
        ConfigError: an argument is wrong.
    """
    return Tensors(*_common(patterns, reference, (), every), reduce=reduce, dtype=dtype)


def histogram(
    *, accuracy: float = 0.05, smallest: float = 1e-12, largest: float = 1e9
) -> LogHistogram:
    """A further statistic: a histogram whose quantiles have a declared accuracy.

    Args:
        accuracy: the largest relative error of a quantile.
        smallest: absolute values below this count as zero.
        largest: absolute values above this are told apart no more.

    Raises:
        ConfigError: an argument is wrong.
    """
    return LogHistogram(accuracy=accuracy, smallest=smallest, largest=largest)


def _common(
    patterns: Patterns, reference: str | None, statistics: Further, every: When
) -> tuple[Any, Any, Any, Any]:
    return (
        _check_patterns(patterns),
        reference,
        requested(statistics),
        None if every is None else schedule_of(every),
    )


def _check_patterns(patterns: Patterns) -> tuple[Pattern, ...] | None:
    if patterns is None:
        return None
    chosen = (patterns,) if is_pattern(patterns) else tuple(patterns)  # type: ignore[arg-type]
    if not chosen or not all(is_pattern(pattern) for pattern in chosen):
        raise ConfigError(f'{patterns!r}: give glob strings such as ["dense_*"].')
    for pattern in chosen:
        if isinstance(pattern, str) and pattern.startswith("re:"):
            expression(pattern)
    return chosen  # type: ignore[return-value]
