"""Runs whose deltas a test chooses: spikes, NaN, gaps, histograms, ratios."""

import numpy as np

from distwatch.records import Block, RunInfo, Table
from distwatch.signals import Signal
from distwatch.statistics import LogHistogram, Observation, Ratio, merge_axis
from distwatch.statistics.row import with_row
from distwatch.store import StoreWriter, claim, now
from distwatch.store.schema import root_attributes

#: Names that would do harm where they were taken for more than names.
HOSTILE = (
    "activation/<script>document.title='owned'</script>",
    "activation/</script><img src=x onerror=\"document.title='owned'\">",
    "activation/<!--<script>",
    "activation/<b>bold</b>",
    "activation/<b>bold</b><a href='https://example.invalid/'>go</a>",
    "activation/%{customdata}$x^2$&amp;\u2028{{ 7 * 7 }}'\"",
    "activation/" + "deep/" * 60 + "end",
)


def ordinary(steps, replicas, signals, seed=0):
    """Deltas of shape (step, replica, signal, 6), other ones on each replica."""
    random = np.random.default_rng(seed)
    centre = 1.0 + np.arange(replicas)[:, None, None] + 10.0 * np.arange(signals)[:, None]
    return centre + random.normal(0.0, 0.3, (steps, replicas, signals, 6))


def made_run(
    path, deltas, *, names=None, step=None, histogram=False, ratio=False, reference="previous"
):
    """Write a run of these deltas: shape (step, replica, signal, element)."""
    steps, replicas, signals = deltas.shape[:3]
    names = names or [f"activation/layer_{i}" for i in range(signals)]
    further = ([LogHistogram(accuracy=0.02)] if histogram else []) + (
        [Ratio()] if ratio else []
    )
    table = Table(
        "table-00",
        tuple(Signal(name, reference) for name in names),
        "every(1)",
        16,
        with_row(tuple(further)),
    )
    info = RunInfo((table,), tuple(range(replicas)), "made up", {"distwatch": "0"})
    claim(path, root_attributes(info, now()))
    writer = StoreWriter(path, info)
    step = np.arange(steps) if step is None else np.asarray(step)
    for start in range(0, steps, table.window):
        some = slice(start, start + table.window)
        writer.append(_block(table, step[some], deltas[some]))
    writer.close()
    return path


def _block(table, step, deltas):
    statistic = table.statistic
    rows = np.empty((*deltas.shape[:3], len(statistic.fields)))
    for at in np.ndindex(*deltas.shape[:3]):
        values = deltas[at]
        seen = Observation(values, values, companion=np.full_like(values, 500.0))
        rows[at] = statistic.pack(statistic.observe(seen))
    merged = merge_axis(statistic, rows, axis=1)
    return Block(table.name, step, step // 10, step + 1, rows, merged)
