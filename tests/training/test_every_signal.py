"""The laws for every signal and every reference: untouched, nothing missed, the truth."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import xarray as xr
from models import KINDS
from test_truth import assert_rows_equal
from trainings import (
    Ear,
    compile_model,
    fit,
    same_weights,
    small_model,
    strategy_over,
    unlike_rows,
)

import distwatch as dw
from distwatch.errors import ConfigError, UnwatchableError
from distwatch.statistics import Checksum, observe

# On two replicas these models run into known faults of Keras, and a Watch says so.
pytestmark = pytest.mark.filterwarnings(
    "ignore:this training runs into known faults of Keras:distwatch.errors.KnownTrapWarning"
)

layers = keras.layers

ROUNDED = ("batch_mean", "ema(0.8)")
REFERENCES = ["previous", "batch_mean", "first", "ema(0.8)", "neighbour", "none"]


def every_signal(x, **how):
    """All kinds at several cadences, with every reference among them."""
    return [
        dw.activations(statistics=[dw.histogram()], every=3),
        dw.activations("dense*", reference="batch_mean", inputs=True),
        dw.gradients(reference="first"),
        dw.weights(reference="ema(0.9)", every=2),
        dw.updates(),
        dw.inputs(reference="neighbour"),
        dw.loss(reference="previous"),
        dw.probe(x[:6], every=5),
        dw.probe(x[:7], every=4, reference="previous", layers="dense*"),
        dw.tensors("output", every=6, reduce="mean"),
        dw.tensors("output", every=7, reference="none", dtype="float16"),
    ]


def trained(kind, strategy, spe, *callbacks):
    keras.utils.set_random_seed(11)
    keras.utils.clear_session()
    with strategy.scope():
        model = compile_model(KINDS[kind](), spe=spe)
    x, y = unlike_rows(200)
    history = fit(model, x, y, *callbacks, epochs=4)
    return model, history.history["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "replicas", "spe"),
    [
        ("functional", 1, 1),
        ("convolutional", 2, 7),
        ("sequential", 2, 1),
        ("subclassed", 1, 7),
    ],
)
def test_weights_are_bit_identical_and_nothing_is_missed(tmp_path, kind, replicas, spe):
    strategy = strategy_over(replicas)
    x, _ = unlike_rows(200)
    alone, alone_loss = trained(kind, strategy, spe)
    chosen = every_signal(x)
    watch = dw.Watch(tmp_path / "run.zarr", signals=chosen, window=8)
    watched, watched_loss = trained(kind, strategy, spe, watch)

    assert watch.status.error is None
    assert watch.status.lost == 0
    assert same_weights(alone, watched)
    assert alone_loss == watched_loss
    run = dw.open_run(tmp_path / "run.zarr")
    steps = {name: list(run[name].merged("count").step.values) for name in run.signals}
    looked = {
        "activation/": (0, 3), "update/": (0, 1), "weight/": (0, 2), "gradient/": (0, 1),
        "gradient_local/": (0, 1), "input": (0, 1), "loss": (0, 1), "tensor/output": (0, 6),
        "probe/output": (0, 5), "activation_input/": (0, 1),
    }  # fmt: skip
    for prefix, (start, k) in looked.items():
        found = [n for n in steps if n.startswith(prefix) and "@" not in n]
        assert found, prefix
        for name in found:
            assert steps[name] == list(range(start, 52, k)), name


def oracle(batches, reference, decay=0.8):
    """The deltas of consecutive batches (float32, unequal rows), by NumPy alone."""
    deltas, first, average = [], None, None
    empty = batches[0][:0]
    for i, now in enumerate(batches):
        before = batches[i - 1] if i else empty
        if reference == "none":
            deltas.append(now)
        elif reference == "neighbour":
            deltas.append(now[:-1] - now[1:])
        elif reference == "previous":
            rows = min(len(now), len(before))
            deltas.append(now[:rows] - before[:rows])
        elif reference == "batch_mean":
            both = len(now) and len(before)
            deltas.append(now.mean(0) - before.mean(0) if both else empty)
        elif reference == "first":
            rows = 0 if first is None else min(len(now), len(first))
            deltas.append(now[:rows] - (first[:rows] if rows else empty))
            first = now if first is None and len(now) else first
        else:
            kept = empty if average is None else average
            rows = min(len(now), len(kept))
            deltas.append(now[:rows] - kept[:rows])
            mixed = np.float32(decay) * kept[:rows] + np.float32(1 - decay) * now[:rows]
            average = np.concatenate([mixed, now[rows:], kept[rows:]])
    return deltas


@pytest.mark.fast_cases("2-batch_mean", "1-ema(0.8)", "1-neighbour")
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_every_reference_equals_numpy(tmp_path, replicas, reference):
    x, y = unlike_rows(42)
    model, ears = small_model(strategy_over(replicas), ears=True)
    selector = dw.activations("dense_[01]", reference=reference)
    watch = dw.Watch(tmp_path / "run.zarr", signals=[selector], window=4)
    fit(model, x, y, watch, epochs=3)

    run = dw.open_run(tmp_path / "run.zarr")
    rows, merged = run.to_xarray(), run.to_xarray(merged=True)
    for layer, ear in enumerate(ears[:2]):
        signal = f"activation/dense_{layer}"
        each = [oracle(ear.recorded[replica], reference) for replica in range(replicas)]
        # Means are rounded at their own size, which is not that of their difference.
        size = float(np.abs(ear.recorded[0][0]).mean()) if reference in ROUNDED else 0.0
        for replica in range(replicas):
            assert_rows_equal(rows.sel(signal=signal, replica=replica), each[replica], size)
        together = [
            np.concatenate([p.ravel() for p in parts]) for parts in zip(*each, strict=True)
        ]
        assert_rows_equal(merged.sel(signal=signal), together, size)


@pytest.mark.fast_cases("batch_mean")
@pytest.mark.parametrize("reference", REFERENCES)
def test_sampled_steps_have_the_same_references(tmp_path, reference):
    x, y = unlike_rows(42)
    model, ears = small_model(strategy_over(2), ears=True)
    sampled = dw.activations("dense_0", reference=reference, every=3)
    fit(model, x, y, dw.Watch(tmp_path / "run.zarr", signals=[sampled]), epochs=3)
    rows = dw.open_run(tmp_path / "run.zarr").to_xarray().isel(signal=0)
    assert list(rows.step.values) == [0, 3, 6]
    size = float(np.abs(ears[0].recorded[0][0]).mean()) if reference in ROUNDED else 0.0
    for replica in range(2):
        every = oracle(ears[0].recorded[replica], reference)
        assert_rows_equal(rows.sel(replica=replica), every[::3], size)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
def test_quantiles_of_unlike_replicas(tmp_path, replicas):
    x, y = unlike_rows(42)
    model, ears = small_model(strategy_over(replicas), ears=True)
    histogram = dw.histogram(accuracy=0.01)
    chosen = dw.activations("dense_*", reference="none", statistics=[histogram])
    fit(model, x, y, dw.Watch(tmp_path / "run.zarr", signals=[chosen], window=4))
    run = dw.open_run(tmp_path / "run.zarr")
    q = [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 1.0]
    for layer, ear in enumerate(ears):
        signal = f"activation/dense_{layer}"
        parts = [np.concatenate([b.ravel() for b in ear.recorded[r]]) for r in range(replicas)]
        whole = np.concatenate(parts).astype("f8")
        got = run.quantile(signal, q).values
        assert_quantiles(got, whole, q, histogram)
        assert (got[0], got[-1]) == (whole.min(), whole.max())
        each = run.quantile(signal, q, per_replica=True)
        assert each.dims == ("replica", "quantile")
        for replica in range(replicas):
            assert_quantiles(each.sel(replica=replica), parts[replica], q, histogram)
        steps = run.quantile(signal, 0.5, per_step=True)
        for step in range(3):
            values = np.concatenate([ear.recorded[r][step].ravel() for r in range(replicas)])
            assert_quantiles([steps.sel(step=step)], values, [0.5], histogram)
        assert run.histogram(signal).sum() == whole.size
    with pytest.raises(ConfigError, match="probabilities"):
        run.quantile(signal, 1.5)


def assert_quantiles(got, values, q, histogram):
    """Within the declared accuracy of the order statistics that NumPy interpolates."""
    ordered = np.sort(values.astype("f8").ravel())
    rank = np.asarray(q) * (len(ordered) - 1)
    low, high = ordered[np.floor(rank).astype(int)], ordered[np.ceil(rank).astype(int)]
    weight = rank % 1
    exact = np.quantile(ordered, q)
    size = (1 - weight) * np.abs(low) + weight * np.abs(high)
    allowed = histogram.relative_accuracy * size * (1 + 1e-9) + histogram.smallest
    assert (np.abs(np.asarray(got) - exact) <= allowed).all()


@pytest.mark.slow
def test_without_a_histogram_there_is_no_quantile(tmp_path):
    x, y = unlike_rows(32)
    model, _ = small_model(strategy_over(1))
    fit(model, x, y, dw.Watch(tmp_path / "run.zarr", signals=["dense_1"]))
    run = dw.open_run(tmp_path / "run.zarr")
    with pytest.raises(ConfigError, match=r"statistics=\[distwatch.histogram\(\)\]"):
        run.quantile("activation/dense_1", 0.5)
    with pytest.raises(ConfigError, match=r"distwatch.tensors"):
        run.tensor("activation/dense_1")


def everything_that_could_move(model):
    variables = [*model.variables, *model.optimizer.variables]
    for layer in model._flatten_layers():
        generator = getattr(layer, "seed_generator", None)
        variables += [generator.state] if generator is not None else []
    for metric in model.metrics:
        variables += metric.variables
    return [np.asarray(v.value.values[0] if hasattr(v.value, "values") else v).tobytes()
            for v in variables]  # fmt: skip


@pytest.mark.fast_cases("1")
@pytest.mark.parametrize("replicas", [1, 2])
def test_the_probe_leaves_everything_as_it_was(tmp_path, replicas):
    x, y = unlike_rows(96)
    seen = []
    for name in ("alone", "probed"):
        keras.utils.set_random_seed(3)
        keras.utils.clear_session()
        with strategy_over(replicas).scope():
            model = compile_model(KINDS["functional"]())
        probe = dw.probe(x[:5], every=1, reference="previous")
        watches = [dw.Watch(tmp_path / "run.zarr", signals=[probe])] if name == "probed" else []
        fit(model, x, y, *watches, epochs=2)
        seen.append(everything_that_could_move(model))
    assert len(seen[0]) > 20
    assert seen[0] == seen[1]


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_the_probe_is_what_the_model_predicts(tmp_path, replicas):
    x, y = unlike_rows(48)
    model, _ = small_model(strategy_over(replicas))
    predicted = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: predicted.append(model(x[:9]).numpy())
    )
    chosen = [
        dw.probe(x[:9], every=2),
        dw.probe(x[:9], layers="dense_2", reference="previous", every=2),
    ]
    fit(model, x, y, dw.Watch(tmp_path / "run.zarr", signals=chosen), note, epochs=2)
    run = dw.open_run(tmp_path / "run.zarr")
    rows = run["probe/output"]
    assert list(rows.merged("mean").step) == [0, 2, 4]
    for step in (0, 2, 4):
        for replica in range(replicas):
            here = rows.per_replica("l1").sel(step=step, replica=replica)
            assert float(here) == pytest.approx(np.abs(predicted[step]).sum(), rel=1e-5)
        if step:
            # Against the step before, not against the last look.
            change = np.abs(predicted[step] - predicted[step - 1])
            here = run["probe/dense_2"].merged("l1").sel(step=step)
            assert float(here) == pytest.approx(replicas * change.sum(), rel=1e-3)


def test_a_probe_of_a_model_that_changes_itself_is_refused(tmp_path):
    class Counting(layers.Layer):
        def build(self, shape):
            self.calls = self.add_weight(shape=(), trainable=False, initializer="zeros")

        def call(self, inputs):
            self.calls.assign_add(1.0)
            return inputs

    model = compile_model(keras.Sequential([keras.Input((12,)), Counting(), layers.Dense(4)]))
    x, y = unlike_rows(32)
    before = [w.tobytes() for w in model.get_weights()]
    with pytest.raises(UnwatchableError, match="changes a variable when it is called"):
        fit(model, x, y, dw.Watch(tmp_path / "run.zarr", signals=[dw.probe(x[:4])]))
    assert [w.tobytes() for w in model.get_weights()] == before


@pytest.mark.slow
@pytest.mark.parametrize("reduce", [None, "mean", "sum"])
def test_raw_tensors_of_unlike_replicas(tmp_path, reduce):
    x, y = unlike_rows(42)
    model, ears = small_model(strategy_over(4), ears=True)
    chosen = dw.tensors("dense_1", every=2, reduce=reduce)
    fit(model, x, y, dw.Watch(tmp_path / "run.zarr", signals=[chosen]), epochs=3)
    run = dw.open_run(tmp_path / "run.zarr")
    tensor = run.tensor("tensor/dense_1")
    each = [oracle(ears[1].recorded[replica], "previous") for replica in range(4)]
    assert list(tensor.step.values) == [0, 2, 4, 6, 8]
    for step in tensor.step.values:
        parts = [deltas[step] for deltas in each]
        if reduce is None:
            for replica, part in enumerate(parts):
                here = tensor.sel(step=step, replica=replica)
                assert int(here.valid) == len(part)
                np.testing.assert_array_equal(here.values[: len(part)], part)
                assert np.isnan(here.values[len(part) :]).all()
            continue
        here = tensor.sel(step=step).isel(reduced=0)
        for row in range(int(here.valid)):
            there = [part[row].astype("f8") for part in parts if len(part) > row]
            wanted = np.mean(there, axis=0) if reduce == "mean" else np.sum(there, axis=0)
            np.testing.assert_allclose(here.values[row], wanted, rtol=1e-6, atol=1e-7)
        assert int(here.valid) == max(map(len, parts))

    opened = xr.open_zarr(tmp_path / "run.zarr" / "worker-0000-start-0000" / "table-00")
    axis = "replica" if reduce is None else "reduced"
    assert opened["tensor"].dims == ("step", axis, "batch", "dim_1")
    assert opened["tensor"].encoding["chunks"] == (1, 1, opened.sizes["batch"], 8)
    np.testing.assert_array_equal(opened["tensor"].values, tensor.values)


@pytest.mark.slow
def test_tensors_in_half_precision_and_larger_batches_later(tmp_path):
    model, ears = small_model(strategy_over(1), ears=True)
    x, y = unlike_rows(60)
    parts = [(x[:10], y[:10]), (x[10:20], y[10:20]), (x[20:60], y[20:60])]
    data = tf.data.Dataset.from_generator(
        lambda: iter(parts),
        output_signature=(tf.TensorSpec((None, 12)), tf.TensorSpec((None,), tf.int64)),
    )
    chosen = dw.tensors("dense_0", every=1, reference="none", dtype="float16")
    watch = dw.Watch(tmp_path / "run.zarr", signals=[chosen], window=2)
    model.fit(data, verbose=0, shuffle=False, steps_per_epoch=3, callbacks=[watch])
    assert watch.status.error is None
    tensor = dw.open_run(tmp_path / "run.zarr").tensor("tensor/dense_0")
    assert (tensor.dtype, tensor.sizes["batch"]) == (np.float16, 40)
    assert list(tensor.valid.values[:, 0]) == [10, 10, 40]
    for step, values in enumerate(ears[0].recorded[0]):
        here = tensor.values[step, 0, : len(values)]
        np.testing.assert_array_equal(here, values.astype(np.float16))


@pytest.mark.fast_cases("2")
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_inputs_equal_numpy(tmp_path, replicas):
    x, y = unlike_rows(42)
    model, _ = small_model(strategy_over(replicas))
    fit(model, x, y, dw.Watch(tmp_path / "run.zarr", signals=[dw.inputs()]))
    run = dw.open_run(tmp_path / "run.zarr")
    batches = [x[:16], x[16:32], x[32:]]
    rows, merged = run.to_xarray().isel(signal=0), run.to_xarray(merged=True).isel(signal=0)
    # The last batch, of 10 rows, is spread as 5 + 5, or 3 + 3 + 3 + 1.
    size = [-(-len(batch) // replicas) for batch in batches]
    shares = [np.split(b, range(n, len(b), n)) for b, n in zip(batches, size, strict=True)]
    for replica in range(replicas):
        mine = [share[replica] for share in shares]
        here = rows.sel(replica=replica)
        assert_rows_equal(here, mine)
        sums = [int(observe(Checksum(), part).checksum) for part in mine]
        assert list(here["checksum"].values) == sums
    assert_rows_equal(merged, batches)


@pytest.mark.slow
def test_eager_training_has_every_signal(tmp_path):
    x, y = unlike_rows(40)
    runs = []
    for eager in (False, True):
        model, _ = small_model(strategy_over(1))
        model.compile("sgd", "mse", run_eagerly=eager)
        path = tmp_path / f"{eager}.zarr"
        watch = dw.Watch(path, signals=every_signal(x), window=2)
        fit(model, x, np.eye(4)[y], watch, epochs=3)
        assert watch.status.error is None
        runs.append(dw.open_run(path))
    graph, eager = (run.to_xarray() for run in runs)
    assert runs[0].signals == runs[1].signals
    xr.testing.assert_allclose(graph["l2"], eager["l2"], rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(graph["checksum"], eager["checksum"])


@pytest.mark.slow
def test_equal_and_skewed_inputs_are_named(tmp_path):
    x, y = unlike_rows(64)
    # The first half of every batch goes to replica 0, the second to replica 1.
    model, _ = small_model(strategy_over(2))
    halves = np.concatenate([x[:8], x[:8], x[8:16], x[8:16], x[16:24], x[16:24]])
    fit(model, halves, y[:48], dw.Watch(tmp_path / "same.zarr", signals=[dw.inputs()]))
    same = dw.open_run(tmp_path / "same.zarr")
    assert "Replicas 0 and 1 were given the same input at 3 of 3 steps." in same.summary()
    checksum = same["input"].per_replica("checksum")
    assert (checksum.sel(replica=0) == checksum.sel(replica=1)).all()

    rng = np.random.default_rng(0)
    fair = rng.normal(size=(640, 12)).astype("f4")
    model, _ = small_model(strategy_over(2))
    fit(
        model,
        fair,
        rng.integers(0, 4, 640),
        dw.Watch(tmp_path / "f.zarr", signals=[dw.inputs()]),
    )
    words = dw.open_run(tmp_path / "f.zarr").summary()
    assert "same input" not in words
    assert "different data" not in words

    skewed = fair + np.where(np.arange(640) % 16 < 8, 0.0, 1.0)[:, None].astype("f4")
    model, _ = small_model(strategy_over(2))
    fit(
        model,
        skewed,
        rng.integers(0, 4, 640),
        dw.Watch(tmp_path / "s.zarr", signals=[dw.inputs()]),
    )
    words = dw.open_run(tmp_path / "s.zarr").summary()
    assert "Replica 1 is given different data in input" in words


@pytest.mark.slow
def test_one_thing_may_be_watched_in_several_ways(tmp_path):
    x, y = unlike_rows(48)
    model, _ = small_model(strategy_over(1))
    chosen = [
        "dense_1",
        dw.activations("dense_1", reference="none", every=2),
        dw.activations("dense_1", reference="first"),
    ]
    fit(model, x, y, dw.Watch(tmp_path / "run.zarr", signals=chosen))
    run = dw.open_run(tmp_path / "run.zarr")
    names = ["activation/dense_1", "activation/dense_1@first", "activation/dense_1@none"]
    assert sorted(run.signals) == names
    whole = run.to_xarray()
    assert list(whole.step.values) == [0, 1, 2]
    # Not looked at is not zero.
    assert np.isnan(whole["count"].sel(signal=names[2], step=1)).all()
    assert list(run[names[2]].merged("count").step.values) == [0, 2]
    assert list(whole.iteration.values) == [1, 2, 3]
    model, _ = small_model(strategy_over(1))
    with pytest.raises(ConfigError, match="chosen twice against the reference 'previous'"):
        fit(model, x, y, dw.Watch(tmp_path / "two.zarr", signals=["dense_1", dw.activations()]))


def test_nested_outputs_shared_layers_and_inputs(tmp_path):
    shared = layers.Dense(12, name="shared")
    inputs = {"a": keras.Input((12,), name="a"), "b": keras.Input((12,), name="b")}
    joined = layers.Add(name="joined")([shared(inputs["a"]), shared(inputs["b"])])
    outputs = {
        "left": layers.Dense(4, name="l")(joined),
        "right": layers.Dense(2, name="r")(joined),
    }
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"left": "mse", "right": "mse"})
    x, _ = unlike_rows(32)
    chosen = [dw.activations(inputs=True, reference="none"), dw.inputs()]
    data = {"a": x, "b": 2 * x}
    goal = {"left": x[:, :4], "right": x[:, :2]}
    fit(model, data, goal, dw.Watch(tmp_path / "run.zarr", signals=chosen))
    run = dw.open_run(tmp_path / "run.zarr")
    parts = ["activation/shared", "activation/shared#1", "activation_input/shared#1"]
    parts += ["activation/output:left", "activation/output:right", "input:a", "input:b"]
    assert set(parts) <= set(run.signals)
    mean = run.to_xarray()["mean"].isel(replica=0)
    second = mean.sel(signal="activation_input/shared#1")
    np.testing.assert_allclose(second, mean.sel(signal="input:b"), rtol=1e-6)
    np.testing.assert_allclose(second, 2 * mean.sel(signal="input:a"), rtol=1e-6)


@pytest.mark.slow
def test_ears_are_heard_as_they_were():
    """The oracle's own check: ears note each replica's batches, which differ."""
    x, y = unlike_rows(32)
    model, ears = small_model(strategy_over(2), ears=True)
    fit(model, x, y)
    assert isinstance(ears[0], Ear)
    assert not np.allclose(ears[0].recorded[0][0], ears[0].recorded[1][0])
