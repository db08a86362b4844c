"""Signals, and what a selector of each kind says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from distwatch.errors import ConfigError
from distwatch.signals.patterns import Pattern
from distwatch.signals.references import OF_BATCHES, check_reference
from distwatch.signals.schedules import Schedule
from distwatch.statistics import Statistic


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
        if not self.of_batches and self.reference in OF_BATCHES:
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
