"""Training loops of the user's own: the same laws as for fit."""

import contextlib
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_truth import assert_rows_equal, deltas_of
from trainings import same_weights, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import (
    ConfigError,
    NothingToWatchError,
    RowsLostWarning,
    UnknownSignalError,
    UnsupportedTrainingError,
    UnwatchableError,
    WatcherDisabledWarning,
)

ROWS, BATCH = 42, 16
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
SIGNALS = (
    dw.activations(),
    dw.gradients("dense_0/kernel"),
    dw.updates("dense_0/kernel"),
    dw.loss(),
    dw.inputs(),
)


def data_for(strategy):
    batches = tf.data.Dataset.from_tensor_slices(unlike_rows(ROWS)).batch(BATCH)
    return strategy.experimental_distribute_dataset(batches)


def step_of(model, optimizer, watch=None):
    """A train step as people write it: AutoGraph has a condition to rewrite in it."""

    def train_step(x, y):
        with tf.GradientTape() as tape:
            each = LOSS(y, model(x, training=True))
            loss = tf.nn.compute_average_loss(each, global_batch_size=BATCH)
        if watch is not None:
            watch.loss(tf.reduce_mean(each))
        if tf.size(each) > BATCH:
            tf.print("a batch of more rows than there are")
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    return train_step


def eagerly(strategy, step, data, watch, epochs=1):
    for epoch in range(epochs):
        if watch:
            watch.begin_epoch(epoch)
        for x, y in data:
            strategy.run(step, args=(x, y))
            if watch:
                watch.after_step()


def by_call(strategy, step, data, watch, epochs=1):
    distributed = tf.function(lambda x, y: strategy.run(step, args=(x, y)))
    called = types.SimpleNamespace(run=lambda _, args: distributed(*args))
    eagerly(called, step, data, watch, epochs)


def in_graph(strategy, step, data, watch, epochs=1):
    """The loop over batches is in the graph, too."""

    @tf.function
    def run_epoch(batches):
        for _ in tf.range(3):
            strategy.run(step, args=next(batches))

    for epoch in range(epochs):
        if watch:
            watch.begin_epoch(epoch)
        run_epoch(iter(data))
        if watch:
            watch.after_step(3)


def trained(strategy, drive, store=None, epochs=3, **how):
    model, ears = small_model(strategy, ears=True)
    optimizer = model.optimizer
    watching = contextlib.nullcontext()
    if store:
        watching = dw.watching(
            model, optimizer, store, strategy=strategy, signals=SIGNALS, window=4, **how
        )
    with watching as watch:
        step = step_of(model, optimizer, watch)
        step = watch.wrap(step) if watch else step
        drive(strategy, step, data_for(strategy), watch, epochs)
    return model, ears, watch


@pytest.mark.fast_cases("1-in_graph")
@pytest.mark.parametrize(
    ("replicas", "drive"),
    [(2, by_call), (4, in_graph), (1, in_graph), (2, eagerly)],
)
def test_the_laws(tmp_path, replicas, drive):
    strategy = strategy_over(replicas)
    how = {"steps_per_execution": 3} if drive is in_graph else {}
    alone, _, _ = trained(strategy, drive)
    model, ears, watch = trained(strategy, drive, tmp_path / "run.zarr", **how)
    assert same_weights(alone, model)
    assert all("call" not in vars(layer) for layer in model._flatten_layers())
    assert "apply" not in vars(model.optimizer)

    run = dw.open_run(tmp_path / "run.zarr")
    rows, merged = run.to_xarray(), run.to_xarray(merged=True)
    np.testing.assert_array_equal(rows.step, np.arange(9))
    np.testing.assert_array_equal(rows.epoch, np.repeat([0, 1, 2], 3))
    np.testing.assert_array_equal(rows.iteration, np.arange(1, 10))
    assert watch.status.lost == 0
    for layer, ear in enumerate(ears):
        signal = f"activation/dense_{layer}"
        each = [deltas_of(ear.recorded[replica], "previous") for replica in range(replicas)]
        for replica in range(replicas):
            assert_rows_equal(rows.sel(signal=signal, replica=replica), each[replica])
        together = [np.concatenate(parts) for parts in zip(*each, strict=True)]
        assert_rows_equal(merged.sel(signal=signal), together)
    # A replica's gradient comes scaled such that the mean over replicas is what is applied.
    local = rows["mean"].sel(signal="gradient_local/dense_0/kernel").mean("replica")
    applied = merged["mean"].sel(signal="gradient/dense_0/kernel")
    np.testing.assert_allclose(local, applied, rtol=1e-4, atol=1e-7)
    assert run.summary() == watch.summary()


