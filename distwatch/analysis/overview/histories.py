"""What is kept of a run: a few quantities of each signal, in bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from distwatch.analysis.overview.binning import Binned, Bins, Flags, Floats, Ints
from distwatch.errors import ConfigError, nearest
from distwatch.findings import Digest
from distwatch.records import RunInfo, Table
from distwatch.signals import Signal, no_such_signal
from distwatch.statistics import QUANTITIES, Quantity


def quantity_named(name: str) -> Quantity:
    """The quantity of a name.

    Raises:
        ConfigError: there is none; the nearest are named.
    """
    known = {quantity.name: quantity for quantity in QUANTITIES}
    if name not in known:
        raise ConfigError(f"unknown statistic {name!r}; nearest: {nearest(name, [*known])}.")
    return known[name]


@dataclass(frozen=True)
class SignalHistory:
    """One quantity of one signal: shapes (bin, series); the last series is all replicas.

    ``broken`` says in which bins there were NaN or Inf among the elements.
    """

    signal: Signal
    quantity: Quantity
    replicas: tuple[int, ...]
    bins: Bins
    low: Floats
    high: Floats
    mean: Floats
    broken: Flags

    def only(self, replicas: Sequence[int]) -> SignalHistory:
        """That of some replicas, given by their positions, and of all together."""
        series = [*replicas, -1]
        return replace(
            self,
            replicas=tuple(self.replicas[i] for i in replicas),
            low=self.low[:, series],
            high=self.high[:, series],
            mean=self.mean[:, series],
            broken=self.broken[:, series],
        )


@dataclass(frozen=True)
class History:
    """The signals of one table.

    ``kept`` has an array of shape (bin, series, signal) for each quantity; a series is a
    replica, the last one all of them together. ``broken``, of the same shape, says where
    there were NaN or Inf among the elements. ``apart`` is how far the replicas' means lay
    apart within a step, in standard deviations of one replica, and ``offset`` how far each
    one's lay from that of all, both as means over steps: (signal,), (replica, signal). Of a
    single number, such as a loss, see `Apart`.
    """

    table: Table
    signals: tuple[Signal, ...]
    bins: Bins
    kept: dict[str, Binned]
    broken: Flags
    apart: Floats
    offset: Floats


@dataclass(frozen=True)
class Epochs:
    """The first recorded step of each epoch, and its number: shapes (epoch,).

    Numbers begin anew where another ``fit`` went on with the same run.
    """

    step: Ints
    number: Ints


@dataclass(frozen=True)
class Overview:
    """A run, read once and reduced to bins."""

    info: RunInfo
    histories: tuple[History, ...]
    digest: Digest
    #: The quantities that were kept, by rank.
    quantities: tuple[Quantity, ...]
    #: How many steps were read of the table that has most.
    steps: int
    epochs: Epochs

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
        raise no_such_signal(name, [signal.name for signal in self.signals], "the run")

    def history(self, name: str, statistic: str = "size") -> SignalHistory:
        """One statistic of one signal.

        Raises:
            UnknownSignalError: there is no such signal.
            ConfigError: the signal has no such statistic.
        """
        history, place = self.find(name)
        quantity = quantity_named(statistic)
        if statistic not in history.kept:
            raise ConfigError(
                f"{name} has no {statistic!r}; it has: {', '.join(history.kept)}."
            )
        binned = history.kept[statistic]
        replicas = () if quantity.merged_only else self.info.replicas
        broken = history.broken[:, -1 - len(replicas) :, place]
        return SignalHistory(
            signal=history.signals[place],
            quantity=quantity,
            replicas=replicas,
            bins=history.bins,
            low=binned.low[:, :, place],
            high=binned.high[:, :, place],
            mean=binned.mean[:, :, place],
            broken=broken | binned.infinite[:, :, place],
        )
