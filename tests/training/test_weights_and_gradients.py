"""Gradients, weights, updates and losses equal a hand-written training loop."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import NothingToWatchError, RoundingWarning, UnwatchedWarning
from distwatch.statistics import ROW, measure

# On two replicas these models run into known faults of Keras, and a Watch says so.
pytestmark = pytest.mark.filterwarnings(
    "ignore:this training runs into known faults of Keras:distwatch.errors.KnownTrapWarning"
)

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ROWS, BATCH = 48, 16


def optimizer_of(kind):
    options = {
        "plain": {},
        "clipnorm": {"clipnorm": 0.05},
        "global_clipnorm": {"global_clipnorm": 0.05},
        "clipvalue": {"clipvalue": 0.002},
        "ema": {"use_ema": True, "ema_momentum": 0.9},
        "accumulation": {"gradient_accumulation_steps": 2},
        "scaled": {"loss_scale_factor": 64.0},
        "decay": {"weight_decay": 0.01},
    }
    if kind == "loss_scale":
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0)
    return keras.optimizers.SGD(0.1, **options[kind])


class Weights(keras.callbacks.Callback):
    """Notes the weights around every batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_begin(self, logs=None):
        self.seen.append(self.model.get_weights())

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.model.get_weights())


def watched(tmp_path, replicas, kind, *selectors, spe=1, jit=False):
    model, _ = small_model(strategy_over(replicas), spe=spe, jit=jit)
    with model.distribute_strategy.scope():
        model.compile(optimizer_of(kind), LOSS, steps_per_execution=spe, jit_compile=jit)
    x, y = unlike_rows(ROWS)
    weights = Weights()
    watch = dw.Watch(tmp_path / "run.zarr", signals=list(selectors), window=4)
    fit(model, x, y, watch, weights, batch=BATCH)
    return model, dw.open_run(tmp_path / "run.zarr"), weights.seen


def tape_gradients(model, weights, x, y):
    """By hand, of one batch, at given weights: in the model's order of variables."""
    kept = model.get_weights()
    model.set_weights(weights)
    with tf.GradientTape() as tape:
        loss = LOSS(y, model(x, training=True))
    gradients = [g.numpy() for g in tape.gradient(loss, model.trainable_variables)]
    model.set_weights(kept)
    return float(loss), gradients


def paths_of(model):
    return [f"{v.path.split('/')[-2]}/{v.name}" for v in model.trainable_variables]


def assert_row_is_of(row, values, scale=None):
    """A row (a dataset of scalars) against NumPy on the values, to 1e-6 of their size."""
    exact = ROW.compute(ROW.from_sums(measure(values)))
    scale = float(np.abs(values).max() if scale is None else scale)
    assert row["count"] == exact["count"]
    for name in ("mean", "std", "min", "max"):
        assert float(row[name]) == pytest.approx(float(exact[name]), rel=1e-6, abs=1e-6 * scale)
    for name in ("l1", "l2"):
        assert float(row[name]) == pytest.approx(float(exact[name]), rel=1e-5)


def shards(step, replicas):
    """The rows of one batch, replica by replica, as Mirrored splits them."""
    return np.split(np.arange(step * BATCH, (step + 1) * BATCH), replicas)


CASES = [(1, "plain"), (2, "plain"), (4, "plain"), (2, "ema"), (2, "decay"), (2, "scaled")]


@pytest.mark.fast_cases("2-plain")
@pytest.mark.parametrize(("replicas", "kind"), CASES)
def test_gradients_equal_a_tape(tmp_path, replicas, kind):
    model, run, weights = watched(tmp_path, replicas, kind, dw.gradients(), dw.loss())
    oracle, _ = small_model(tf.distribute.get_strategy())
    x, y = unlike_rows(ROWS)
    rows, merged = run.to_xarray(), run.to_xarray(merged=True)
    for step in range(3):
        by_hand = [
            tape_gradients(oracle, weights[step], x[shard], y[shard])
            for shard in shards(step, replicas)
        ]
        for i, path in enumerate(paths_of(model)):
            local = [gradients[i] for _, gradients in by_hand]
            size = np.abs(local).max()
            for replica in range(replicas):
                here = rows.sel(signal=f"gradient_local/{path}", step=step, replica=replica)
                assert_row_is_of(here, local[replica], size)
            applied = merged.sel(signal=f"gradient/{path}", step=step)
            assert_row_is_of(applied, np.mean(local, axis=0, dtype=np.float64), size)
        losses = rows.sel(signal="loss", step=step)["mean"].values
        assert losses == pytest.approx([loss for loss, _ in by_hand], rel=1e-6)