@pytest.mark.slow
def test_a_step_heard_by_a_with_statement_hands_its_loss_over(tmp_path):
    strategy = strategy_over(2)
    model, _ = small_model(strategy)
    said = []
    with dw.watching(
        model, model.optimizer, tmp_path / "run.zarr", strategy=strategy, signals=[dw.loss()]
    ) as watch:
        inner = step_of(model, model.optimizer, watch)

        def step(x, y):
            with watch.step():
                inner(x, y)
            return tf.reduce_mean(LOSS(y, model(x)))

        distributed = tf.function(lambda x, y: strategy.run(step, args=(x, y)))
        for x, y in data_for(strategy):
            before = [LOSS(b, model(a)).numpy().mean() for a, b in local_pairs(strategy, x, y)]
            distributed(x, y)
            watch.after_step()
            said.append(before)
    losses = dw.open_run(tmp_path / "run.zarr")["loss"].per_replica("mean")
    np.testing.assert_allclose(losses, said, rtol=1e-5)


def local_pairs(strategy, x, y):
    return list(
        zip(
            strategy.experimental_local_results(x),
            strategy.experimental_local_results(y),
            strict=True,
        )
    )


def two_models(strategy):
    keras.utils.clear_session()
    keras.utils.set_random_seed(4)
    with strategy.scope():
        generator = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(12, name="out")], name="generator"
        )
        critic = keras.Sequential(
            [keras.Input((12,)), keras.layers.Dense(1, name="out")], name="critic"
        )
        optimizers = keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.1, clipvalue=0.01)
        for optimizer, model in zip(optimizers, (generator, critic), strict=True):
            optimizer.build(model.trainable_variables)
    return (generator, critic), optimizers


def duel(strategy, models, optimizers, watch=None):
    (generator, critic), (own, its) = models, optimizers

    def step(x, _):
        noise = x[:, :3]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(critic(x) - critic(generator(noise))) / 2.0
        gradients = tape.gradient(loss, critic.trainable_variables)
        its.apply_gradients(zip(gradients, critic.trainable_variables, strict=True))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(critic(generator(noise))) / 2.0
        gradients = tape.gradient(loss, generator.trainable_variables)
        own.apply_gradients(zip(gradients, generator.trainable_variables, strict=True))

    recorded = watch.wrap(step) if watch else step
    distributed = tf.function(lambda x, y: strategy.run(recorded, args=(x, y)))
    for x, y in data_for(strategy):
        distributed(x, y)
        if watch:
            watch.after_step()


@pytest.mark.slow
@pytest.mark.filterwarnings(
    # Its critic clips; that is what is tested to be in the names.
    "ignore:this training runs into known faults of Keras:distwatch.errors.KnownTrapWarning"
)
@pytest.mark.parametrize("replicas", [1, 2])
def test_two_models_with_an_optimizer_each(tmp_path, replicas):
    strategy = strategy_over(replicas)
    alone, optimizers = two_models(strategy)
    duel(strategy, alone, optimizers)
    models, optimizers = two_models(strategy)
    with dw.watching(
        list(models),
        list(optimizers),
        tmp_path / "run.zarr",
        strategy=strategy,
        signals=[dw.activations(), dw.gradients("*/kernel"), dw.weights("critic/*")],
    ) as watch:
        duel(strategy, models, optimizers, watch)
    for ours, its in zip(models, alone, strict=True):
        assert same_weights(ours, its)
    run = dw.open_run(tmp_path / "run.zarr")
    assert run.signals == [
        "activation/generator/out",
        "activation/generator/out#1",
        "activation/critic/out",
        "activation/critic/out#1",
        "activation/critic/out#2",
        "gradient_local/critic/out/kernel",
        "gradient_clipped/critic/out/kernel",
        "gradient_local/generator/out/kernel",
        "gradient/generator/out/kernel",
        "weight/critic/out/kernel",
        "weight/critic/out/bias",
    ]
    assert len(run) == 3
    assert (run["activation/critic/out#2"].merged("count").values[1:] > 0).all()


