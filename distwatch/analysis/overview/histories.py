"""What is kept of a run: a few statistics of each signal, in bins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from distwatch.analysis.overview.binning import Binned, Bins, Flags, Floats
from distwatch.errors import ConfigError, nearest
from distwatch.findings import Digest, spread
from distwatch.records import RunInfo, Table
from distwatch.signals import Signal, no_such_signal

#: What is known of the rows of some steps: statistics by name, each of shape (n, series,
#: signal), where the last series is that of all replicas together.
Known = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """A statistic that figures can show.

    ``change`` and ``value`` are how it is called on an axis, of a delta and of a value
    that is measured against nothing.
    """

    name: str
    change: str
    value: str
    of: Callable[[Known], Floats]
    #: Whether it is only known of all replicas together.
    merged_only: bool = False
    #: Whether it may be below zero, so that there is no logarithm of it.
    signed: bool = False

    def label(self, signal: Signal) -> str:
        """How it is called for a signal."""
        return self.value if signal.reference == "none" else self.change


def _mean_size(known: Known) -> Floats:
    finite = known["count"] - known["nans"] - known["infs"]
    return np.asarray(known["l1"] / np.where(finite > 0, finite, np.nan))


def _zero_share(known: Known) -> Floats:
    return np.asarray(known["zeros"] / np.where(known["count"] > 0, known["count"], np.nan))


def _spread(known: Known) -> Floats:
    return np.asarray(spread(known["mean"][:, :-1], axis=1)[:, None])


#: In the order in which they are given up where there is no room for all.
CHOICES = (
    Choice("size", "mean |change|", "mean |value|", _mean_size),
    Choice("ratio", "|update| / |weight|", "|update| / |weight|", lambda k: k["ratio"]),
    Choice(
        "spread",
        "spread of the replicas' means",
        "spread of the replicas' means",
        _spread,
        merged_only=True,
    ),
    Choice("std", "std of the change", "std of the value", lambda k: k["std"]),
    Choice("mean", "mean change", "mean value", lambda k: k["mean"], signed=True),
    Choice("zeros", "share that did not change", "share of zeros", _zero_share),
    Choice("l2", "L2 norm of the change", "L2 norm of the value", lambda k: k["l2"]),
)


def choice_named(name: str) -> Choice:
    """The statistic of a name.

    Raises:
        ConfigError: there is none; the nearest are named.
    """
    known = {choice.name: choice for choice in CHOICES}
    if name not in known:
        raise ConfigError(f"unknown statistic {name!r}; nearest: {nearest(name, [*known])}.")
    return known[name]


def choices_of(table: Table, replicas: int) -> list[Choice]:
    """The statistics that a table has."""
    has_ratio = "ratio" in {
        name for part in table.statistic.further for name in _computed_names(part)
    }
    left_out = {"ratio"} if not has_ratio else set()
    # The spread of one replica is nothing, and says nothing.
    left_out |= {"spread"} if replicas < 2 else set()
    return [choice for choice in CHOICES if choice.name not in left_out]


def _computed_names(part: Any) -> list[str]:
    return [] if part.wide else [*part.compute(part.unpack(np.zeros((1, len(part.fields)))))]


@dataclass(frozen=True)
class SignalHistory:
    """One statistic of one signal: shapes (bin, series), the last that of all replicas.

    ``broken`` says in which bins there were NaN or Inf among the elements.
    """

    signal: Signal
    choice: Choice
    replicas: tuple[int, ...]
    bins: Bins
    low: Floats
    high: Floats
    mean: Floats
    broken: Flags


@dataclass(frozen=True)
class History:
    """The signals of one table.

    ``kept`` has an array of shape (bin, series, signal) for each statistic; a series is a
    replica, the last one all of them together. ``broken``, of the same shape, says where
    there were NaN or Inf among the elements. ``apart`` is how far the replicas' means lay
    apart within a step, in standard deviations of one replica, and ``offset`` how far
    each one's lay from that of all, both as means over steps: (signal,), (replica, signal).
    """

    table: Table
    signals: tuple[Signal, ...]
    bins: Bins
    kept: dict[str, Binned]
    broken: Flags
    apart: Floats
    offset: Floats


@dataclass(frozen=True)
class Overview:
    """A run, read once."""

    info: RunInfo
    histories: tuple[History, ...]
    digest: Digest
    #: The statistics that were kept, as the run has them.
    choices: tuple[Choice, ...]
    #: How many steps were read: all of them, or the last ones of the table that has most.
    steps: int

    @property
    def signals(self) -> list[Signal]:
        """The signals that were read, in the order of the run."""
        return [signal for history in self.histories for signal in history.signals]

    def find(self, name: str) -> tuple[History, int]:
        """The history that a signal is in, and its place there.

        Raises:
            UnknownSignalError: there is no such signal; the nearest are named.
        """
        for history in self.histories:
            for place, signal in enumerate(history.signals):
                if signal.name == name:
                    return history, place
        names = [signal.name for signal in self.signals]
        raise no_such_signal(name, names, "the run")

    def history(self, name: str, statistic: str = "size") -> SignalHistory:
        """One statistic of one signal.

        Raises:
            UnknownSignalError: there is no such signal.
            ConfigError: the signal has no such statistic.
        """
        history, place = self.find(name)
        choice = choice_named(statistic)
        if statistic not in history.kept:
            raise ConfigError(
                f"{name} has no {statistic!r}; it has: {', '.join(history.kept)}."
            )
        binned = history.kept[statistic]
        replicas = () if choice.merged_only else self.info.replicas
        broken = history.broken[:, -1 - len(replicas) :, place]
        return SignalHistory(
            signal=history.signals[place],
            choice=choice,
            replicas=replicas,
            bins=history.bins,
            low=binned.low[:, :, place],
            high=binned.high[:, :, place],
            mean=binned.mean[:, :, place],
            broken=broken | binned.infinite[:, :, place],
        )
