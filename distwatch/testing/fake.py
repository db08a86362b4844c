"""Made-up runs for tests of reading: exact, and written without TensorFlow.

``fake_run`` writes a run whose every number is known. Where the values, names, statistics
or workers matter, ``fake_block`` makes a block of chosen values, and ``write_fake`` writes
blocks as a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import distwatch
from distwatch.records import Block, RunInfo, Table
from distwatch.signals import Signal
from distwatch.statistics import Observation, merge_axis
from distwatch.store import StoreWriter, claim, now
from distwatch.store.addresses import Address, address_of
from distwatch.store.schema import root_attributes

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FakeRun:
    """A made-up run: where it lies, and the deltas that its rows are the states of."""

    path: Address
    info: RunInfo
    #: One array of any size, also 0, for each (step, replica, position of a signal).
    deltas: dict[tuple[int, int, int], Floats]

    def whole(self, step: int, signal: int) -> Floats:
        """The deltas of all replicas together: the oracle of what is merged."""
        parts = [self.deltas[step, replica, signal] for replica in self.info.replicas]
        return np.concatenate(parts)


def fake_run(
    path: str | Path,
    *,
    steps: int = 20,
    replicas: int = 2,
    signals: Sequence[str] = ("activation/dense", "activation/dense_1"),
    seed: int = 0,
    window: int = 8,
    lost: int = 0,
) -> FakeRun:
    """Write a run whose every number is known.

    Replicas see unequal shards with different means, far from zero beside their
    spread, and the last of several replicas sees none at every fifth step, so that
    a wrong merge or a mixed-up axis shows. An epoch has ten steps.

    Args:
        path: where to write; see `distwatch.store.claim`.
        steps: how many steps were trained; 0 leaves a run with no rows.
        replicas: how many replicas there were.
        signals: the names of the signals.
        seed: equal seeds make equal numbers.
        window: how many steps a chunk holds.
        lost: how many steps are declared lost.

    Raises:
        RunExistsError: something is at ``path`` already.
    """
    table = Table("table-00", tuple(Signal(name) for name in signals), "every(1)", window)
    info = RunInfo(
        tables=(table,),
        replicas=tuple(range(replicas)),
        strategy=f"made up, {replicas} x CPU",
        versions={"distwatch": distwatch.__version__},
    )
    run = FakeRun(address_of(path), info, _deltas(info, steps, seed))
    claim(run.path, root_attributes(info, now()))
    writer = StoreWriter(run.path, info)
    writer.count_lost({table.name: lost})
    for start in range(0, steps, window):
        some = range(start, min(start + window, steps))
        writer.append(fake_block(info, table, some, lambda *place: run.deltas[place]))
    writer.close()
    return run


def _deltas(info: RunInfo, steps: int, seed: int) -> dict[tuple[int, int, int], Floats]:
    random = np.random.default_rng(seed)
    deltas = {}
    for step in range(steps):
        for replica in info.replicas:
            idle = replica == info.replicas[-1] > 0 and step % 5 == 4
            size = 0 if idle else int(random.integers(1, 12))
            for signal in range(len(info.signals)):
                mean = 100.0 * (replica + 1) - 10.0 * signal - step
                deltas[step, replica, signal] = random.normal(mean, 0.5, size)
    return deltas


def fake_block(
    info: RunInfo,
    table: Table,
    steps: Sequence[int],
    values: Callable[[int, int, int], npt.ArrayLike],
    *,
    companion: Callable[[Floats], Floats] = np.ones_like,
    epoch: int = 10,
) -> Block:
    """Make a block whose rows are the states of chosen values.

    Args:
        info: the run, whose replicas have a row at each step.
        table: the table of the block, with the statistics of its rows.
        steps: the steps of the block, rising.
        values: gives the deltas at a step, on a replica (by its number), of a signal (by
            its position in the table): an array of any size, also 0.
        companion: gives what is measured with these deltas, such as the weights that
            updates changed: an array of the same shape.
        epoch: how many steps an epoch has.

    Returns:
        A block of shapes rows (step, replica, signal, field) and merged (step, signal,
        field); the optimizer's iteration is one more than the step.
    """
    statistic = table.statistic
    shape = (len(steps), len(info.replicas), len(table.signals))
    rows = np.empty((*shape, len(statistic.fields)))
    for i, replica, signal in np.ndindex(*shape):
        given = values(steps[i], info.replicas[replica], signal)
        deltas = np.asarray(given, np.float64)
        seen = Observation(deltas, deltas, companion(deltas))
        rows[i, replica, signal] = statistic.pack(statistic.observe(seen))
    step = np.asarray(steps, np.int64)
    merged = merge_axis(statistic, rows, axis=1)
    return Block(table.name, step, step // epoch, step + 1, rows, merged)


def write_fake(path: str | Path, *parts: tuple[RunInfo, Iterable[Block]]) -> None:
    """Claim a path and write the blocks of each worker or start there, as one closed run.

    Args:
        path: where to write; see `distwatch.store.claim`.
        parts: what each worker or start says of the run, and its blocks in order.

    Raises:
        RunExistsError: something is at ``path`` already.
    """
    claim(path, root_attributes(parts[0][0], now()))
    for info, blocks in parts:
        writer = StoreWriter(path, info)
        for block in blocks:
            writer.append(block)
        writer.close()
