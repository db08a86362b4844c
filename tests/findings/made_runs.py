"""Made-up rows of whole runs, healthy ones and others with a planted fault."""

import numpy as np

from distwatch.records import Block, RunInfo, Table
from distwatch.signals import Signal
from distwatch.statistics import (
    Checksum,
    Ratio,
    SignalCounts,
    Units,
    merge_axis,
    with_row,
)


def rows_of(values):
    """The usual fields of the elements: (step, replica, element, signal) -> (..., field)."""
    finite = np.isfinite(values)
    n = finite.sum(axis=2).astype(float)
    some = np.where(finite, values, 0.0)
    mean = some.sum(axis=2) / np.maximum(n, 1)
    m2 = np.where(finite, (some - mean[:, :, None]) ** 2, 0.0).sum(axis=2)
    parts = (
        np.full(n.shape, float(values.shape[2])),
        (values == 0).sum(axis=2),
        np.isnan(values).sum(axis=2),
        np.isinf(values).sum(axis=2),
        n,
        mean,
        m2,
        np.where(finite, values, np.inf).min(axis=2),
        np.where(finite, values, -np.inf).max(axis=2),
        np.abs(some).sum(axis=2),
        (some**2).sum(axis=2),
    )
    return np.stack(np.broadcast_arrays(*parts), axis=-1).astype(float)


def table_of(
    number,
    values,
    signals,
    *,
    companion=None,
    checksum=None,
    units=None,
    special=None,
    known=None,
    iteration=None,
    every=1,
    epoch=100,
):
    """A table and the one block of all its rows.

    Args:
        values: the deltas: (step, replica, element, signal).
        signals: name -> reference.
        beside: the norms of the weights that are updated: (step, signal).
        checksum: of the batches: (step, replica).
        units: the fields of `Units`: (step, replica, signal, 3).
        special: NaN and Inf of the signals themselves: (step, replica, signal).
        known: name -> what else is known of a signal.
        iteration: the optimizer's count, as each step left it: (step,).
        epoch: steps of an epoch.
    """
    rows, further = rows_of(values), ()
    if companion is not None:
        further = (Ratio(),)
        weight = np.broadcast_to(companion[:, None] ** 2, rows.shape[:3])
        rows = np.concatenate([rows, rows[..., -1:], weight[..., None]], axis=-1)
    if checksum is not None:
        further = (Checksum(),)
        sums = np.broadcast_to(checksum[:, :, None, None], (*rows.shape[:3], 1))
        rows = np.concatenate([rows, sums.astype(float)], axis=-1)
    shape = (*rows.shape[:3], -1)
    if units is not None:
        further = (Units(),)
        rows = np.concatenate([rows, np.reshape(units, shape)], axis=-1)
    if special is not None:
        further = (SignalCounts(),)
        nans = np.reshape(special, shape)
        rows = np.concatenate([rows, nans, 0 * nans], axis=-1)
    statistic = with_row(further)
    known = known or {}
    made = tuple(Signal(name, how, **known.get(name, {})) for name, how in signals.items())
    table = Table(f"table-{number:02d}", made, f"every({every})", 32, statistic)
    step = np.arange(len(values)) * every
    merged = merge_axis(statistic, rows, axis=1)
    iteration = step + 1 if iteration is None else iteration
    return table, Block(table.name, step, step // epoch, iteration, rows, merged)


def run_of(*tables, **known):
    """What is known of a run of these tables, and its blocks."""
    replicas = tables[0][1].rows.shape[1]
    info = RunInfo(tuple(t for t, _ in tables), tuple(range(replicas)), "made up", {}, **known)
    return info, [block for _, block in tables]


def cut(block, size):
    """The same rows in blocks of another size."""
    return [block[start : start + size] for start in range(0, len(block), size)]


ACTIVATIONS = {"activation/hidden": "previous", "activation/output": "previous"}
GRADIENTS = {"gradient_local/hidden": "none", "gradient_local/output": "none"}
UPDATES = {"update/hidden/kernel": "none", "update/hidden/bias": "none"}


def healthy(seed=0, *, steps=120, replicas=4, plant=None):
    """A run with nothing wrong: a ReLU layer, a drifting one, heavy-tailed gradients that
    fall, a bias that began at zero, inputs whose mean is far from zero.

    Args:
        plant: changes the arrays ``inputs``, ``activations``, ``gradients``, ``updates``
            (step, replica, element, signal), ``weights`` (step, signal) and ``checksum``
            (step, replica) in their places.
    """
    rng = np.random.default_rng(seed)
    shape, drift = (steps, replicas, 24), np.linspace(2, 3, steps)[:, None, None]
    hidden = np.maximum(rng.normal(0.2, 1.0, shape), 0)
    output = rng.normal(drift, 0.3, shape)
    values = np.stack([hidden, output], axis=-1)
    falling = (0.02 + np.exp(-np.arange(steps) / 5))[:, None, None, None]
    kernel = rng.normal(0, 1e-3, (steps, 1, 24))
    bias = rng.normal(0, 1e-3, (steps, 1, 24))
    grown = np.linalg.norm(np.cumsum(bias[:, 0], axis=0), axis=-1)
    made = {
        "inputs": rng.normal(50.0, 4.0, (*shape, 1)),
        "activations": np.diff(values, axis=0, prepend=values[:1] * np.nan),
        "gradients": rng.laplace(0, 1, (*shape, 2)) * falling,
        "updates": np.stack([kernel, bias], axis=-1).repeat(replicas, axis=1),
        "weights": np.stack([np.full(steps, 5.0), np.append(0.0, grown[:-1])], axis=-1),
        "checksum": rng.integers(1, 2**40, (steps, replicas)),
    }
    if plant is not None:
        plant(made)
    activations = made["activations"]
    return run_of(
        table_of(0, activations[1:], ACTIVATIONS),
        table_of(1, made["inputs"], {"input": "none"}, checksum=made["checksum"]),
        table_of(2, made["gradients"], GRADIENTS),
        table_of(3, made["updates"], UPDATES, companion=made["weights"]),
    )
