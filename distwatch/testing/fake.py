"""Made-up runs for tests of reading: exact, and written without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import distwatch
from distwatch.records import Block, RunInfo, Table
from distwatch.signals import Signal
from distwatch.statistics import ROW, merge_axis, observe
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
        writer.append(_block(run, range(start, min(start + window, steps))))
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


def _block(run: FakeRun, steps: range) -> Block:
    shape = (len(steps), len(run.info.replicas), len(run.info.signals))
    rows = np.empty((*shape, len(ROW.fields)))
    for i, replica, signal in np.ndindex(*shape):
        state = observe(ROW, run.deltas[steps[i], replica, signal])
        rows[i, replica, signal] = ROW.pack(state)
    step = np.asarray(steps, np.int64)
    return Block(
        table=run.info.tables[0].name,
        step=step,
        epoch=step // 10,
        iteration=step + 1,
        rows=rows,
        merged=merge_axis(ROW, rows, axis=1),
    )
