"""A run as people analyse it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from distwatch.digest import Digest, spread
from distwatch.errors import ConfigError, UnknownSignalError, nearest
from distwatch.records import RunInfo
from distwatch.statistics import ROW
from distwatch.store.reader import StoredRun

#: What a row says of a delta, as people read it.
STATISTICS = ("count", "mean", "std", "min", "max", "l1", "l2", "zeros", "nans", "infs")

#: NaN, where no two elements could be compared: nothing is known, not zero.
_KNOWN_IF_COMPARED = ("mean", "std", "min", "max", "l1", "l2")


class Run:
    """A run in a store, as it was committed when this was opened.

    Args:
        store: the opened store; see `open_run`.
    """

    def __init__(self, store: StoredRun) -> None:
        self._store = store

    @property
    def path(self) -> Path:
        """Where the store lies."""
        return self._store.path

    @property
    def info(self) -> RunInfo:
        """What is known of the run beside its rows."""
        return self._store.info

    @property
    def signals(self) -> list[str]:
        """The names of the watched signals, e.g. ``activation/dense_1``."""
        return list(self.info.names)

    @property
    def replicas(self) -> list[int]:
        """The global numbers of the replicas."""
        return list(self.info.replicas)

    @property
    def lost(self) -> int:
        """How many steps were due and are not in the store."""
        return self._store.lost

    def __len__(self) -> int:
        return self._store.steps

    def __repr__(self) -> str:
        return (
            f"<distwatch.Run {str(self.path)!r}: {len(self)} steps, "
            f"{len(self.replicas)} replicas, {len(self.signals)} signals>"
        )

    def to_xarray(self, *, merged: bool = False) -> xr.Dataset:
        """The whole run as a dataset.

        Dims are (step, replica, signal), or (step, signal) if ``merged``; the
        variables are count, mean, std, min, max, l1, l2, zeros, nans and infs of
        each delta, and ``spread`` if merged: the largest minus the smallest of the
        replicas' means. ``epoch`` and ``iteration`` stand beside ``step``.
        """
        return self._dataset(slice(None), self.signals, merged)

    def __getitem__(self, signal: str) -> SignalView:
        """One signal.

        Raises:
            UnknownSignalError: the run has no such signal; the nearest are named.
        """
        if signal not in self.signals:
            raise UnknownSignalError(
                f"{self.path} has no signal {signal!r}; nearest: "
                f"{nearest(signal, self.signals)}."
            )
        position = self.signals.index(signal)
        chosen = slice(position, position + 1)
        return SignalView(
            signal,
            self._dataset(chosen, [signal], merged=False).isel(signal=0),
            self._dataset(chosen, [signal], merged=True).isel(signal=0),
        )

    def summary(self) -> str:
        """What stands out, in a few plain sentences."""
        return "\n".join(self.digest().sentences())

    def digest(self) -> Digest:
        """The whole run, merged over its steps."""
        digest = Digest(self.info)
        for block in self._store.blocks():
            digest.observe(block)
        digest.lost = self.lost
        return digest

    def _dataset(self, chosen: slice, names: list[str], merged: bool) -> xr.Dataset:
        rows = self._store.rows(signals=chosen)
        dims = ("step", "signal") if merged else ("step", "replica", "signal")
        states = self._store.merged(signals=chosen) if merged else rows
        variables = {name: (dims, values) for name, values in readable(states).items()}
        if merged:
            apart = spread(readable(rows)["mean"], axis=1)
            variables["spread"] = (dims, apart)
        coordinates: dict[str, Any] = {
            "step": self._store.coordinate("step"),
            "signal": np.asarray(names, dtype=object if not names else None),
            "epoch": ("step", self._store.coordinate("epoch")),
            "iteration": ("step", self._store.coordinate("iteration")),
        }
        if not merged:
            coordinates["replica"] = np.asarray(self.replicas, dtype=np.int64)
        return xr.Dataset(variables, coordinates, attrs=self._attributes())

    def _attributes(self) -> dict[str, Any]:
        return {
            "strategy": self.info.strategy,
            "schedule": self.info.schedule,
            "lost_steps": self.lost,
        }


class SignalView:
    """One signal of a run."""

    def __init__(self, name: str, per_replica: xr.Dataset, merged: xr.Dataset) -> None:
        self.name = name
        self._per_replica = per_replica
        self._merged = merged

    def __repr__(self) -> str:
        return f"<distwatch.SignalView {self.name!r}: {self._merged.sizes['step']} steps>"

    def per_replica(self, statistic: str) -> xr.DataArray:
        """A statistic on each replica: dims (step, replica).

        Raises:
            ConfigError: there is no such statistic.
        """
        return _pick(self._per_replica, statistic)

    def merged(self, statistic: str) -> xr.DataArray:
        """A statistic over all replicas together, or ``spread``: dims (step,).

        Raises:
            ConfigError: there is no such statistic.
        """
        return _pick(self._merged, statistic)


def open_run(path: str | Path) -> Run:
    """Open a run for analysis; this never imports TensorFlow.

    Args:
        path: what was given to Watch.

    Raises:
        NotARunError: there is no run.
        FormatVersionError: a newer distwatch wrote it.
    """
    return Run(StoredRun(path))


def readable(states: Any) -> dict[str, Any]:
    """Derive what people read from packed states of shape (..., field)."""
    computed = ROW.compute(ROW.unpack(states))
    compared = computed["count"] > 0
    return {
        name: np.where(compared, computed[name], np.nan)
        if name in _KNOWN_IF_COMPARED
        else computed[name]
        for name in STATISTICS
    }


def _pick(dataset: xr.Dataset, statistic: str) -> xr.DataArray:
    if statistic not in dataset.data_vars:
        known = [str(name) for name in dataset.data_vars]
        raise ConfigError(
            f"unknown statistic {statistic!r}; nearest: {nearest(statistic, known)}."
        )
    return dataset[statistic]