@pytest.mark.slow
def test_the_applied_gradient_is_kept_once(tmp_path):
    _, run, _ = watched(tmp_path, 2, "plain", dw.gradients("dense_0/kernel"))
    counts = run.to_xarray()["count"].sel(signal="gradient/dense_0/kernel")
    assert (counts.sel(replica=0) == 12 * 16).all()
    assert (counts.sel(replica=1) == 0).all()
    local = run.to_xarray()["mean"].sel(signal="gradient_local/dense_0/kernel")
    applied = run["gradient/dense_0/kernel"].merged("mean")
    np.testing.assert_allclose(local.mean("replica"), applied, rtol=1e-4, atol=1e-9)
    # The replicas' own gradients do differ, or nothing was shown.
    assert (abs(local.sel(replica=0) - local.sel(replica=1)) > 1e-5).all()


@pytest.mark.slow
@pytest.mark.fast_cases("1-clipnorm")
@pytest.mark.parametrize("kind", ["clipnorm", "global_clipnorm", "clipvalue"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_clipping_is_in_the_name(tmp_path, kind, replicas):
    model, run, weights = watched(tmp_path, replicas, kind, dw.gradients())
    oracle, _ = small_model(tf.distribute.get_strategy())
    x, y = unlike_rows(ROWS)
    rows, merged = run.to_xarray(), run.to_xarray(merged=True)
    assert not any(name.startswith("gradient/") for name in run.signals)
    clip = optimizer_of(kind)._clip_gradients
    for step in range(3):
        local = [
            tape_gradients(oracle, weights[step], x[shard], y[shard])[1]
            for shard in shards(step, replicas)
        ]
        for i, path in enumerate(paths_of(model)):
            for replica in range(replicas):
                here = rows.sel(signal=f"gradient_local/{path}", step=step, replica=replica)
                assert_row_is_of(here, local[replica][i])
            # Keras clips what each replica adds to the sum.
            clipped = sum(
                np.asarray(clip([tf.constant(g / replicas) for g in gradients])[i], np.float64)
                for gradients in local
            )
            assert_row_is_of(merged.sel(signal=f"gradient_clipped/{path}", step=step), clipped)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["loss_scale", "accumulation"])
def test_what_keras_hides_is_passed_over_and_the_rest_is_right(tmp_path, kind):
    (tmp_path / "both").mkdir()
    with pytest.warns(UnwatchedWarning, match=r"gradients\(applied=False\)"):
        _, run, _ = watched(tmp_path / "both", 1, kind, dw.gradients())
    assert "gradient/*" in run.unwatched
    replicas = 2 if kind == "loss_scale" else 1
    model, run, weights = watched(tmp_path, replicas, kind, dw.gradients(applied=False))
    oracle, _ = small_model(tf.distribute.get_strategy())
    x, y = unlike_rows(ROWS)
    rows = run.to_xarray()
    for step in range(3):
        for replica, shard in enumerate(shards(step, replicas)):
            _, gradients = tape_gradients(oracle, weights[step], x[shard], y[shard])
            for gradient, path in zip(gradients, paths_of(model), strict=True):
                here = rows.sel(signal=f"gradient_local/{path}", step=step, replica=replica)
                assert_row_is_of(here, gradient)


@pytest.mark.fast_cases("2-plain")
@pytest.mark.parametrize(
    ("replicas", "kind"),
    [(1, "plain"), (2, "plain"), (4, "ema"), (2, "decay"), (2, "clipnorm"), (1, "accumulation"),
     (2, "loss_scale")],
)  # fmt: skip
def test_updates_are_exactly_the_difference(tmp_path, replicas, kind):
    model, run, weights = watched(
        tmp_path, replicas, kind, dw.updates(), dw.weights(), dw.tensors("dense_0", every=1)
    )
    rows = run.to_xarray()
    for step in range(3):
        before, after = weights[step], weights[step + 1]
        for i, path in enumerate(paths_of(model)):
            change = after[i] - before[i]
            for replica in range(replicas):
                here = rows.sel(signal=f"update/{path}", step=step, replica=replica)
                # The extremes are elements themselves: bit by bit.
                assert (here["min"], here["max"]) == (change.min(), change.max())
                assert here["zeros"] == np.count_nonzero(change == 0)
                if change.any():
                    assert_row_is_of(here, change)
                norms = np.linalg.norm(change.astype("f8")), np.linalg.norm(before[i])
                if norms[1]:
                    assert float(here["ratio"]) == pytest.approx(norms[0] / norms[1], rel=1e-5)
                else:
                    assert np.isnan(here["ratio"])
                weight = rows.sel(signal=f"weight/{path}", step=step, replica=replica)
                assert (weight["min"], weight["max"]) == (after[i].min(), after[i].max())


@pytest.mark.slow
def test_a_compiled_step_and_several_steps_an_execution(tmp_path):
    every = (dw.gradients(), dw.updates(), dw.loss(), dw.inputs(), dw.weights())
    _, plain, _ = watched(tmp_path / "plain", 1, "plain", *every)
    _, several, _ = watched(tmp_path / "several", 1, "plain", *every, spe=3)
    with pytest.warns(RoundingWarning, match="jit_compile=False"):
        _, compiled, _ = watched(tmp_path / "compiled", 1, "plain", *every, jit=True)
    for other in (several, compiled):
        for name in ("mean", "l2", "max"):
            np.testing.assert_allclose(
                other.to_xarray()[name], plain.to_xarray()[name], rtol=2e-4, atol=1e-6
            )


def test_embeddings_and_layers_in_loops_have_gradients(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Embedding(11, 5, name="words"),
            keras.layers.LSTM(4, name="memory"),
            keras.layers.Dense(4, name="head"),
        ]
    )
    model.compile("sgd", LOSS)
    x = np.random.default_rng(1).integers(0, 11, (32, 6))
    watch = dw.Watch(tmp_path / "run.zarr", signals=[dw.gradients(), dw.updates("memory/*")])
    fit(model, x, x[:, 0] % 4, watch)
    run = dw.open_run(tmp_path / "run.zarr")
    assert "gradient_local/words/embeddings" in run.signals
    assert "update/memory/lstm_cell/kernel" in run.signals
    counts = run["gradient/words/embeddings"].merged("count")
    assert (counts == 11 * 5).all()


