"""AutoGraph never rewrites code of ours: where it cannot, it says so, and it keeps graphs."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.autograph.impl import api
from test_loop import SIGNALS, data_for, in_graph, step_of
from trainings import fit, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.training.strategies import sum_over_replicas

X, Y = unlike_rows(32)


@pytest.fixture
def rewritten(monkeypatch):
    """The modules of the functions that AutoGraph was to rewrite."""
    modules = []
    rewrite = api._convert_actual

    def note(entity, context):
        modules.append(entity.__module__)
        return rewrite(entity, context)

    monkeypatch.setattr(api, "_convert_actual", note)
    return modules


def ours(modules):
    return [each for each in modules if each.split(".")[0] == "distwatch"]


@pytest.mark.fast_cases("1")
@pytest.mark.parametrize("replicas", [1, 2])
def test_in_fit(tmp_path, rewritten, replicas):
    model, _ = small_model(strategy_over(replicas), spe=2)
    watch = dw.Watch(tmp_path / "run.zarr", signals=SIGNALS)
    fit(model, X, Y, watch, validation_data=(X, Y))
    assert not ours(rewritten)


@pytest.mark.fast_cases("1-step")
@pytest.mark.parametrize("how", ["wrap", "step"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_in_a_loop(tmp_path, rewritten, replicas, how):
    strategy = strategy_over(replicas)
    model, _ = small_model(strategy)
    how_watched = {"strategy": strategy, "signals": SIGNALS}
    with dw.watching(model, model.optimizer, tmp_path / "run.zarr", **how_watched) as watch:
        step = step_of(model, model.optimizer, watch)

        def in_a_block(x, y):
            with watch.step((x, y)):
                watch.log("rows", tf.size(y))
                return step(x, y)

        watched = watch.wrap(step) if how == "wrap" else in_a_block
        in_graph(strategy, watched, data_for(strategy), watch)
    assert "test_loop" in rewritten  # The user's own step is.
    assert not ours(rewritten)


def test_while_estimating(tmp_path, rewritten):
    model, _ = small_model(strategy_over(1))
    dw.Watch(tmp_path / "run.zarr").estimate(model, (X[:16], Y[:16]), steps=10)
    assert not ours(rewritten)


def test_while_summing_up_over_replicas(rewritten):
    total = sum_over_replicas(strategy_over(2))
    np.testing.assert_array_equal(total([np.ones(3), np.arange(3.0)]), [1, 2, 3])
    assert not ours(rewritten)
