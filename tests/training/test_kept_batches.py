"""The first batch with NaN or Inf is kept on each replica, and its broken rows are named."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, same_weights, strategy_over, unlike_rows

import distwatch as dw

BATCH, STEPS = 16, 9
X, _ = unlike_rows(BATCH * STEPS)
X = X[:, :3]
#: The step with NaN, and its broken rows of the global batch, all on the last replica.
BAD, ROWS = 4, (9, 13)
BROKEN = X.copy()
BROKEN[BAD * BATCH + ROWS[0], 0] = np.nan
BROKEN[BAD * BATCH + ROWS[1], 2] = np.nan


def model_over(replicas, *, executed=1, optimizer=None, eager=False):
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    with strategy_over(replicas).scope():
        stack = [keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
        model = keras.Sequential(stack)
        model.compile(
            optimizer or "sgd", "mse", steps_per_execution=executed, run_eagerly=eager
        )
    return model


def trained(path, x, model, **how):
    how = {"signals": [dw.activations(), dw.loss()], "keep_batch": True, **how}
    fit(model, x, x[:, :2] + 1.0, dw.Watch(path, **how), batch=BATCH)
    return dw.open_run(path)


def finding_of(run):
    return next((each for each in run.findings() if each.rule == "NonFinite"), None)


@pytest.mark.parametrize(
    ("replicas", "executed"),
    [(2, 3), *(pytest.param(*c, marks=pytest.mark.slow) for c in [(1, 1), (1, 3), (2, 1)])],
)
def test_the_batch_is_kept_and_its_rows_are_named(tmp_path, replicas, executed):
    watched = model_over(replicas, executed=executed)
    run = trained(tmp_path / "run.zarr", BROKEN, watched)
    first, *later = run.kept_batches()
    own = BATCH // replicas
    mine = slice(BAD * BATCH + (replicas - 1) * own, (BAD + 1) * BATCH)
    assert (first.replica, first.step, first.left_out) == (replicas - 1, BAD, "")
    assert first.parts["x"].tobytes() == BROKEN[mine].tobytes()
    assert first.parts["y"].tobytes() == (BROKEN[mine, :2] + 1.0).tobytes()
    # The weights are spoiled from then on, so replica 0 has it at the next step.
    assert [(each.replica, each.step) for each in later] == [(0, BAD + 1)] * (replicas - 1)
    finding = finding_of(run)
    rows = [row - (BATCH - own) for row in ROWS]
    batch = "replica 1's batch" if replicas == 2 else "the batch"
    assert (finding.step, finding.signal) == (BAD, "activation/dense")
    assert f"(rows {rows[0]} and {rows[1]} of {batch})" in finding.text
    assert run.before(BAD)["loss"].to_xarray().step.values.tolist() == [*range(BAD)]
    unwatched = model_over(replicas, executed=executed)
    fit(unwatched, BROKEN, BROKEN[:, :2] + 1.0, batch=BATCH)
    assert same_weights(watched, unwatched)


@pytest.mark.slow
def test_a_healthy_training_keeps_nothing_and_is_the_same(tmp_path):
    watched, unwatched = model_over(2), model_over(2)
    run = trained(tmp_path / "run.zarr", X, watched)
    assert run.kept_batches() == []
    fit(unwatched, X, X[:, :2] + 1.0, batch=BATCH)
    assert same_weights(watched, unwatched)


@pytest.mark.slow
def test_a_batch_that_is_too_large_is_not_kept_and_it_is_said(tmp_path):
    run = trained(tmp_path / "run.zarr", BROKEN, model_over(1), keep_batch=319)
    (kept,) = run.kept_batches()
    assert (kept.step, dict(kept.parts)) == (BAD, {})
    assert "it has 320 bytes, and keep_batch keeps up to 319 of a replica" in kept.left_out
    assert finding_of(run).step == BAD


@pytest.mark.slow
def test_parts_that_come_later_are_left_out_and_it_is_said(tmp_path):
    """A later trace has weights of examples, and another dtype of targets."""
    model, path = model_over(1), tmp_path / "run.zarr"
    watch = dw.Watch(path, phases=["train_on_batch"], keep_batch=True)
    x, y = BROKEN[BAD * BATCH :][:BATCH], X[:BATCH, :2]
    with watch.attached(model):
        model.train_on_batch(X[:BATCH], y)
        model.train_on_batch(x, y.astype("int32"), sample_weight=np.ones(BATCH))
        model.train_on_batch(x, y)
    run = dw.open_run(path, phase="train_on_batch")
    assert len(run) == 3
    (kept,) = run.kept_batches()
    assert (kept.step, [*kept.parts]) == (1, ["x"])
    assert kept.left_out == "y and sample_weight: not as in the first step."


@pytest.mark.slow
def test_steps_that_run_eagerly(tmp_path):
    run = trained(tmp_path / "run.zarr", BROKEN, model_over(1, eager=True))
    (kept,) = run.kept_batches()
    assert np.argwhere(~np.isfinite(kept.parts["x"])).tolist() == [[9, 0], [13, 2]]


@pytest.mark.slow
def test_an_overflow_that_a_loss_scale_skips_keeps_nothing(tmp_path):
    signals = [dw.activations(), dw.gradients(applied=False)]
    sgd = keras.optimizers.SGD(1e-6)
    model = model_over(1, optimizer=keras.optimizers.LossScaleOptimizer(sgd, 1e38))
    run = trained(tmp_path / "run.zarr", X * 100, model, signals=signals)
    assert "overflow_skipped" in [each.kind for each in run.findings()]
    assert run.kept_batches() == []


@pytest.mark.slow
def test_of_a_loop_by_hand(tmp_path):
    model = model_over(1)
    optimizer = keras.optimizers.SGD(0.01)
    data = tf.data.Dataset.from_tensor_slices((BROKEN, X[:, :2])).batch(BATCH)
    with dw.watching(model, optimizer, tmp_path / "run.zarr", keep_batch=True) as watch:

        @tf.function
        @watch.wrap
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            weights = model.trainable_variables
            optimizer.apply(tape.gradient(loss, weights), weights)

        for batch in data:
            step(*batch)
            watch.after_step()
    (kept,) = dw.open_run(tmp_path / "run.zarr").kept_batches()
    assert kept.step == BAD
    assert kept.parts["x"].shape == (BATCH, 3) and kept.parts["y"].shape == (BATCH, 2)
