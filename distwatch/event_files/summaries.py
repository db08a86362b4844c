"""Blocks as TensorBoard's summaries: scalars, and histograms from the exact bucket counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from tensorboard.compat.proto import summary_pb2

from distwatch.event_files.options import EventOptions
from distwatch.records import Block, Floats, Table
from distwatch.statistics import ROW, SPREAD, LogHistogram, replica_spread
from distwatch.text import printable


class Summaries:
    """The summaries of one table's rows.

    Args:
        table: whose rows they are.
        chosen: the names of the signals to write.
        options: what of them.
    """

    def __init__(self, table: Table, chosen: set[str], options: EventOptions) -> None:
        self._table = table
        self._options = options
        self._signals = [i for i, name in enumerate(table.names) if name in chosen]
        self._tags = [printable(table.names[i]) for i in self._signals]

    def merged(self, block: Block) -> Iterator[Any]:
        """A summary for each step, of what is merged over the replicas."""
        apart = replica_spread(block.rows[:, :, self._signals])
        return self._of(block.merged[:, self._signals], {SPREAD.name: apart})

    def of_replica(self, block: Block, position: int) -> Iterator[Any]:
        """A summary for each step, of one replica; empty where it has no row."""
        return self._of(block.rows[:, position, self._signals], {})

    def _of(self, states: Floats, derived: dict[str, Floats]) -> Iterator[Any]:
        scalars = self._scalars(states, derived)
        histogram = self._table.statistic.histogram
        for i in range(len(states)):
            summary = summary_pb2.Summary()
            for name, values in scalars:
                for tag, value in zip(self._tags, values[i], strict=True):
                    # Nothing is known: TensorBoard would show a NaN of the training.
                    if not math.isnan(value):
                        summary.value.add(tag=f"{tag}/{name}", simple_value=value)
            if histogram is not None:
                for tag, state in zip(self._tags, states[i], strict=True):
                    if state[_FINITE] > 0:
                        histo = histogram_proto(histogram, state)
                        summary.value.add(tag=f"{tag}/histogram", histo=histo)
            yield summary

    def _scalars(self, states: Floats, derived: dict[str, Floats]) -> list[tuple[str, Any]]:
        found = self._table.read(states[..., : len(self._table.fields)]) | derived
        chosen = [name for name in self._options.statistics if name in found]
        return [(name, found[name].astype(np.float32).tolist()) for name in chosen]


_FINITE = ROW.fields.index("n")
_MEAN, _MIN, _MAX, _SQUARES = (ROW.fields.index(f) for f in ("mean", "min", "max", "l2sq"))


def histogram_proto(histogram: LogHistogram, state: Floats) -> Any:
    """One signal's histogram at a step, over its finite elements.

    ``min``, ``max``, ``num``, ``sum`` and ``sum_squares`` are those of the state; each
    bucket that holds something has its own edges, and what lies empty between two of them
    is one bucket.

    Args:
        histogram: whose buckets they are.
        state: shape (field,), of which bucket counts are the last.
    """
    counts = state[len(state) - len(histogram.fields) :][1:-1]
    places = np.flatnonzero(counts)
    lower, upper = histogram.edges[places], histogram.edges[places + 1]
    # TensorBoard's first bucket has no lower limit, so the first edge of all is none.
    limits = np.union1d(lower[places > 0], upper)
    buckets = np.zeros(len(limits))
    buckets[np.searchsorted(limits, upper)] = counts[places]
    return summary_pb2.HistogramProto(
        min=state[_MIN],
        max=state[_MAX],
        num=state[_FINITE],
        sum=state[_FINITE] * state[_MEAN],
        sum_squares=state[_SQUARES],
        bucket_limit=limits,
        bucket=buckets,
    )
