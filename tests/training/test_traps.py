"""Which traps are listed, refused and said, and when; that they are real: test_hazards.py
and test_obstacles.py."""

import inspect
import re

import keras
import pytest
import tensorflow as tf
from test_hazards import RowMean, built
from trainings import fit, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import KnownTrapWarning, UnsupportedTrainingError
from distwatch.training.traps import hazards, obstacles

layers, optimizers = keras.layers, keras.optimizers
IGNORING = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=3)
WEIGHTED = keras.losses.SparseCategoricalCrossentropy(
    from_logits=True, reduction="mean_with_sample_weight"
)


def listed(model, strategy=None):
    return [trap.name for trap in dw.preflight(model, strategy)]


class Whole:
    """An optimizer that reduces its gradients before anything else, as is advised."""

    def apply(self, grads, trainable_variables=None):
        context = tf.distribute.get_replica_context()
        reduced = context.all_reduce(tf.distribute.ReduceOp.MEAN, list(grads))
        return super().apply(reduced, trainable_variables)


def kinds(*bases):
    return type("Own", bases, {})


@pytest.mark.parametrize(
    ("layer", "optimizer", "loss", "name"),
    [
        (layers.BatchNormalization, None, None, "batch_norm"),
        (lambda: layers.BatchNormalization(synchronized=True), None, None, None),
        (lambda: layers.BatchNormalization(trainable=False), None, None, None),
        (RowMean, None, None, "layer_state"),
        (lambda: RowMean(aggregation="mean"), None, None, None),
        (lambda: layers.Dropout(0.5), None, None, "seeds"),
        (lambda: layers.Dropout(0.0), None, None, None),
        (lambda: layers.GaussianNoise(0.5), None, None, "seeds"),
        (layers.LayerNormalization, None, None, None),
        (None, lambda: optimizers.SGD(clipnorm=1.0), None, "clipping"),
        (None, lambda: optimizers.SGD(clipvalue=1.0), None, "clipping"),
        (None, lambda: optimizers.Adam(global_clipnorm=1.0), None, "clipping"),
        (None, lambda: kinds(Whole, optimizers.SGD)(clipnorm=1.0), None, None),
        (
            None,
            lambda: optimizers.LossScaleOptimizer(optimizers.SGD()),
            None,
            "loss_scale",
        ),
        (
            None,
            lambda: kinds(Whole, optimizers.LossScaleOptimizer)(optimizers.SGD()),
            None,
            None,
        ),
        (None, None, WEIGHTED, "weighted_mean"),
        (None, None, IGNORING, "ignored_class"),
        (None, None, None, None),
    ],
)
def test_what_a_model_runs_into(layer, optimizer, loss, name):
    for replicas in (1, 2):
        model = built(
            replicas,
            *([layer] if layer else []),
            optimizer=optimizer or optimizers.SGD,
            loss=lambda: loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        assert listed(model) == ([name] if name and replicas > 1 else [])


def test_a_mask_above_synchronized_normalization():
    synchronized = lambda: layers.BatchNormalization(synchronized=True)  # noqa: E731
    model = built(2, layers.Masking, synchronized, shape=(6, 5))
    assert listed(model) == ["masked_batch_norm"]


@pytest.mark.parametrize("stateful", [True, False])
def test_states_that_each_replica_keeps(stateful):
    with strategy_over(2).scope():
        memory = layers.LSTM(3, stateful=stateful)
        model = keras.Sequential([keras.Input((6, 5), batch_size=8), memory])
        model.compile("sgd", "mse")
    assert listed(model) == (["rnn_states"] if stateful else [])


def test_what_was_made_outside_the_scope(tmp_path):
    model = built(2)
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    assert listed(model) == ["optimizer_scope"]

    outside, _ = small_model(strategy_over(1))
    strategy = strategy_over(2)
    (trap,) = dw.preflight(outside, strategy)
    assert (trap.name, trap.fatal) == ("scope", True)
    with pytest.raises(UnsupportedTrainingError, match="made outside the scope"):
        dw.watching(outside, outside.optimizer, tmp_path / "run.zarr", strategy=strategy)


def test_a_watch_says_each_once_and_before_the_first_step(tmp_path):
    model = built(2, layers.BatchNormalization, lambda: layers.Dropout(0.5))

    class First(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            # On Python 3.13 AutoGraph itself is warned of what will change in Python.
            said.append(sum(each.category is KnownTrapWarning for each in warned))

    said = []
    with pytest.warns(KnownTrapWarning) as warned:
        fit(model, *unlike_rows(32), First(), dw.Watch(tmp_path / "run.zarr"), epochs=2)
    assert said == [1] * 4
    (known,) = [each for each in warned if each.category is KnownTrapWarning]
    text = str(known.message)
    assert "- the moving statistics of BatchNormalization (batch_norm" in text
    assert "pass synchronized=True" in text
    assert "- every replica draws the same random numbers (dropout" in text
    assert known.filename.endswith("trainings.py")  # whose fit() calls model.fit


# Keras's own words on the batches that it has lost.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_that_is_lost_or_split_unevenly(tmp_path):
    def batches():
        for seed in range(4):
            yield unlike_rows(16, seed=seed)

    with pytest.warns(KnownTrapWarning, match="a generator that it never trains on"):
        watch = dw.Watch(tmp_path / "run.zarr")
        built(2).fit(batches(), verbose=0, shuffle=False, callbacks=[watch])
    with pytest.warns(KnownTrapWarning, match="last batch of 5 rows is split unevenly"):
        fit(built(2), *unlike_rows(37), dw.Watch(tmp_path / "uneven.zarr"))
    # On one device neither is a fault.
    built(1).fit(
        batches(), verbose=0, shuffle=False, callbacks=[dw.Watch(tmp_path / "one.zarr")]
    )


@pytest.mark.slow
def test_batches_by_hand_go_to_every_replica(tmp_path):
    watch = dw.Watch(tmp_path / "run.zarr", phases=["train_on_batch"])
    model = built(2)
    with (
        pytest.warns(KnownTrapWarning, match="gives every replica the whole batch"),
        watch.attached(model),
    ):
        model.train_on_batch(*unlike_rows(16))
    rows = dw.open_run(tmp_path / "run.zarr", phase="train_on_batch").to_xarray()
    assert rows.sizes["step"] == 1


def test_loops_are_told_too(tmp_path):
    strategy = strategy_over(2)
    with strategy.scope():
        model = keras.Sequential([keras.Input((12,)), layers.BatchNormalization()])
        optimizer = optimizers.SGD(clipnorm=1.0)
    with pytest.warns(KnownTrapWarning, match=r"(?s)batch_norm.*clipnorm=1.0 clips"):
        dw.watching(model, optimizer, tmp_path / "run.zarr", strategy=strategy)


def test_every_trap_has_evidence_and_a_remedy():
    """Of each Trap in the source: it is named in a test, and all its parts are said."""
    tests = "".join(
        inspect.getsource(inspect.getmodule(each)) for each in (built, test_loops_are_told_too)
    )
    source = inspect.getsource(hazards) + inspect.getsource(obstacles)
    names = re.findall(r'Trap\(\s+"(\w+)"', source)
    assert len(names) == len(set(names)) == 21
    for name in set(names) - IN_TEST_OBSTACLES - OF_DATA:
        assert f'"{name}"' in tests, name


#: Reproduced, unwatched, and refused with their remedies in test_obstacles.py, and in
#: test_several_workers.py.
IN_TEST_OBSTACLES = {"jit", "strategy", "accumulation", "ema_overwrite", "virtual_cpus"}
IN_TEST_OBSTACLES |= {"multiworker_fit"}
#: Found by their words in the tests above.
OF_DATA = {"generator", "uneven_shards", "train_on_batch"}
#: Found while a step is traced: test_loss_scaling.py.
IN_TEST_OBSTACLES |= {"undivided_loss"}