@pytest.mark.slow
def test_an_interrupt_leaves_the_rows_and_no_trace(tmp_path):
    strategy = strategy_over(2)
    model, _ = small_model(strategy)
    store = tmp_path / "run.zarr"
    with (
        pytest.raises(KeyboardInterrupt),
        dw.watching(model, model.optimizer, store, strategy=strategy) as watch,
    ):
        by_call(
            strategy, watch.wrap(step_of(model, model.optimizer)), data_for(strategy), watch
        )
        raise KeyboardInterrupt
    run = dw.open_run(store)
    assert len(run) == 3
    counts = run.to_xarray()["count"].sum("replica")
    np.testing.assert_array_equal(run.to_xarray(merged=True)["count"], counts)


def test_a_step_that_raises_keeps_its_own_error(tmp_path):
    strategy = strategy_over(1)
    model, _ = small_model(strategy)

    def broken(x, y):
        model(x)
        raise ZeroDivisionError("mine")

    with (
        pytest.raises(ZeroDivisionError, match="mine"),
        dw.watching(model, model.optimizer, tmp_path / "run.zarr") as watch,
    ):
        eagerly(strategy, watch.wrap(broken), data_for(strategy), watch)
    assert not (tmp_path / "run.zarr").exists()
    assert all("call" not in vars(layer) for layer in model._flatten_layers())


@pytest.mark.slow
def test_steps_that_nobody_counted_come_home_at_the_end(tmp_path):
    strategy = strategy_over(1)
    model, _ = small_model(strategy)
    store = tmp_path / "run.zarr"
    with (
        pytest.warns(RowsLostWarning, match="5 steps are missing"),
        dw.watching(model, model.optimizer, store, window=2) as watch,
    ):
        step = watch.wrap(step_of(model, model.optimizer))
        for _ in range(3):
            by_call(strategy, step, data_for(strategy), None)
    assert list(dw.open_run(store).to_xarray().step.values) == [5, 6, 7, 8]
    assert dw.open_run(store).lost == 5


def test_steps_that_are_counted_together_come_home_in_time(tmp_path):
    strategy = strategy_over(1)
    model, _ = small_model(strategy)
    store = tmp_path / "run.zarr"
    with dw.watching(model, model.optimizer, store, window=5, steps_per_execution=3) as watch:
        step = watch.wrap(step_of(model, model.optimizer))

        @tf.function
        def three_steps(batches):
            for _ in tf.range(3):
                strategy.run(step, args=next(batches))

        for _ in range(5):
            three_steps(iter(data_for(strategy)))
            watch.after_step(3)
    assert list(dw.open_run(store).to_xarray().step.values) == list(range(15))


def test_a_step_that_is_not_wrapped_ends_the_watching_only(tmp_path):
    strategy = strategy_over(1)
    model, _ = small_model(strategy)
    with (
        pytest.warns(WatcherDisabledWarning, match="watch.wrap"),
        dw.watching(model, model.optimizer, tmp_path / "run.zarr") as watch,
    ):
        by_call(strategy, step_of(model, model.optimizer), data_for(strategy), watch)
    assert watch.status.error is not None


def test_what_xla_compiles_is_refused(tmp_path):
    model, _ = small_model(strategy_over(1))
    with (
        pytest.raises(UnsupportedTrainingError, match="leave jit_compile out"),
        dw.watching(model, model.optimizer, tmp_path / "run.zarr") as watch,
    ):
        step = tf.function(watch.wrap(step_of(model, model.optimizer)), jit_compile=True)
        step(*next(iter(data_for(strategy_over(1)))))


def test_a_step_around_all_replicas_is_refused(tmp_path):
    strategy = strategy_over(2)
    model, _ = small_model(strategy)
    with (
        pytest.raises(UnsupportedTrainingError, match="on each replica, not around"),
        dw.watching(model, model.optimizer, tmp_path / "run.zarr", strategy=strategy) as watch,
        strategy.scope(),
        watch.step(),
    ):
        pass


def test_a_step_under_another_strategy_is_refused(tmp_path):
    strategy = strategy_over(2)
    model, _ = small_model(strategy)
    with (
        pytest.raises(
            UnsupportedTrainingError, match=r"on 2 replicas, .* the default strategy"
        ),
        dw.watching(model, model.optimizer, tmp_path / "run.zarr") as watch,
    ):
        by_call(strategy, watch.wrap(lambda x, y: None), data_for(strategy), watch)


def test_a_model_of_a_strategy_may_be_used_without_it(tmp_path):
    model, _ = small_model(strategy_over(2))
    with dw.watching(model, store=tmp_path / "run.zarr", signals=dw.activations()) as watch:
        step = watch.wrap(model)
        for x, _ in data_for(strategy_over(1)):
            step(x)
            watch.after_step()
    assert len(dw.open_run(tmp_path / "run.zarr")) == 3


