"""``run.plot``: the figures of a report, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distwatch.analysis.figures import (
    curves,
    divergence,
    heatmap,
    require_plotly,
    ridgeline,
    update_ratios,
)
from distwatch.analysis.overview import Overview, choice_named, read_distribution, read_overview
from distwatch.store.reader import StoredRun

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class Plots:
    """Figures of a run, as plotly draws them.

    ``curves`` and ``ridgeline`` read their own signal only. The others read the whole run,
    once: on a run of a million steps that takes minutes, after which it is kept.

    Args:
        stored: the opened run.
    """

    def __init__(self, stored: StoredRun) -> None:
        self._stored = stored
        self._whole: Overview | None = None

    def __repr__(self) -> str:
        return (
            "<distwatch plots: .curves(signal), .heatmap(), .divergence(), "
            ".ridgeline(signal), .update_ratios()>"
        )

    def curves(self, signal: str, statistic: str = "size") -> Figure:
        """One signal over the steps: a curve for each replica, and one for all together.

        A line is the mean over the steps of a bin, its band reaches from the smallest step
        to the largest; a run of no more than a thousand steps is shown step by step.

        Args:
            signal: its name.
            statistic: "size" (mean absolute change), "l2", "mean", "std", "zeros" (a share),
                "spread" (of the replicas' means) or "ratio" (of updates).

        Raises:
            UnknownSignalError: the run has no such signal.
            ConfigError: it has no such statistic.
            SetupError: plotly is not installed.
        """
        require_plotly()
        choice_named(statistic)
        read = self._whole or read_overview(self._stored, signals=[signal])
        return curves(read.history(signal, statistic))

    def heatmap(self, statistic: str = "size", replica: int | None = None) -> Figure:
        """All signals over all steps, each beside its own median.

        Args:
            statistic: see `curves`; "mean" has a sign and is not among them.
            replica: the number of one; None for all of them together.

        Raises:
            ConfigError: there is no such statistic or replica.
            SetupError: plotly is not installed.
        """
        require_plotly()
        choice_named(statistic)
        return heatmap(self._overview(), statistic, replica)

    def divergence(self) -> Figure:
        """Which signals the replicas differ in most, and which replica stands apart.

        Raises:
            SetupError: plotly is not installed.
        """
        require_plotly()
        return divergence(self._overview())

    def ridgeline(self, signal: str) -> Figure:
        """How the distribution of a signal moves while the run goes on.

        Args:
            signal: one that was watched with ``distwatch.histogram()``.

        Raises:
            UnknownSignalError: the run has no such signal.
            ConfigError: it was watched without a histogram.
            SetupError: plotly is not installed.
        """
        require_plotly()
        return ridgeline(read_distribution(self._stored, signal))

    def update_ratios(self) -> Figure:
        """The update-to-weight ratios of what was watched with ``distwatch.updates()``.

        Raises:
            ConfigError: no updates were watched.
            SetupError: plotly is not installed.
        """
        require_plotly()
        return update_ratios(self._overview())

    def _overview(self) -> Overview:
        if self._whole is None:
            self._whole = read_overview(self._stored)
        return self._whole
