"""Rows merged across devices equal the host's merge and NumPy on the whole."""

import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf
from trainings import strategy_over

from distwatch.statistics import (
    ROW,
    Counts,
    Extrema,
    Moments,
    Norms,
    Product,
    merge_axis,
    observe,
)
from distwatch.statistics.usual import MomentsState
from distwatch.training.strategies import row_merger


def shards_of(replicas, seed=0, mean=1e4):
    """Unequal shards, one of them empty, each with a mean of its own far from zero."""
    rng = np.random.default_rng(seed)
    sizes = [30, 7, 1, 0, 12, 3, 55, 2][:replicas]
    sizes[-1] = 0
    return [rng.normal(mean + 3 * i, 1.0 + i, size) for i, size in enumerate(sizes)]


def packed(statistic, shards):
    return [np.asarray(statistic.pack(observe(statistic, shard))) for shard in shards]


@pytest.mark.fast_cases("2", "4")
@pytest.mark.parametrize("replicas", [2, 4, 8])
def test_devices_host_and_numpy_agree(replicas):
    blocks = [shards_of(replicas, seed) for seed in range(6)]
    # (step, signal, field) on each replica: 3 steps of 2 signals.
    rows = np.array([packed(ROW, shards) for shards in blocks])
    rows = rows.transpose(1, 0, 2).reshape(replicas, 3, 2, -1)

    reduce_replicas = row_merger(strategy_over(replicas))(list(rows))
    host = merge_axis(ROW, rows, axis=0)
    whole = np.array(packed(ROW, [np.concatenate(shards) for shards in blocks]))
    np.testing.assert_allclose(reduce_replicas, host, rtol=1e-12)
    np.testing.assert_allclose(reduce_replicas, whole.reshape(3, 2, -1), rtol=1e-9)


def test_replicas_that_saw_nothing_at_all():
    rows = packed(ROW, [np.zeros(0)] * 2)
    merged = row_merger(strategy_over(2))(rows)
    np.testing.assert_array_equal(merged, rows[0])


class WithoutBetween(Moments):
    """Moments whose merge forgets the squares between the replicas' means."""

    fields: ClassVar = MomentsState._fields

    def reduce_replicas(self, state, reductions):
        right = super().reduce_replicas(state, reductions)
        return right._replace(m2=reductions.sum(state.m2))


def test_the_between_group_term_is_what_this_tests():
    broken = Product((Counts(), WithoutBetween(), Extrema(), Norms()))
    shards = [shards_of(2)[0], np.full(9, 1.02e4)]
    merged = row_merger(strategy_over(2), broken)(packed(ROW, shards))
    whole = ROW.pack(observe(ROW, np.concatenate(shards)))
    assert not np.allclose(merged, whole, rtol=1e-2)


#: One process trains one model under a strategy of its own each time, watching other signals.
SEVERAL = """
import sys
import keras, numpy as np
import distwatch as dw
from distwatch.testing import virtual_devices
import tensorflow as tf

devices = virtual_devices(2)
chosen = [None, [dw.activations("*"), dw.gradients()], [dw.loss()], None]
for number, signals in enumerate(chosen):
    keras.utils.clear_session()
    with tf.distribute.MirroredStrategy(devices).scope():
        layers = [keras.layers.Dense(5), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((6,)), *layers])
        model.compile("sgd", "mse")
    x = np.arange(96, dtype="float32").reshape(16, 6) / 50 + 1
    watch = dw.Watch(f"{sys.argv[1]}/{number}.zarr", signals=signals)
    model.fit(x, x[:, :1], batch_size=4, epochs=number + 1, verbose=0, callbacks=[watch])
    print(len(dw.open_run(f"{sys.argv[1]}/{number}.zarr")))
"""


@pytest.mark.slow
def test_strategies_of_one_process_do_not_meet(tmp_path):
    """Collectives of two strategies share their numbers: they met, and ended the training."""
    ended = subprocess.run(
        [sys.executable, "-c", SEVERAL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.split() == ["4", "8", "12", "16"], ended.stderr[-2000:]


def test_within_a_process_no_collective_is_used(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a collective")

    monkeypatch.setattr(tf.distribute.ReplicaContext, "all_reduce", fail)
    monkeypatch.setattr(tf.distribute.ReplicaContext, "all_gather", fail)
    rows = packed(ROW, shards_of(2))
    merged = row_merger(strategy_over(2))(rows)
    np.testing.assert_allclose(merged, merge_axis(ROW, np.array(rows), axis=0), rtol=1e-12)
