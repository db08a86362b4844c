"""A run, opened for analysis."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import xarray as xr

from distwatch.analysis.copies import dataset_of_copies
from distwatch.analysis.datasets import (
    dataset_of,
    joined,
    lazy_dataset_of,
    no_dataset,
    spread_of,
    statistics_of,
    steps_in_chunk,
)
from distwatch.analysis.detail import bucket_counts, find, quantiles, raw_tensor
from distwatch.analysis.notebook import as_html, digest_of_end
from distwatch.analysis.plots import Plots
from distwatch.analysis.store_findings import kept_of, unseen
from distwatch.errors import ConfigError
from distwatch.findings import Digest, Finding, ordered, sentences
from distwatch.records import RunInfo
from distwatch.store.addresses import Address
from distwatch.store.joining import ReadableTable, aligned
from distwatch.store.reader import StoredRun
from distwatch.store.tables import Damage

Values = TypeVar("Values", xr.Dataset, xr.DataArray)


class SegmentFacts(NamedTuple):
    """What one worker wrote since one start."""

    name: str
    worker: int
    start: int
    #: From this step on it replaces the rows of earlier starts of this worker.
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
    def path(self) -> Address:
        """Where the store is: the path of a folder, or a URL."""
        return self._store.path

    @property
    def info(self) -> RunInfo:
        """The description of the run: tables, signals, replicas, strategy, versions."""
        return self._store.info

    @property
    def signals(self) -> list[str]:
        """The names of the watched signals, e.g. ``activation/dense_1``."""
        return list(self.info.names)

    @property
    def unwatched(self) -> dict[str, str]:
        """What could have been watched, or was asked for, and is not: name -> why.

        A name is the path of a layer (``encoder/dropout``) or of a weight
        (``dense/kernel``), or what was asked for: a kind (``gradients``), or a kind and a
        pattern (``activations: conv*``).
        """
        return dict(self.info.unwatched)

    @property
    def changes(self) -> list[dict[str, Any]]:
        """What was changed while the training ran: see `Watch.set` and ``max_overhead``.

        Each has the first ``step`` that it holds for, the names of its ``signals``, ``what``
        was done ("set", "widened", "narrowed", "measuring", "measured" or "refused"; by a
        rule "stop", "checkpoint", "call", "log_json" or "failed"), ``by`` what ("call",
        "file", "budget" or "rule"), the ``schedule`` from there on, and ``why``. In a
        measurement signals are looked at by turns: it is "measuring" from its first step on,
        and "measured" up to the step before ``until``.
        """
        names = {table.name: table.names for table in self.info.tables}
        return [
            {
                **change.model_dump(exclude={"tables", "phase"}),
                "signals": [name for each in change.tables for name in names.get(each, ())],
            }
            for change in self._store.changes
        ]

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
        """The parts of the run: a segment for each worker and each start."""
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
        """How many steps should have been recorded and were not, summed over tables."""
        return self._store.lost

    @property
    def thinned(self) -> int:
        """How many steps were removed to stay within ``max_bytes``, summed over tables."""
        return self._store.thinned

    @property
    def ended(self) -> str | None:
        """What ended the writing: "closed" or an error; None while it goes on, or if killed."""
        return self._store.ended

    def __len__(self) -> int:
        return self._store.steps

    def __repr__(self) -> str:
        return (
            f"<distwatch.Run {str(self.path)!r}: {len(self)} steps, "
            f"{len(self.replicas)} replicas, {len(self.signals)} signals>"
        )

    def _repr_html_(self) -> str:
        """What Jupyter shows: the summary, of the last steps only if there are many."""
        digest, read = digest_of_end(self._store)
        return as_html(self._store, self.findings(digest), read)

    @functools.cached_property
    def plot(self) -> Plots:
        """Figures: ``run.plot.curves("loss")``; see `Plots`. They need plotly."""
        return Plots(self._store)

    def refresh(self) -> Run:
        """Reopen the run, to see what was committed since; returns itself.

        A run that is being written can be opened and refreshed at any time.
        """
        self._store = StoredRun(self.path, self._store.phase)
        vars(self).pop("plot", None)
        return self

    def to_xarray(self, *, merged: bool = False, chunks: str | int | None = None) -> xr.Dataset:
        """The whole run as a dataset.

        Dims are (step, replica, signal), or (step, signal) if ``merged``; the
        variables are count, mean, std, min, max, l1, l2, zeros, nans and infs of
        each delta, ``signal_nan_count`` and ``signal_inf_count`` of the signal itself
        (unless an older distwatch wrote the run), ``ratio`` and ``checksum`` where there
        are any, and ``spread`` if merged: the largest minus the smallest of the replicas'
        means. ``epoch`` and ``iteration`` are coordinates along ``step``.

        Signals that were recorded at different steps are joined on ``step``: where a
        signal was not recorded, its values are NaN (and its counts, therefore, floats).
        ``run[signal]`` has each signal's own steps.

        Where a worker stopped before the others, its replicas are NaN, and merged values
        are merged over the others. Steps in damaged chunks are left out, and a
        ``DamagedRowsWarning`` names the chunks; of dask arrays they are NaN.

        Args:
            merged: over replicas.
            chunks: None reads everything now. "auto", or a number of steps, makes dask
                arrays, which read only what is needed, when they are computed.

        Raises:
            ConfigError: dask is not installed, or ``chunks`` is none of these.
        """
        return self._store.reading(lambda: self._dataset(merged, chunks))

    def _dataset(self, merged: bool, chunks: str | int | None) -> xr.Dataset:
        tables = aligned(list(self._store.tables.values()))
        if not tables:
            return no_dataset(self.replicas, merged=merged)
        if chunks is None:
            datasets = [dataset_of(table, merged=merged) for table in tables]
        else:
            steps = steps_in_chunk(tables, chunks)
            datasets = [
                lazy_dataset_of(table, merged=merged, in_chunk=steps) for table in tables
            ]
        for dataset, table in zip(datasets, tables, strict=True):
            dataset.attrs |= {
                "strategy": self.info.strategy,
                "schedule": table.table.schedule,
                "lost_steps": self.lost,
            }
        return datasets[0] if len(datasets) == 1 else joined(datasets)

    def copies(self) -> xr.Dataset:
        """Checksums of the replicas' copies of variables, and how far apart copies were.

        Dims are (step, replica, variable), of the steps that `distwatch.desync` looked at.
        ``checksum`` is of the bits, equal on all replicas of a healthy step. The others are
        NaN but for copies that were off when a difference was new, at the last step before
        they were compared: ``differing``, the number of elements that differ from the copy
        of most replicas (of two, from that of the first), and ``largest``, the largest
        absolute difference between finite ones. Without any checksums it is empty.
        """
        return self._store.reading(lambda: dataset_of_copies(self._store, "desync", "variable"))

    def canary(self) -> xr.Dataset:
        """Checksums of what the replicas computed of one batch; see `distwatch.canary`.

        As `copies`, of dims (step, replica, computed): ``output``, and the gradient of each
        weight by the weight's path. Where no replica computes the same bits twice, those that
        are as near to the others as to themselves have the first one's checksum.
        """
        return self._store.reading(lambda: dataset_of_copies(self._store, "canary", "computed"))

    def __getitem__(self, signal: str) -> SignalView:
        """One signal.

        Raises:
            UnknownSignalError: the run has no such signal; the nearest are named.
        """
        find(self._store, signal)
        return SignalView(self._store, signal)

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
            over, and without quantile for a single q; a float where no dim is left.

        Raises:
            UnknownSignalError: the run has no such signal.
            ConfigError: it was watched without a histogram, or q is no probability.
        """

        def read() -> Any:
            found = find(self._store, signal)
            return quantiles(*found, q, per_step=per_step, per_replica=per_replica)

        return self._store.reading(read)

    def histogram(self, signal: str, *, merged: bool = True) -> xr.DataArray:
        """The bucket counts of a signal that was watched with ``distwatch.histogram()``.

        Dims are (step, bucket), or (step, replica, bucket); the coordinate ``bucket`` is
        the value that a bucket stands for.

        Raises:
            UnknownSignalError: the run has no such signal.
            ConfigError: it was watched without a histogram.
        """
        return self._store.reading(
            lambda: bucket_counts(*find(self._store, signal), merged=merged)
        )

    def tensor(self, signal: str) -> xr.DataArray:
        """The raw deltas of a signal that was watched by ``distwatch.tensors()``.

        Dims are (step, replica, batch, dim_1, ...), with ``reduced`` of size 1 in place
        of replica where they were reduced. Batches with fewer rows are filled with NaN; the
        coordinate ``valid`` says how many rows each has.

        Raises:
            UnknownSignalError: the run has no such signal.
            ConfigError: it was not watched by tensors, or nothing was kept.
        """
        return self._store.reading(lambda: raw_tensor(find(self._store, signal)[0], signal))

    def summary(self) -> str:
        """What stands out in the run, in a few sentences, one a line."""
        return "\n".join(sentences(self.findings()))

    def findings(
        self, digest: Digest | None = None, *, rules: Iterable[Any] = ()
    ) -> list[Finding]:
        """What stands out in the run, for programs; `summary` is made of these.

        The extent first, then warnings, then notes. Each is a `Finding` with a stable
        ``kind``, a ``severity`` ("warning" or "note"), a ``text``, and, where there is
        one, a ``signal`` (with ``others`` of which the same is true), ``step`` and
        ``replica``.

        Args:
            digest: that of the run, where its blocks were read already.
            rules: further rules: plain functions, as in `Digest.findings`.
        """
        digest = digest or self.digest()
        found = digest.findings(lost=self.lost, ended=self.ended, rules=rules)
        unknown = unseen(self._store)
        if unknown:
            # What was not read may hold anything.
            found = [each for each in found if each.kind != "sound"]
        return ordered([*found, *unknown, *kept_of(self._store)])

    def verify(self) -> list[Damage]:
        """Read every chunk of every phase, and list those that are damaged.

        Each `Damage` names the array, the rows and the file; everything else can be read.
        """
        return [damage for _, damage in self._store.verify() if damage is not None]

    def digest(self) -> Digest:
        """The whole run, merged over its steps: what findings are derived from."""

        def read() -> Digest:
            digest = Digest(self.info)
            for block in self._store.blocks():
                digest.observe(block)
            return digest

        return self._store.reading(read)


