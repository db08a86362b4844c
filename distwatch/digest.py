"""A run in a few plain sentences, made the same way live and afterwards.

A `Digest` takes blocks as they come and keeps only what the sentences need, so
a Watch can speak at the end of training without reading its store again, and
`Run.summary` says the same from the store.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distwatch.records import Block, RunInfo
from distwatch.statistics import ROW, merge_axis


class Digest:
    """What a run's rows add up to, over all their steps."""

    def __init__(self, info: RunInfo) -> None:
        self.info = info
        self.steps = 0
        self.lost = 0
        shape = (len(info.replicas), len(info.signals), len(info.fields))
        #: States over all steps: per replica, shape (replica, signal, field).
        self.totals = merge_axis(ROW, np.zeros((0, *shape)), axis=0)
        #: Sum of the replicas' spreads over the steps that have one, and their number.
        self._spreads = np.zeros((2, len(info.signals)))
        self._largest: tuple[float, int, int] | None = None
        self._broken: tuple[int, int, int] | None = None

    def observe(self, block: Block) -> None:
        """Take the next block."""
        if len(block):
            together = np.concatenate([self.totals[None], block.rows])
            self.totals = merge_axis(ROW, together, axis=0)
            self._add_spreads(block)
            self._find_largest(block)
            self._find_broken(block)
        self.steps += len(block)
        self.lost += block.lost

    def replica_spread(self) -> Any:
        """How far the replicas' means lie apart within a step, on average: (signal,).

        Not of the whole run's means: changes from batch to batch cancel in those.
        """
        total, steps = self._spreads
        return np.where(steps > 0, total / np.maximum(steps, 1), np.nan)

    def sentences(self) -> list[str]:
        """Say what stands out: what changed most, which replica, what went wrong."""
        if not self.steps:
            return ["No step was recorded.", self._numbers(), self._lost()]
        return [self._change(), self._replicas(), f"{self._numbers()} {self._lost()}"]

    def _add_spreads(self, block: Block) -> None:
        apart = spread(ROW.compute(ROW.unpack(block.rows))["mean"], axis=1)
        self._spreads += [np.nansum(apart, axis=0), (~np.isnan(apart)).sum(axis=0)]

    def _find_largest(self, block: Block) -> None:
        l1, n = (block.merged[..., self.info.fields.index(name)] for name in ("l1", "n"))
        change = np.where(n > 0, l1 / np.maximum(n, 1), np.nan)
        if np.isnan(change).all():
            return
        step, signal = np.unravel_index(np.nanargmax(change), change.shape)
        value = float(change[step, signal])
        if self._largest is None or value > self._largest[0]:
            self._largest = (value, int(block.step[step]), int(signal))

    def _find_broken(self, block: Block) -> None:
        if self._broken is not None:
            return
        nans, infs = (block.rows[..., self.info.fields.index(n)] for n in ("nans", "infs"))
        found = np.argwhere(nans + infs > 0)
        if len(found):
            step, replica, signal = (int(i) for i in found[0])
            self._broken = (int(block.step[step]), replica, signal)

    def _change(self) -> str:
        if self._largest is None:
            return f"{self._extent()}: no two batches could be compared."
        value, step, signal = self._largest
        watched = self.info.signals[signal]
        what = "value" if watched.reference == "none" else "change"
        return (
            f"{self._extent()}: the largest mean absolute {what} is {value:.4g}, "
            f"in {watched.name} at step {step}."
        )

    def _extent(self) -> str:
        steps, signals = self.steps, len(self.info.signals)
        return (
            f"{steps} step{'s' * (steps != 1)}, {signals} signal{'s' * (signals != 1)} "
            f"on {len(self.info.replicas)} replica{'s' * (len(self.info.replicas) != 1)}"
        )

    def _replicas(self) -> str:
        if len(self.info.replicas) < 2:
            return "One replica, so there is none to compare it with."
        apart = self.replica_spread()
        std = ROW.compute(ROW.unpack(self.totals))["std"]
        if np.isnan(apart).all() or np.isnan(std).all():
            return "The replicas cannot be compared: there is no step that two of them have."
        # Signals are of different scales, so each is measured in its own widths.
        widest = np.maximum(np.nanmax(np.nan_to_num(std), axis=0), np.finfo(float).tiny)
        signal = int(np.nanargmax(apart / widest))
        replica = int(np.nanargmax(std[:, signal]))
        return (
            f"The replicas' means lie furthest apart in {self.info.names[signal]} (by "
            f"{apart[signal]:.4g} in a step); replica {self.info.replicas[replica]} "
            f"spreads most there (std {std[replica, signal]:.4g})."
        )

    def _numbers(self) -> str:
        if self._broken is None:
            return "No NaN and no Inf."
        step, replica, signal = self._broken
        return (
            f"NaN or Inf first at step {step} on replica {self.info.replicas[replica]}, "
            f"in {self.info.names[signal]}."
        )

    def _lost(self) -> str:
        if not self.lost:
            return "No row was lost."
        return f"{self.lost} step{'s' * (self.lost != 1)} lost: see the gaps in `step`."


def spread(means: Any, axis: int) -> Any:
    """Largest minus smallest mean over an axis, without NaN; NaN where all are."""
    known = ~np.isnan(means)
    high = np.max(means, axis=axis, where=known, initial=-np.inf)
    low = np.min(means, axis=axis, where=known, initial=np.inf)
    return np.where(known.any(axis=axis), high - low, np.nan)
