"""What is watched: signals, their names, and the selectors that choose them.

    dw.Watch("run.zarr", signals=[
        dw.activations("dense_*"),
        dw.gradients(every=10),
        dw.updates("encoder/*", statistics=[dw.histogram()]),
    ])

A selector says what kind of signal, which of them (glob or regular expression over
paths), against what reference, by which further statistics and at which steps.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from distwatch.errors import ConfigError, UnknownSignalError, nearest
from distwatch.schedules import Schedule, from_mapping, schedule_of
from distwatch.statistics import LogHistogram, Statistic, from_spec

#: What a delta can be measured against; ``ema`` takes its decay: ``ema(0.99)``.
REFERENCES = ("previous", "batch_mean", "first", "ema", "neighbour", "none")

#: References that compare the rows of a batch, of which a weight has none.
_OF_BATCHES = ("batch_mean", "neighbour")

_EMA = re.compile(r"ema\((?P<decay>[0-9.eE+-]+)\)")

#: A pattern: a glob, or a regular expression (compiled, or written ``re:...``).
Pattern = str | re.Pattern[str]


@dataclass(frozen=True)
class Signal:
    """One watched thing: its name in the store and what its delta is measured against."""

    name: str
    reference: str = "previous"


@dataclass(frozen=True)
class Selector:
    """Which signals of one kind to watch, and how.

    ``reference`` None is the kind's own, ``schedule`` None the Watch's.
    """

    patterns: tuple[Pattern, ...] | None = None
    reference: str | None = None
    statistics: tuple[Statistic[Any], ...] = ()
    schedule: Schedule | None = None

    #: How configuration files and messages call it.
    kind: ClassVar[str]
    #: Whether its values have a batch dim.
    of_batches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.reference is None:
            return
        check_reference(self.reference)
        if not self.of_batches and self.reference in _OF_BATCHES:
            raise ConfigError(
                f"{self.kind}(reference={self.reference!r}): its values have no batch dim; "
                "choose 'previous', 'first', 'ema(decay)' or 'none'."
            )


@dataclass(frozen=True)
class Activations(Selector):
    """See `activations`."""

    outputs: bool = True
    inputs: bool = False
    kind: ClassVar[str] = "activations"


@dataclass(frozen=True)
class Gradients(Selector):
    """See `gradients`."""

    local: bool = True
    applied: bool = True
    kind: ClassVar[str] = "gradients"
    of_batches: ClassVar[bool] = False


@dataclass(frozen=True)
class Weights(Selector):
    """See `weights`."""

    kind: ClassVar[str] = "weights"
    of_batches: ClassVar[bool] = False


@dataclass(frozen=True)
class Updates(Selector):
    """See `updates`."""

    kind: ClassVar[str] = "updates"
    of_batches: ClassVar[bool] = False


@dataclass(frozen=True)
class Inputs(Selector):
    """See `inputs`."""

    kind: ClassVar[str] = "inputs"


@dataclass(frozen=True)
class Loss(Selector):
    """See `loss`."""

    kind: ClassVar[str] = "loss"
    of_batches: ClassVar[bool] = False


@dataclass(frozen=True, eq=False)
class Probe(Selector):
    """See `probe`."""

    x: Any = None
    kind: ClassVar[str] = "probe"


@dataclass(frozen=True)
class Tensors(Selector):
    """See `tensors`."""

    reduce: str | None = None
    dtype: str = "float32"
    kind: ClassVar[str] = "tensors"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reduce not in (None, "mean", "sum"):
            raise ConfigError(f"tensors(reduce={self.reduce!r}): choose None, 'mean' or 'sum'.")
        if self.dtype not in ("float32", "float16"):
            raise ConfigError(f"tensors(dtype={self.dtype!r}): choose 'float32' or 'float16'.")


Patterns = Pattern | Sequence[Pattern] | None
Further = Sequence[Statistic[Any]]
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
        statistics: further ones, such as `histogram`.
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
            row over those replicas that have the row, and keeps the result alone.
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


def ema(decay: float) -> str:
    """The reference ``ema(decay)``: an exponential moving average of the batches.

    Raises:
        ConfigError: the decay is not between 0 and 1.
    """
    return check_reference(f"ema({decay})")


def check_reference(reference: str) -> str:
    """Return ``reference`` if it is a known one.

    Raises:
        ConfigError: it is not; the message names those that are.
    """
    found = _EMA.fullmatch(reference)
    if found is None and (reference not in REFERENCES or reference == "ema"):
        known = ", ".join(repr(name) for name in REFERENCES).replace("'ema'", "'ema(0.99)'")
        raise ConfigError(f"unknown reference {reference!r}: choose one of {known}.")
    if found is not None and not _between_0_and_1(found["decay"]):
        raise ConfigError(f"{reference}: the decay is a number between 0 and 1, such as 0.99.")
    return reference


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
    listed = (
        signals if isinstance(signals, Sequence) and not _is_pattern(signals) else [signals]
    )
    if not len(listed) or not all(_is_signals(each) for each in listed):
        raise ConfigError(
            f"signals={signals!r}: give None for the usual layers, glob strings such as "
            '["dense_*"], or selectors such as distwatch.gradients().'
        )
    patterns = [each for each in listed if _is_pattern(each)]
    chosen = [each for each in listed if isinstance(each, Selector)]
    chosen += [_from_mapping(each) for each in listed if isinstance(each, dict)]
    return (*([activations(patterns)] if patterns else []), *chosen)


def matching(
    patterns: Iterable[Pattern],
    paths: Sequence[str],
    *,
    kinds: Sequence[str] = ("activation",),
    of: str = "layer",
) -> list[str]:
    """Return those paths that a pattern matches, in the order of ``paths``.

    A pattern matches a path (``encoder/dense_1``), its last part (``dense_1``), or the
    signal's name (``activation/encoder/dense_1``).

    Raises:
        UnknownSignalError: a pattern matches nothing; the nearest paths are named.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = [path for path in paths if _matches(pattern, path, kinds)]
        if not found:
            written = pattern if isinstance(pattern, str) else pattern.pattern
            raise UnknownSignalError(
                f"signal pattern {written!r} matches no {of} of this model; "
                f"nearest: {nearest(written, list(paths))}."
            )
        chosen.update(found)
    return [path for path in paths if path in chosen]