class SignalView:
    """One signal of a run; values are read when they are asked for, and kept.

    Args:
        run: the run.
        name: the signal's.
    """

    def __init__(self, run: StoredRun, name: str) -> None:
        self.name = name
        self._run = run

    def __repr__(self) -> str:
        stored, _ = find(self._run, self.name)
        return f"<distwatch.SignalView {self.name!r}: {stored.steps} steps>"

    def per_replica(self, statistic: str) -> xr.DataArray:
        """A statistic on each replica: dims (step, replica).

        Raises:
            ConfigError: there is no such statistic.
        """
        return self._pick(self._per_replica, statistic)

    def merged(self, statistic: str) -> xr.DataArray:
        """A statistic over all replicas together, or ``spread``: dims (step,).

        Raises:
            ConfigError: there is no such statistic.
        """
        if statistic == "spread":
            return self._spread
        return self._pick(self._merged, statistic, "spread")

    @functools.cached_property
    def _per_replica(self) -> xr.Dataset:
        return self._read(lambda *where: statistics_of(*where, merged=False))

    @functools.cached_property
    def _merged(self) -> xr.Dataset:
        return self._read(lambda *where: statistics_of(*where, merged=True))

    @functools.cached_property
    def _spread(self) -> xr.DataArray:
        return self._read(spread_of)

    def _read(self, read: Callable[[ReadableTable, slice], Values]) -> Values:
        """Read this one signal from its table."""

        def of_signal() -> Values:
            stored, position = find(self._run, self.name)
            return read(stored, slice(position, position + 1)).isel(signal=0)

        return self._run.reading(of_signal)

    def _pick(self, dataset: xr.Dataset, statistic: str, *further: str) -> xr.DataArray:
        if statistic not in dataset.data_vars:
            known = [*map(str, dataset.data_vars), *further]
            raise ConfigError(
                f"{self.name} has no statistic {statistic!r}; it has {', '.join(known)}."
            )
        return dataset[statistic]


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
