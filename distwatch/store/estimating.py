"""Estimating the size of a run: a few windows of made-up rows are written to memory.

How well rows compress depends on how much of a number is noise, and the noise of statistics
is known: the mean of e normal elements spreads by 1 / sqrt(e), and what TensorFlow sums in
float32 has the digits of float32. So rows of normal deltas, written by the writer itself, take
as many bytes as a training's rows; rows that do not change take less.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from distwatch.records import Block, Floats, RunInfo, Table, Tensors, fitting
from distwatch.signals import Signal
from distwatch.statistics import (
    ROW,
    LogHistogram,
    Ratio,
    Row,
    SignalCounts,
    Units,
    merge_axis,
    observe,
    with_row,
)
from distwatch.store.claims import claim
from distwatch.store.locations import location_of
from distwatch.store.resuming import now
from distwatch.store.schema import root_attributes
from distwatch.store.writer import StoreWriter

#: Elements of a delta of unknown size: their number hardly matters.
ELEMENTS = 1024

#: Signals that are the same on all replicas; checksums of copies are, too.
_MIRRORED = ("weight/", "update/")

#: Windows that are measured beyond the first, which includes the files that are written once.
_WINDOWS = 2


def estimated_bytes(
    info: RunInfo,
    steps: Mapping[str, int],
    *,
    elements: Mapping[tuple[str, int], int] | None = None,
    twins: Mapping[str, str] | None = None,
    batch: int = 32,
) -> int:
    """How many bytes a run will take, within a fifth for deltas that are like noise.

    Args:
        info: what it holds.
        steps: at how many steps each table looks.
        elements: of a signal's delta on a replica, by name and number, where known.
        twins: signal -> an earlier one of the same tensor, which has equal rows.
        batch: rows of a replica's batch, for raw deltas.
    """
    known = _Known(dict(elements or {}), dict(twins or {}), batch)
    return sum(
        _table_bytes(replace(info, tables=(table,)), steps[table.name], known)
        for table in info.tables
    )


def made_up_info(
    signals: int, replicas: int, *, window: int = 256, histogram: bool = False
) -> RunInfo:
    """A run of so many activations of a made-up model."""
    statistic = with_row((LogHistogram(),)) if histogram else ROW
    named = tuple(Signal(f"activation/layer_{i}") for i in range(signals))
    table = fitting(Table("table-00", named, "every(1)", window, statistic))
    return RunInfo((table,), tuple(range(replicas)), f"made up, {replicas} x CPU", {})


def made_up_block(info: RunInfo, number: int, random: np.random.Generator) -> Block:
    """A window of rows of a run of one table, like those of a training with normal deltas."""
    (table,) = info.tables
    return _made_up(info, table, number, _Known({}, {}, batch=32), random)


class _Known(NamedTuple):
    elements: dict[tuple[str, int], int]
    twins: dict[str, str]
    batch: int


def _table_bytes(info: RunInfo, steps: int, known: _Known) -> int:
    (table,) = info.tables
    random = np.random.default_rng(0)
    address = f"memory://{uuid.uuid4().hex}/estimate.zarr"
    claim(address, root_attributes(info, now()))
    location = location_of(address)
    writer = StoreWriter(address, info)
    sizes = []
    for window in range(1 + _WINDOWS):
        writer.append(_made_up(info, table, window, known, random))
        sizes.append(location.size_below())
    location.remove()
    each = (sizes[-1] - sizes[0]) / _WINDOWS
    return round(sizes[0] - each + each * steps / table.window)


def _made_up(
    info: RunInfo,
    table: Table,
    window: int,
    known: _Known,
    random: np.random.Generator,
) -> Block:
    """A window of rows, like those of a training with normal deltas."""
    step = np.arange(window * table.window, (window + 1) * table.window)
    made: dict[str, Floats] = {}
    for name in table.names:
        if name in known.twins:
            made[name] = made[known.twins[name]]
            continue
        if table.of_copies:
            made[name] = _made_up_checksums(table, len(step), len(info.replicas), random)
            continue
        sizes = [known.elements.get((name, replica), ELEMENTS) for replica in info.replicas]
        # Weights change little from step to step; all other signals are like noise.
        noise = _Noise(random, len(step), walks=name.startswith("weight/"))
        each = [_made_up_rows(table.statistic, size, noise) for size in sizes]
        if name.startswith(_MIRRORED):
            each = [each[0]] * len(each)
        made[name] = np.stack(each, axis=1)
    rows = np.stack(list(made.values()), axis=2)
    return Block(
        table=table.name,
        step=step,
        epoch=step // 1000,
        iteration=step + 1,
        rows=rows,
        merged=merge_axis(table.statistic, rows, axis=1),
        tensors=_made_up_tensors(info, table, known.batch, random),
    )


def _made_up_checksums(
    table: Table, steps: int, replicas: int, random: np.random.Generator
) -> Floats:
    """The rows of one variable's copies, which are equal: shape (step, replica, field)."""
    rows = np.tile(table.statistic.pack(table.statistic.empty()), (steps, replicas, 1))
    sums = random.integers(1, 2**40, size=(steps, 1))
    rows[..., table.statistic.fields.index("checksum")] = sums
    return rows


