"""A run, opened for analysis."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, KeysView
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from distwatch.analysis.copies import dataset_of_copies
from distwatch.analysis.datasets import Chunks, dataset_of_run
from distwatch.analysis.detail import bucket_counts, find, quantiles, raw_tensor
from distwatch.analysis.divergence import divergence_of
from distwatch.analysis.epochs import dataset_of_epochs
from distwatch.analysis.frames import frame_of
from distwatch.analysis.kept_findings import differing, keep, kept, read
from distwatch.analysis.notebook import as_html, digest_of_end, part_as_html
from distwatch.analysis.parts import refuse_part, resample, resampled, select, steps_before
from distwatch.analysis.plots import Plots
from distwatch.analysis.signal_view import SignalView
from distwatch.analysis.store_findings import kept_of, unseen
from distwatch.errors import ConfigError, DamagedStoreError, UnknownSignalError
from distwatch.findings import Digest, Finding, ordered, sentences
from distwatch.records import TRAIN, KeptBatch, RunInfo
from distwatch.store.addresses import Address
from distwatch.store.reader import StoredRun
from distwatch.store.tables import Damage
from distwatch.text import counted, printable

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

#: How many signals `repr` names.
_NAMED = 4


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

    ``run["activation/hidden"]`` is a signal, as a `SignalView`. Wherever a signal is named, the
    last parts of its name will do if no other ends like that: ``run["hidden"]``. A whole name
    always means itself. ``name in run`` says whether ``run[name]`` exists; iterating gives the
    names of the signals, as ``run.keys()`` and ``run.signals`` do. ``len(run)`` is the number
    of steps.

    A run holds no file open; ``with distwatch.open_run(...) as run:`` is there for symmetry.

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
        """What the model was doing: "train", "test", ..., or a validation set's name."""
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

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing is open between two reads, so there is nothing to close."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.signals)

    def __contains__(self, signal: object) -> bool:
        try:
            return isinstance(signal, str) and find(self._store, signal) is not None
        except UnknownSignalError:
            return False

    def keys(self) -> KeysView[str]:
        """The names of the signals, as a view: ``dict(run)`` has each signal by its name."""
        return dict.fromkeys(self.signals).keys()

    def _ipython_key_completions_(self) -> list[str]:
        return self.signals

    def __repr__(self) -> str:
        steps, replicas = counted(len(self), "step"), counted(len(self.replicas), "replica")
        phase = "" if self.phase == TRAIN else f"phase {self.phase!r}, "
        signals = counted(len(self.signals), "signal")
        named = ", ".join(map(printable, self.signals[:_NAMED]))
        more = ", ..." if len(self.signals) > _NAMED else ""
        return (
            f"<distwatch.Run {str(self.path)!r}{''.join(f'.{each}' for each in self.part)}: "
            f"{phase}{steps}, {replicas}, {signals}{': ' * bool(named)}{named}{more}>"
        )

    def _repr_html_(self) -> str:
        """What Jupyter shows: the summary, of the last steps only if there are many."""
        if self.part:
            return part_as_html(self._store)
        if (known := kept(self._store)) is not None:
            return as_html(self._store, self._with_what_is_known(known), None)
        digest, rows = digest_of_end(self._store)
        return as_html(self._store, self.findings(digest), rows)

    @functools.cached_property
    def plot(self) -> Plots:
        """Figures: ``run.plot.curves("loss")``; see `Plots`. They need plotly."""
        return Plots(self._store)

    def refresh(self) -> Run:
        """Reopen the run, to see what was committed since; returns itself.

        A run that is being written can be opened and refreshed at any time.
        """
        self._store = self._store.reopened()
        vars(self).pop("plot", None)
        return self

    @property
    def part(self) -> list[str]:
        """The calls that made this part of a run, such as ``sel(epoch=3)``; none of a whole."""
        return [view.text for view in self._store.views]

    def sel(self, *, step: Any = None, epoch: Any = None) -> Run:
        """Some steps of the run, as a run: of each signal, those that were recorded.

        >>> run.sel(step=slice(100, 200))     # doctest: +SKIP
        >>> run.sel(epoch=3)                  # doctest: +SKIP

        All of it works on the part, but what is known of whole runs only: `findings`,
        `summary`, `digest` and `distwatch.diff` refuse it; ``lost``, ``thinned``, ``changes``,
        ``segments``, ``ended`` and `verify` are about the whole run.

        Args:
            step: a number, several, or a slice. As in xarray, both ends of a slice belong to
                it; ``slice(100, 200, 10)`` is every tenth number from 100 on.
            epoch: the same of epochs. Where both are given, steps have to meet both.

        Raises:
            ConfigError: neither is given, one is none of these, or a number that is given by
                itself is not in the run. A slice may be empty.
        """
        wanted = {"step": step, "epoch": epoch}
        return Run(self._store.reading(lambda: select(self._store, wanted)))

    def resample(self, *, steps: int) -> Run:
        """The run with each ``steps`` steps merged into one, as a run.

        Merged are the stored states, on each replica and over all of them: count, mean, std,
        extremes and histograms are exactly those of all elements of the steps (up to
        rounding), as if they had been one batch. ``l1``, ``l2`` and counts are sums over
        them, so they grow with the number of steps. A row's ``step`` is a multiple of
        ``steps``, the first number that it stands for, its ``epoch`` that of its first
        recorded step, its ``iteration`` that of its last. Only steps that were recorded are
        in it. What `sel` says of parts holds here, too, and `tensor` and `copies` are refused:
        raw deltas and checksums are of single steps.

        Raises:
            ConfigError: it is not a whole number from 1 on, or was resampled already.
        """
        return Run(self._store.reading(lambda: resample(self._store, steps)))

    def to_dataframe(self, *, merged: bool = False) -> pd.DataFrame:
        """The whole run as a table: a row for each (step, replica, signal).

        The columns are ``epoch``, ``iteration`` and the variables of `to_xarray`. Where a
        signal was not recorded at a step, or a replica has no row, there is no row. All of it
        is read into memory: of a long run take a part, or `to_xarray` with ``chunks``.

        Args:
            merged: over replicas: a row for each (step, signal).
        """
        return frame_of(self.to_xarray(merged=merged))

    def to_xarray(self, *, merged: bool = False, chunks: Chunks | None = None) -> xr.Dataset:
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
                arrays, which read only what is needed, when they are computed. As in xarray,
                ``{"step": 256}`` says the same, and -1 there is one chunk of all steps.

        Raises:
            ConfigError: dask is not installed, or ``chunks`` is none of these.
        """
        return self._store.reading(
            lambda: dataset_of_run(self._store, merged=merged, chunks=chunks)
        )

    def copies(self) -> xr.Dataset:
        """Checksums of the replicas' copies of variables, and how far apart copies were.

        Dims are (step, replica, variable), of the steps that `distwatch.desync` looked at.
        ``checksum`` is of the bits, equal on all replicas of a healthy step. The others are
        NaN but for copies that were off when a difference was new, at the last step before
        they were compared: ``differing``, the number of elements that differ from the copy
        of most replicas (of two, from that of the first), and ``largest``, the largest
        absolute difference between finite ones. Without any checksums it is empty.

        Raises:
            ConfigError: the run was resampled, and a checksum is of one step.
        """
        return self._checksums("variable", of_canary=False)

    def canary(self) -> xr.Dataset:
        """Checksums of what the replicas computed of one batch; see `distwatch.canary`.

        As `copies`, of dims (step, replica, computed): ``output``, and the gradient of each
        weight by the weight's path. Where no replica computes the same bits twice, those that
        are as near to the others as to themselves have the first one's checksum.

        Raises:
            ConfigError: the run was resampled, and a checksum is of one step.
        """
        return self._checksums("computed", of_canary=True)

    def _checksums(self, dim: str, *, of_canary: bool) -> xr.Dataset:
        if resampled(self._store):
            raise ConfigError("a checksum is of one step; read them before resample.")
        return self._store.reading(
            lambda: dataset_of_copies(self._store, dim, of_canary=of_canary)
        )

    def __getitem__(self, signal: str) -> SignalView:
        """One signal, by its name or a short one that is unique.

        Raises:
            UnknownSignalError: the run has no such signal; the nearest are named.
        """
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

        The extent first, then warnings, then notes. They are kept beside the rows, if the
        run is closed and yours, so that the rows are read only once. Each is a `Finding` with
        a stable ``kind``, a ``severity`` ("warning" or "note"), a ``text``, and, where there is
        one, a ``signal`` (with ``others`` of which the same is true), ``step`` and
        ``replica``.

        Args:
            digest: that of the run, where its blocks were read already.
            rules: further rules: plain functions, as in `Digest.findings`.

        Raises:
            ConfigError: this is a part of a run.
        """
        refuse_part(self._store, "findings are")
        rules = tuple(rules)
        known = None if digest or rules else kept(self._store)
        return self._with_what_is_known(self._found(digest, rules) if known is None else known)

    def _with_what_is_known(self, found: list[Finding]) -> list[Finding]:
        """What the rows say, and what the store says besides."""
        unknown = unseen(self._store)
        if unknown:
            # What was not read may hold anything.
            found = [each for each in found if each.kind != "sound"]
        return ordered([*found, *unknown, *kept_of(self._store)])

    def _found(self, digest: Digest | None, rules: tuple[Any, ...]) -> list[Finding]:
        """What the rows say."""
        digest = digest or self.digest()
        found = digest.findings(lost=self.lost, ended=self.ended, rules=rules)
        if not rules:
            keep(self._store, digest, found)
        return found

    def epochs(self) -> xr.Dataset:
        """What the epochs of ``fit`` came to, as Keras logged it at the end of each.

        Dims are (epoch, metric): ``value`` is "loss" and the other metrics, "val_loss" and so
        on, and "hard_loss" of a validation set with a name (see ``Watch.validate``), NaN
        where an epoch ended without; ``learning_rate``, of dims (epoch,),
        is the optimizer's at the end, also with a schedule. The coordinate ``step`` is how
        many steps of training were done then, so that the last step of the epoch is
        one less. Empty in older runs, and of loops written by hand.
        """
        return dataset_of_epochs(self._store.epochs)

    def before(self, step: int, steps: int = 50) -> Run:
        """The recorded steps just before one, such as the first with NaN, as a run.

        >>> run.before(finding.first_step)     # doctest: +SKIP

        Args:
            step: which one; it is not among them.
            steps: how many at most. Where the schedule left steps out, or steps were lost,
                these are the last that were recorded: each signal has its own of them.

        Raises:
            ConfigError: none was recorded before it, or ``steps`` is less than 1.
        """
        return Run(self._store.reading(lambda: steps_before(self._store, step, steps)))

    def kept_batches(self) -> list[KeptBatch]:
        """The batches in which NaN or Inf were seen first, of a ``Watch(keep_batch=True)``.

        Each is a `KeptBatch` with ``replica``, ``step``, ``parts`` (name -> array, of shape
        (row, ...): "x", "y", ...) and ``left_out``, which says why something is missing. There
        is one for each replica on which NaN or Inf were seen, the earliest step first: that
        is where they began, and later ones may be consequences. Empty where nothing was kept.

        Raises:
            DamagedStoreError: a file of one cannot be understood.
        """
        return self._store.kept_batches

    def divergence(self) -> xr.Dataset:
        """How far the replicas lie apart in each signal, since when, and by what.

        Dims are (signal, replica). Signals of which replicas hold copies are left out.

        - ``between``: the variance of the replicas' means within a step, mean over steps;
          ``within``: that of the elements of a replica. Dims (signal,).
        - ``score``: the modified z-score of a replica's mean among those of all, by the median
          absolute deviation (B. Iglewicz & D. C. Hoaglin, 1993): above 3.5 it is an outlier.
          NaN of fewer than three replicas; of three or four it varies much by chance.
        - ``left``: the step from which on a replica's mean or spread lies apart from the
          others', by a quarter of the standard deviation or a factor of 1.2; the first step if
          it always did; NaN if it never does, or if there are fewer than 32 steps. The change
          point is that of the cumulative sum of deviations (E. S. Page, 1954). What is one
          number, as the loss is, is measured by how it varies from step to step.
        - ``offset``: by how many standard deviations its mean is off from there on.
        - ``cause``, of dims (replica,): "weights" if `distwatch.desync` found its copies
          different, "computing" if `distwatch.canary` did what it computes, "data" if
          it is given other data, "unknown" if it lies apart otherwise, and "" if it does not.

        Of two replicas both are apart from each other; which is odd cannot be known.

        Raises:
            ConfigError: this is a part of a run.
        """
        digest = self.digest()
        return self._store.reading(lambda: divergence_of(self._store, digest))

    def verify(self) -> list[Damage]:
        """Read every chunk of every phase, and list those that are damaged.

        Each `Damage` names the array, the rows and the file; everything else can be read.
        """
        return [damage for _, damage in self._store.verify() if damage is not None]

    def verify_findings(self) -> list[str]:
        """Where the findings that are kept beside the rows differ from what the rows say.

        All rows of this phase are read for it, unless nothing is kept, or what is kept stands
        for other rows and so is not used: then there is nothing to compare.

        Returns:
            Sentences; none if what is kept is true.

        Raises:
            ConfigError: this is a part of a run.
        """
        refuse_part(self._store, "findings are")
        try:
            said = read(self._store)
        except DamagedStoreError as error:
            return [f"{error} It is not used."]
        if said is None:
            return []
        found = self.digest().findings(lost=self.lost, ended=self.ended)
        return differing(said, found)

    def digest(self) -> Digest:
        """The whole run, merged over its steps: what findings are derived from.

        Raises:
            ConfigError: this is a part of a run.
        """
        refuse_part(self._store, "a digest is")

        def read() -> Digest:
            digest = Digest(self.info, self._store.epochs)
            for block in self._store.blocks():
                digest.observe(block)
            return digest

        return self._store.reading(read)