def test_a_loss_that_is_never_computed_is_refused(tmp_path):
    class Own(keras.Sequential):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = LOSS(y, self(x, training=True))
            variables = self.trainable_variables
            gradients = tape.gradient(loss, variables)
            self.optimizer.apply(gradients, variables)
            return {"loss": loss}

    model = Own([keras.Input((12,)), keras.layers.Dense(4)])
    model.compile("sgd")
    x, y = unlike_rows(32)
    remedy = r"loss: the step does not call compute_loss.*call self.compute_loss\(\.\.\.\)"
    with pytest.raises(NothingToWatchError, match=remedy):
        fit(model, x, y, dw.Watch(tmp_path / "run.zarr", signals=[dw.loss()]))
    fit(model, x, y, dw.Watch(tmp_path / "two.zarr", signals=[dw.gradients(), dw.updates()]))
    assert "update/dense/kernel" in dw.open_run(tmp_path / "two.zarr").signals or any(
        name.startswith("update/") for name in dw.open_run(tmp_path / "two.zarr").signals
    )


def test_an_unknown_weight_names_the_nearest(tmp_path):
    model, _ = small_model(strategy_over(1))
    x, y = unlike_rows(32)
    with pytest.raises(ValueError, match=r"matches no weight.*'dense_0/kernel'"):
        fit(model, x, y, dw.Watch(tmp_path / "r.zarr", signals=[dw.weights("dense_0/kernl")]))