class _Noise(NamedTuple):
    """Numbers that do not depend on those of the step before; or, if it ``walks``, that move
    by a hundredth of their spread in a step."""

    random: np.random.Generator
    steps: int
    walks: bool

    def around(self, about: float, spread: float) -> Floats:
        """Shape (step,)."""
        if not self.walks:
            return self.random.normal(about, spread, self.steps)
        moves = self.random.normal(0, spread / 100, self.steps)
        return self.random.normal(about, spread) + np.cumsum(moves)


def _made_up_rows(statistic: Row, elements: int, noise: _Noise) -> Floats:
    """The rows of one signal on one replica: shape (step, field)."""
    if not elements:
        return np.tile(statistic.pack(statistic.empty()), (noise.steps, 1))
    usual = _usual_columns(elements, noise)
    further = [_further_columns(part, elements, noise, usual) for part in statistic.further]
    return np.concatenate([usual, *further], axis=-1)


def _usual_columns(e: int, noise: _Noise) -> Floats:
    furthest = np.sqrt(2 * np.log(e + 1))
    columns: dict[str, Any] = {
        "count": e,
        "n": e,
        "mean": _single(noise.around(0.0, 1 / np.sqrt(e))),
        "m2": noise.around(e, np.sqrt(2 * e)),
        "min": _single(noise.around(-furthest, 0.3)),
        "max": _single(noise.around(furthest, 0.3)),
        "l1": _single(noise.around(0.8 * e, 0.6 * np.sqrt(e))),
        "l2sq": _single(noise.around(e, np.sqrt(2 * e))),
    }
    each = [np.broadcast_to(columns.get(name, 0.0), noise.steps) for name in ROW.fields]
    return np.stack(each, axis=-1)


def _further_columns(part: Any, elements: int, noise: _Noise, usual: Floats) -> Floats:
    random, steps = noise.random, noise.steps
    if isinstance(part, LogHistogram):
        sample = part.pack(observe(part, random.normal(size=20_000)))
        share = np.asarray(sample) / np.sum(sample)
        return random.multinomial(elements, share, size=steps).astype(np.float64)
    if isinstance(part, Ratio):
        # That of the update, which is also a usual column; and that of the weight.
        weight = _single(noise._replace(walks=True).around(elements, 1.0))
        return np.stack([usual[:, ROW.fields.index("l2sq")], weight], axis=-1)
    if isinstance(part, (SignalCounts, Units)):
        # Of a training with nothing wrong they hardly ever change.
        return np.zeros((steps, len(part.fields)))
    return _single(random.lognormal(size=(steps, len(part.fields))))


def _made_up_tensors(
    info: RunInfo, table: Table, batch: int, random: np.random.Generator
) -> Tensors | None:
    layout = table.tensor
    if layout is None:
        return None
    replicas = 1 if layout.reduce else len(info.replicas)
    shape = (table.window, replicas, batch, *layout.features)
    return Tensors(
        random.normal(size=shape).astype(layout.dtype),
        np.full((table.window, replicas), batch),
    )


def _single(values: Floats) -> Floats:
    """Values rounded to float32."""
    return values.astype(np.float32).astype(np.float64)
