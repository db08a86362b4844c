"""A run as people analyse it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from distwatch.analysis.detail import bucket_counts, quantiles, raw_tensor
from distwatch.digest import Digest, spread
from distwatch.errors import ConfigError, UnknownSignalError, nearest
from distwatch.records import RunInfo, Table
from distwatch.statistics import ROW
from distwatch.store.damage import Damage
from distwatch.store.joining import ReadableTable
from distwatch.store.reader import StoredRun

#: What a row says of a delta, as people read it.
STATISTICS = ("count", "mean", "std", "min", "max", "l1", "l2", "zeros", "nans", "infs")

#: NaN, where no two elements could be compared: nothing is known, not zero.
_KNOWN_IF_COMPARED = ("mean", "std", "min", "max", "l1", "l2")

#: What stands beside ``step``.
_BESIDE_STEP = ("epoch", "iteration")


class SegmentFacts(NamedTuple):
    """What one worker wrote since one start."""

    name: str
    worker: int
    start: int
    #: It takes the place of all that earlier starts of this worker have from here on.
    first_step: int
    steps: int


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
    def phase(self) -> str:
        """What the model was doing: "train", "test", "predict" or "train_on_batch"."""
        return self.info.phase

    @property
    def phases(self) -> list[str]:
        """The phases that were recorded; ``open_run(path, phase=...)`` opens one."""
        return self._store.phases

    @property
    def segments(self) -> list[SegmentFacts]:
        """What the run is put together from: a segment for each worker and each start."""
        return [
            SegmentFacts(
                each.name,
                each.info.worker,
                each.info.origin.start,
                each.info.origin.step,
                each.steps,
            )
            for each in self._store.segments
        ]

    @property
    def lost(self) -> int:
        """How many steps were due and are not in the store, summed over tables."""
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
        each delta, ``ratio`` and ``checksum`` where there are any, and ``spread`` if
        merged: the largest minus the smallest of the replicas' means. ``epoch`` and
        ``iteration`` stand beside ``step``.

        Signals that were looked at on different steps are joined on ``step``: where
        one was not looked at, its values are NaN (and its counts, therefore, floats).
        ``run[signal]`` has each signal's own steps.

        So it is, too, where a worker stopped before the others: its replicas are NaN
        there, and what is merged is merged over the others.
        """
        datasets = [
            self._dataset(table, slice(None), merged) for table in self._store.tables.values()
        ]
        if not datasets:
            return self._empty(merged)
        return datasets[0] if len(datasets) == 1 else _joined(datasets)

    def __getitem__(self, signal: str) -> SignalView:
        """One signal.

        Raises:
            UnknownSignalError: the run has no such signal; the nearest are named.
        """
        table, position = self._find(signal)
        chosen = slice(position, position + 1)
        return SignalView(
            signal,
            self._dataset(table, chosen, merged=False).isel(signal=0),
            self._dataset(table, chosen, merged=True).isel(signal=0),
        )

    def quantile(
        self, signal: str, q: Any, *, per_step: bool = False, per_replica: bool = False
    ) -> Any:
        """Quantiles of a signal that was watched with ``distwatch.histogram()``.

        As ``numpy.quantile`` gives them, to the histogram's declared accuracy; the
        extremes are exact. NaN are left out.

        Args:
            signal: its name.
            q: one probability from 0 to 1, or several.
            per_step, per_replica: keep these axes apart instead of merging over them.

        Returns:
            A DataArray of dims (step, replica, quantile), without those that were merged
            over and without quantile for a single one; a float where none is left.

        Raises:
            UnknownSignalError: the run has no such signal.
            ConfigError: it was watched without a histogram, or q is no probability.
        """
        table, position = self._find(signal)
        return quantiles(table, position, q, per_step=per_step, per_replica=per_replica)

    def histogram(self, signal: str, *, merged: bool = True) -> xr.DataArray:
        """The bucket counts of a signal that was watched with ``distwatch.histogram()``.

        Dims are (step, bucket), or (step, replica, bucket); the coordinate ``bucket`` is
        the value that a bucket stands for.

        Raises:
            UnknownSignalError: the run has no such signal.
            ConfigError: it was watched without a histogram.
        """
        table, position = self._find(signal)
        return bucket_counts(table, position, merged=merged)

    def tensor(self, signal: str) -> xr.DataArray:
        """The raw deltas of a signal that was watched by ``distwatch.tensors()``.

        Dims are (step, replica, batch, dim_1, ...), with ``reduced`` of size 1 in place
        of replica where they were reduced. NaN fills up what a batch does not have; the
        coordinate ``valid`` says how many rows it has.

        Raises:
            UnknownSignalError: the run has no such signal.
            ConfigError: it was not watched by tensors, or nothing was kept.
        """
        table, _ = self._find(signal)
        return raw_tensor(table, signal)

    def summary(self) -> str:
        """What stands out, in a few plain sentences."""
        return "\n".join([*self.digest().sentences(lost=self.lost), *self._stopped()])

    def verify(self) -> list[Damage]:
        """Read every chunk of every phase, and list those that are damaged.

        Each `Damage` says the array, the rows and the file; everything else can be read.
        """
        return [damage for _, damage in self._store.verify() if damage is not None]

    def digest(self) -> Digest:
        """The whole run, merged over its steps."""
        digest = Digest(self.info)
        for block in self._store.blocks():
            digest.observe(block)
        return digest

    def _stopped(self) -> list[str]:
        """Say which workers left rows of fewer steps than others, or none."""
        ends = [(worker.info, worker.steps) for worker in self._store.workers]
        lines = [
            f"Worker {info.worker} (replica{'s' * (len(info.replicas) != 1)} "
            f"{', '.join(map(str, info.replicas))}) left only {steps} of {len(self)} steps; "
            "what is merged is merged without it from there."
            for info, steps in ends
            if steps < len(self)
        ]
        if ends and len(ends) < self.info.workers:
            lines.append(
                f"{self.info.workers - len(ends)} of {self.info.workers} workers left no rows."
            )
        return lines

    def _find(self, signal: str) -> tuple[ReadableTable, int]:
        for table in self._store.tables.values():
            if signal in table.table.names:
                return table, table.table.names.index(signal)
        raise UnknownSignalError(
            f"{self.path} has no signal {signal!r}; nearest: {nearest(signal, self.signals)}."
        )

    def _dataset(self, stored: ReadableTable, chosen: slice, merged: bool) -> xr.Dataset:
        rows = stored.rows(signals=chosen)
        dims = ("step", "signal") if merged else ("step", "replica", "signal")
        states = stored.merged(signals=chosen) if merged else rows
        found = readable(states, stored.table)
        variables = {name: (dims, values) for name, values in found.items()}
        if not merged and not (present := stored.present()).all():
            variables = {
                name: (dims, np.where(present[..., None], values, np.nan))
                for name, values in found.items()
            }
        if merged:
            apart = spread(readable(rows)["mean"], axis=1)
            variables["spread"] = (dims, apart)
        coordinates: dict[str, Any] = {
            "step": stored.coordinate("step"),
            "signal": np.asarray(stored.table.names[chosen]),
            "epoch": ("step", stored.coordinate("epoch")),
            "iteration": ("step", stored.coordinate("iteration")),
        }
        if not merged:
            coordinates["replica"] = np.asarray(stored.replicas, dtype=np.int64)
        return xr.Dataset(variables, coordinates, attrs=self._attributes(stored))

    def _empty(self, merged: bool) -> xr.Dataset:
        """A run without rows."""
        dims = ("step", "signal") if merged else ("step", "replica", "signal")
        shape = (0, 0) if merged else (0, len(self.replicas), 0)
        names = (*STATISTICS, "spread") if merged else STATISTICS
        coordinates: dict[str, Any] = {
            "step": np.zeros(0, np.int64),
            "signal": np.zeros(0, object),
            "epoch": ("step", np.zeros(0, np.int64)),
            "iteration": ("step", np.zeros(0, np.int64)),
        }
        if not merged:
            coordinates["replica"] = np.asarray(self.replicas, dtype=np.int64)
        return xr.Dataset({name: (dims, np.zeros(shape)) for name in names}, coordinates)

    def _attributes(self, stored: ReadableTable) -> dict[str, Any]:
        return {
            "strategy": self.info.strategy,
            "schedule": stored.table.schedule,
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


def open_run(path: str | Path, *, phase: str | None = None) -> Run:
    """Open a run for analysis; this never imports TensorFlow.

    Args:
        path: what was given to Watch.
        phase: "train", "test", "predict" or "train_on_batch"; None for "train", or for
            the only phase that was recorded. Phases are never mixed.

    Raises:
        NotARunError: there is no run.
        FormatVersionError: a newer distwatch wrote it.
        ConfigError: the run has no such phase.
    """
    return Run(StoredRun(path, phase))


def readable(states: Any, table: Table | None = None) -> dict[str, Any]:
    """Derive what people read from packed states of shape (..., field).

    Args:
        states: rows of the usual fields, or of all scalar fields of ``table``.
        table: whose rows they are; None for the usual fields alone.
    """
    usual = len(ROW.fields)
    computed = ROW.compute(ROW.unpack(states[..., :usual]))
    compared = computed["count"] > 0
    found = {
        name: np.where(compared, computed[name], np.nan)
        if name in _KNOWN_IF_COMPARED
        else computed[name]
        for name in STATISTICS
    }
    return {**found, **_readable_further(states[..., usual:], table)}


def _readable_further(states: Any, table: Table | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    start = 0
    for statistic in table.statistic.further if table else ():
        if not statistic.wide:
            stop = start + len(statistic.fields)
            found |= statistic.compute(statistic.unpack(states[..., start:stop]))
            start = stop
    return found


def _joined(datasets: list[xr.Dataset]) -> xr.Dataset:
    """Datasets of several tables as one, over all their steps."""
    beside = {
        name: {
            int(step): int(value)
            for part in datasets
            for step, value in zip(part["step"].values, part[name].values, strict=True)
        }
        for name in _BESIDE_STEP
    }
    parts = [part.drop_vars(_BESIDE_STEP) for part in datasets]
    joined = xr.concat(
        parts,
        "signal",
        join="outer",
        data_vars="all",
        coords="minimal",
        compat="override",
        combine_attrs="drop_conflicts",
    )
    return joined.assign_coords(
        {
            name: ("step", np.asarray([of[int(step)] for step in joined["step"]], np.int64))
            for name, of in beside.items()
        }
    )


def _pick(dataset: xr.Dataset, statistic: str) -> xr.DataArray:
    if statistic not in dataset.data_vars:
        known = [str(name) for name in dataset.data_vars]
        raise ConfigError(
            f"unknown statistic {statistic!r}; nearest: {nearest(statistic, known)}."
        )
    return dataset[statistic]
