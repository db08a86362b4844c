"""``run.plot``: the figures of a report, one by one."""

from __future__ import annotations

from distwatch.analysis.figures import (
    RUN_FIGURES,
    curves,
    heatmap,
    heatmap_picture,
    ridgeline,
    ridgeline_picture,
)
from distwatch.analysis.figures.style import Figure, Picture, figure_or_picture
from distwatch.analysis.overview import (
    Overview,
    quantity_named,
    read_distribution,
    read_overview,
)
from distwatch.analysis.pictures import picture
from distwatch.errors import ConfigError, nearest
from distwatch.signals import name_of
from distwatch.store.reader import StoredRun


class Plots:
    """Figures of a run, as plotly draws them.

    ``curves`` and ``ridgeline`` read their own signal only. The others read the whole run,
    once: on a run of a million steps that takes minutes; it is kept for the next figure.

    A notebook that cannot show plotly's figures shows each as a small picture, and where plotly
    is not installed such a `Picture` is all that there is.

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

    def curves(self, signal: str, statistic: str = "size") -> Figure | Picture:
        """One signal over the steps: a curve for each replica, and one for all together.

        A line is the mean over the steps of a bin, and its band reaches from the smallest
        step to the largest; a run of at most a thousand steps is shown step by step. A
        picture is of all replicas together.

        Args:
            signal: its name, or a short one that is unique.
            statistic: "size" (mean absolute change), "l2", "mean", "std", "zeros" (a share),
                "spread" (of the replicas' means) or "ratio" (of updates).

        Raises:
            UnknownSignalError: the run has no such signal.
            ConfigError: it has no such statistic.
        """
        quantity_named(statistic)
        name = name_of(signal, self._stored.info.names, self._stored.path)
        read = self._whole or read_overview(self._stored, signals=[name])
        history = read.history(name, statistic)
        return figure_or_picture(lambda: curves(history), lambda: picture(history))

    def heatmap(self, statistic: str = "size", replica: int | None = None) -> Figure | Picture:
        """All signals over all steps, each relative to its own median.

        Args:
            statistic: see `curves`; "mean" can be negative and is not among them.
            replica: the number of one; None for all of them together.

        Raises:
            ConfigError: there is no such statistic or replica.
        """
        quantity_named(statistic)
        asked = self._overview(), statistic, replica
        return figure_or_picture(lambda: heatmap(*asked), lambda: heatmap_picture(*asked))

    def divergence(self) -> Figure | Picture:
        """In which signals the replicas differ most, and which replica."""
        return self.figure("divergence")

    def ridgeline(self, signal: str) -> Figure | Picture:
        """How the distribution of a signal moves over the run.

        Args:
            signal: one that was watched with ``distwatch.histogram()``.

        Raises:
            UnknownSignalError: the run has no such signal.
            ConfigError: it was watched without a histogram.
        """
        name = name_of(signal, self._stored.info.names, self._stored.path)
        read = read_distribution(self._stored, name)
        return figure_or_picture(lambda: ridgeline(read), lambda: ridgeline_picture(read))

    def update_ratios(self) -> Figure | Picture:
        """The update-to-weight ratios of what was watched with ``distwatch.updates()``.

        Raises:
            ConfigError: no updates were watched.
        """
        return self.figure("update-ratios")

    def figure(self, name: str) -> Figure | Picture:
        """A figure of the whole run, by the name that reports give it.

        Args:
            name: "divergence" or "update-ratios".

        Raises:
            ConfigError: there is no such figure, or the run does not have what it shows.
        """
        known = {each.name: each for each in RUN_FIGURES}
        if name not in known:
            raise ConfigError(f"unknown figure {name!r}; nearest: {nearest(name, [*known])}.")
        chosen, overview = known[name], self._overview()
        return figure_or_picture(
            lambda: chosen.draw(overview), lambda: chosen.picture(overview)
        )

    def _overview(self) -> Overview:
        if self._whole is None:
            self._whole = read_overview(self._stored)
        return self._whole