def test_a_raw_delta_of_another_size_ends_the_watching(tmp_path):
    """Its features were joined as those of the first step, eight rows out of four."""
    sequences = keras.Sequential([keras.Input((None, 2)), keras.layers.Dense(2, name="d")])
    signals = dw.tensors("d", every=1, reference="none")
    with (
        pytest.warns(WatcherDisabledWarning, match="tensor/d are of another size"),
        dw.watching(sequences, store=tmp_path / "run.zarr", signals=signals) as watch,
    ):
        step = watch.wrap(sequences)
        for length in (3, 6):
            step(tf.ones((4, length, 2)))
            watch.after_step()
    assert dw.open_run(tmp_path / "run.zarr").tensor("tensor/d").shape == (1, 1, 4, 3, 2)


def none_of(x):
    return x[:, :0]


def test_a_raw_delta_without_elements_is_refused(tmp_path):
    empty = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(none_of, name="none")])
    tensors = dw.tensors("none", every=1)
    with (
        pytest.raises(UnwatchableError, match="has no elements"),
        dw.watching(empty, store=tmp_path / "run.zarr", signals=tensors) as watch,
    ):
        watch.wrap(empty)(tf.ones((4, 2)))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"model": "model"}, ConfigError, "expected a Keras model .* found a str"),
        ({"model": []}, ConfigError, "give a keras.Model"),
        ({"optimizer": "adam"}, ConfigError, "expected a Keras optimizer"),
        ({"steps_per_execution": 0}, ConfigError, "at least 1"),
        ({"signals": "nothing_like_it"}, UnknownSignalError, "nearest"),
        ({"signals": [dw.gradients("nothing")]}, UnknownSignalError, "nearest"),
    ],
)
def test_arguments_that_are_wrong(tmp_path, change, error, says):
    model, _ = small_model(strategy_over(1))
    arguments = {"model": model, "optimizer": model.optimizer, "store": tmp_path / "run.zarr"}
    arguments |= change
    with pytest.raises(error, match=says):
        dw.watching(
            arguments.pop("model"),
            arguments.pop("optimizer"),
            arguments.pop("store"),
            **arguments,
        )
    assert not (tmp_path / "run.zarr").exists()


def test_models_of_one_name_and_losses_outside_a_step(tmp_path):
    model, _ = small_model(strategy_over(1))
    with pytest.raises(ConfigError, match="give each a name of its own"):
        dw.watching([model, model], None, tmp_path / "run.zarr")
    with (
        pytest.raises(ConfigError, match="inside a watched step"),
        dw.watching(model, None, tmp_path / "run.zarr") as watch,
    ):
        watch.loss(1.0)


def test_gradients_need_an_optimizer_that_is_known(tmp_path):
    strategy = strategy_over(1)
    model, _ = small_model(strategy)
    (other, _), (optimizer, _) = two_models(strategy)
    with pytest.raises(NothingToWatchError, match="updates: the model has no optimizer"):
        dw.watching(other, None, tmp_path / "run.zarr", signals=[dw.updates()])
    with (
        pytest.raises(NothingToWatchError, match="does not call the apply method"),
        dw.watching(model, optimizer, tmp_path / "run.zarr", signals=[dw.updates()]) as watch,
    ):
        by_call(
            strategy, watch.wrap(step_of(model, model.optimizer)), data_for(strategy), watch
        )


def test_a_model_that_is_not_called_is_refused(tmp_path):
    strategy = strategy_over(1)
    (generator, _), optimizers = two_models(strategy)
    model, _ = small_model(strategy)
    with (
        pytest.raises(NothingToWatchError, match="nothing to watch"),
        dw.watching(generator, list(optimizers), tmp_path / "run.zarr") as watch,
    ):
        by_call(
            strategy, watch.wrap(step_of(model, model.optimizer)), data_for(strategy), watch
        )


@pytest.mark.keras
def test_what_keras_cannot_do_in_a_loop_either(tmp_path):
    strategy = strategy_over(2)
    model, _ = small_model(strategy)
    with strategy.scope():
        optimizer = keras.optimizers.SGD(gradient_accumulation_steps=2)
    with pytest.raises(UnsupportedTrainingError, match="cannot accumulate gradients"):
        dw.watching(model, optimizer, tmp_path / "run.zarr", strategy=strategy)
    central = tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"])
    with pytest.raises(UnsupportedTrainingError, match="cannot train under CentralStorage"):
        dw.watching(model, model.optimizer, tmp_path / "run.zarr", strategy=central)
