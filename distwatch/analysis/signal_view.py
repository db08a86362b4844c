"""One signal of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from distwatch.analysis.datasets import spread_of, statistics_of
from distwatch.analysis.detail import find
from distwatch.analysis.frames import frame_of
from distwatch.analysis.notebook import signal_as_html
from distwatch.analysis.plots import Plots
from distwatch.errors import ConfigError
from distwatch.findings.origins import GIVEN, kind_of
from distwatch.signals import Signal
from distwatch.statistics import SPREAD, finite
from distwatch.store.readable_tables import ReadableTable
from distwatch.store.reader import StoredRun
from distwatch.text import counted

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from distwatch.analysis.figures.style import Figure

    Values = TypeVar("Values", xr.Dataset, xr.DataArray)

#: The mean absolute value of the finite elements: what figures show, too.
_SIZE = "size"


class SignalView:
    """One signal of a run; values are read when they are asked for, and kept.

    ``signal.statistic`` is the statistic that is meant where none is named: "mean" of the
    loss, of inputs and of ``data``; "size", the mean absolute value of the finite elements, of
    all others, whose mean is often near zero.

    Args:
        run: the run.
        name: the signal's, or a short one that is unique; see `distwatch.Run`.

    Raises:
        UnknownSignalError: the run has no such signal; the nearest are named.
    """

    def __init__(self, run: StoredRun, name: str) -> None:
        stored, position = find(run, name)
        self._signal: Signal = stored.table.signals[position]
        self.name = self._signal.name
        self._run = run

    @property
    def reference(self) -> str:
        """What its values are measured against: "previous", ..., or "none"."""
        return self._signal.reference

    @property
    def statistic(self) -> str:
        """The statistic that is meant where none is named."""
        by_mean = (*GIVEN, "data/prediction", "log", "loss")
        return "mean" if kind_of(self.name) in by_mean else _SIZE

    def __repr__(self) -> str:
        return f"<distwatch.SignalView {self.name!r}: {self._described()}>"

    def _described(self) -> str:
        values = self.reference == "none"
        measured = "values" if values else f"change against {self.reference!r}"
        steps = counted(find(self._run, self.name)[0].steps, "step")
        replicas = counted(len(self._run.info.replicas), "replica")
        return f"{measured}, {steps}, {replicas}, {self.statistic} by default"

    def _repr_html_(self) -> str:
        """What Jupyter shows: the description, and a small picture of the last steps."""
        return signal_as_html(self._run, self.name, self.statistic, self._described())

    def plot(self, statistic: str | None = None) -> Figure:
        """Its curves over the steps, as ``run.plot.curves(name, statistic)`` draws them.

        Args:
            statistic: see `distwatch.analysis.plots.Plots.curves`; None for that of the
                signal.

        Raises:
            ConfigError: it has no such statistic.
            SetupError: plotly is not installed.
        """
        return Plots(self._run).curves(self.name, statistic or self.statistic)

    def per_replica(self, statistic: str | None = None) -> xr.DataArray:
        """A statistic on each replica: dims (step, replica); None for that of the signal.

        Raises:
            ConfigError: there is no such statistic.
        """
        return self._pick(self._per_replica, statistic or self.statistic, _SIZE)

    def merged(self, statistic: str | None = None) -> xr.DataArray:
        """A statistic over all replicas together: dims (step,); None for that of the signal.

        That may also be ``spread``, the largest minus the smallest of the replicas' means.

        Raises:
            ConfigError: there is no such statistic.
        """
        if statistic == SPREAD.name:
            return self._spread
        return self._pick(self._merged, statistic or self.statistic, _SIZE, SPREAD.name)

    def to_xarray(self, *, merged: bool = False) -> xr.Dataset:
        """All its statistics at its own steps: dims (step, replica), or (step,) if ``merged``.

        The variables are those of `distwatch.Run.to_xarray`.

        Args:
            merged: over replicas.
        """
        return self._merged.assign(spread=self._spread) if merged else self._per_replica.copy()

    def to_pandas(self, *, merged: bool = False) -> pd.DataFrame:
        """The same as a table: a row for each (step, replica), or for each step if ``merged``.

        The columns are ``epoch``, ``iteration`` and the statistics. A replica that has no row
        at a step has none in the table.

        Args:
            merged: over replicas.
        """
        return frame_of(self.to_xarray(merged=merged).drop_vars("signal"))

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
        if statistic == _SIZE:
            number: xr.DataArray = finite({str(k): v for k, v in dataset.data_vars.items()})
            size: xr.DataArray = dataset["l1"] / number.where(number > 0)
            return size.rename(_SIZE)
        if statistic not in dataset.data_vars:
            known = [*map(str, dataset.data_vars), *further]
            raise ConfigError(
                f"{self.name} has no statistic {statistic!r}; it has {', '.join(known)}."
            )
        return dataset[statistic]
