"""Made-up blocks with histograms and ratios, whose every value is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

import distwatch as dw
from distwatch.records import Block, Origin, RunInfo, Table
from distwatch.signals import Signal
from distwatch.statistics import Ratio, with_row
from distwatch.testing.fake import fake_block, write_fake

#: Values beyond both ends are among those below.
HISTOGRAM = dw.histogram(accuracy=0.05, smallest=0.01, largest=100.0)

ACTIVATIONS = Table(
    "table-00",
    (Signal("activation/dense"), Signal("activation/output", "none")),
    "every(1)",
    window=4,
    statistic=with_row((HISTOGRAM,)),
)
UPDATES = Table(
    "table-01",
    (Signal("update/dense/kernel", "none"),),
    "every(3)",
    window=2,
    statistic=with_row((Ratio(),)),
)


@dataclass(frozen=True)
class MadeUp:
    """A run in memory: blocks, and the values that they are the states of."""

    info: RunInfo
    blocks: list[Block]
    #: (signal, step, replica) -> values.
    values: dict[tuple[str, int, int], np.ndarray] = field(default_factory=dict)

    def whole(self, signal: str, step: int) -> np.ndarray:
        parts = [self.values[signal, step, replica] for replica in self.info.replicas]
        return np.concatenate(parts)


def made_up(
    *,
    steps=range(12),
    replicas=(0, 1, 2),
    tables=(ACTIVATIONS, UPDATES),
    origin=Origin(),  # noqa: B008 - it is frozen
    worker=0,
    workers=1,
    phase="train",
    seed=0,
) -> MadeUp:
    info = RunInfo(
        tables=tables,
        replicas=replicas,
        strategy="made up",
        versions={"distwatch": "0"},
        phase=phase,
        worker=worker,
        workers=workers,
        origin=origin,
    )
    made = MadeUp(info, [])
    for table in tables:
        apart = int(table.schedule[len("every(") : -1])
        due = [step for step in steps if step % apart == 0]
        for start in range(0, len(due), table.window):
            made.blocks.append(_block(made, table, due[start : start + table.window], seed))
    return made


def _block(made: MadeUp, table: Table, steps: list[int], seed: int) -> Block:
    def values(step, replica, signal):
        found = _values(step, replica, signal, seed)
        made.values[table.names[signal], step, replica] = found
        return found

    companion = lambda values: 2.0 * values + 1.0  # noqa: E731
    return fake_block(made.info, table, steps, values, companion=companion, epoch=5)


def _values(step: int, replica: int, signal: int, seed: int) -> np.ndarray:
    """Unlike on each replica: none on the last at every 4th step, NaN and Inf in step 2."""
    if replica == 2 and step % 4 == 3:
        return np.zeros(0)
    random = np.random.default_rng([seed, step, replica, signal])
    values = random.normal(3.0 * (replica + 1) - step / 4, 2.0, 20 + 7 * replica)
    values[:3] = 0.0, 0.001, -250.0
    if step == 2:
        values[3:6] = np.nan, np.inf, -np.inf
    return values


def store(path, *parts: MadeUp):
    """Write what workers and starts made up as one run."""
    write_fake(path, *((part.info, part.blocks) for part in parts))
    return path


def accumulated(folder):
    """A TensorBoard run, as TensorBoard's own reader has it: nothing left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    everything = {"scalars": 0, "histograms": 0, "tensors": 0}
    return EventAccumulator(str(folder), size_guidance=everything).Reload()


def scalars(folder):
    """Tag -> [(step, value), ...]."""
    read = accumulated(folder)
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def histograms(folder):
    """Tag -> [(step, histogram), ...]."""
    read = accumulated(folder)
    return {
        tag: [(event.step, event.histogram_value) for event in read.Histograms(tag)]
        for tag in read.Tags()["histograms"]
    }
