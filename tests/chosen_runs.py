"""Runs whose deltas a test chooses: spikes, NaN, gaps, histograms, ratios."""

import numpy as np

from distwatch.records import RunInfo, Table
from distwatch.signals import Signal
from distwatch.statistics import LogHistogram, Ratio
from distwatch.statistics.row import with_row
from distwatch.testing.fake import fake_block, write_fake

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
    replicas, signals = deltas.shape[1:3]
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
    steps = list(range(len(deltas)) if step is None else step)
    place = {step: i for i, step in enumerate(steps)}

    def block(some):
        return fake_block(
            info,
            table,
            some,
            lambda step, replica, signal: deltas[place[step], replica, signal],
            companion=lambda values: np.full_like(values, 500.0),
        )

    starts = range(0, len(steps), table.window)
    write_fake(path, (info, [block(steps[start : start + table.window]) for start in starts]))
    return path