def _matches(pattern: Pattern, path: str, kinds: Sequence[str]) -> bool:
    forms = (path, path.rpartition("/")[2], *(f"{kind}/{path}" for kind in kinds))
    if isinstance(pattern, str) and not pattern.startswith("re:"):
        return any(fnmatch.fnmatchcase(form, pattern) for form in forms)
    return any(re.fullmatch(_expression(pattern), form) for form in forms)


def _expression(pattern: Pattern) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        return pattern
    try:
        return re.compile(pattern.removeprefix("re:"))
    except re.error as error:
        raise ConfigError(f"{pattern!r} is no regular expression: {error}.") from error


def _common(
    patterns: Patterns, reference: str | None, statistics: Further, every: When
) -> tuple[Any, Any, Any, Any]:
    return (
        _check_patterns(patterns),
        reference,
        _check_statistics(statistics),
        None if every is None else schedule_of(every),
    )


def _check_patterns(patterns: Patterns) -> tuple[Pattern, ...] | None:
    if patterns is None:
        return None
    chosen = (patterns,) if _is_pattern(patterns) else tuple(patterns)  # type: ignore[arg-type]
    if not chosen or not all(_is_pattern(pattern) for pattern in chosen):
        raise ConfigError(f'{patterns!r}: give glob strings such as ["dense_*"].')
    for pattern in chosen:
        if isinstance(pattern, str) and pattern.startswith("re:"):
            _expression(pattern)
    return chosen  # type: ignore[return-value]


def _check_statistics(statistics: Further) -> tuple[Statistic[Any], ...]:
    listed = tuple(statistics) if isinstance(statistics, Sequence) else (statistics,)
    # Only these: a store has to be able to say what it holds, and ratios and checksums
    # mean something for the signals alone that have them anyway.
    if not all(isinstance(each, LogHistogram) for each in listed):
        raise ConfigError(
            f"statistics={statistics!r}: give [distwatch.histogram()]; moments, extremes and "
            "norms are always there."
        )
    if len(listed) != len({type(each) for each in listed}):
        raise ConfigError(f"statistics={statistics!r}: each kind can be there once.")
    return listed


def _is_pattern(x: Any) -> bool:
    return isinstance(x, (str, re.Pattern))


def _is_signals(x: Any) -> bool:
    return _is_pattern(x) or isinstance(x, (Selector, dict))


def _between_0_and_1(number: str) -> bool:
    try:
        return 0.0 < float(number) < 1.0
    except ValueError:
        return False


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
