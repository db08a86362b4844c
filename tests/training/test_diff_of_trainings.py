"""Where two real trainings part, and that healthy pairs do not."""

from typing import NamedTuple

import keras
import numpy as np
import pytest
from trainings import fit, strategy_over, unlike_rows

import distwatch as dw

BATCH, STEPS, CHANGED = 16, 80, 50

layers = keras.layers


class TimesFrom(keras.callbacks.Callback):
    """Multiplies the learning rate before a step."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def on_train_batch_begin(self, batch, logs=None):
        if batch == CHANGED:
            rate = self.model.optimizer.learning_rate
            rate.assign(rate * self.times)


def dense():
    return [layers.Dense(16, "relu", name="a"), layers.Dense(8, "tanh", name="b")]


def normalized():
    """With a bias whose gradient is nothing but rounding."""
    return [
        layers.Reshape((12, 1)),
        layers.Conv1D(8, 3, name="a"),
        layers.BatchNormalization(synchronized=True, name="b"),
        layers.Activation("relu"),
        layers.MaxPooling1D(2),
        layers.Flatten(),
    ]


MODELS = {"dense": dense, "normalized": normalized}


class Training(NamedTuple):
    """What is trained, and how: ``times`` the learning rate from step `CHANGED` on."""

    model: str = "dense"
    replicas: int = 1
    policy: str = "float32"
    adam: bool = False
    times: float = 1.0
    #: What is added to the part of the batch of that step that the second of two replicas has.
    moved: float = 0.0


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """The run of a training, made once for all tests that want the same."""
    made = {}

    def run(**how):
        training = Training(**how)
        if training not in made:
            made[training] = watched(training, tmp_path_factory.mktemp("run") / "run.zarr")
        return made[training]

    return run


def watched(training, path):
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    x, y = unlike_rows(BATCH * STEPS)
    x = np.random.default_rng(0).permutation(x)
    x[CHANGED * BATCH + BATCH // 2 : (CHANGED + 1) * BATCH] += training.moved
    signals = [dw.activations(), dw.gradients(), dw.updates(), dw.loss(), dw.inputs()]
    callbacks = [dw.Watch(path, signals=signals), TimesFrom(training.times)]
    fit(built(training), x, y, *callbacks, batch=BATCH)
    return path


def built(training):
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(training.policy)
    try:
        with strategy_over(training.replicas).scope():
            last = layers.Dense(4, dtype="float32", name="c")
            model = keras.Sequential([keras.Input((12,)), *MODELS[training.model](), last])
            optimizer = keras.optimizers.Adam(0.01) if training.adam else "sgd"
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(optimizer, loss)
    finally:
        keras.mixed_precision.set_global_policy(before)
    return model


@pytest.mark.slow
def test_the_same_training_twice_is_identical(train, tmp_path):
    found = dw.diff(train(), watched(Training(), tmp_path / "again.zarr"))
    assert found.verdict == "identical"
    assert found.steps == STEPS


@pytest.mark.slow
def test_other_data_of_one_replica_at_one_step(train):
    found = dw.diff(train(replicas=2), train(replicas=2, moved=1.0))
    first = found.first
    assert (first.step, first.signal, first.replica) == (CHANGED, "input", 1)
    assert found.differences == (f"Data: input differs from step {CHANGED} on.",)
    # In the order in which the step computed them.
    at_once = [each.signal for each in found.signals if each.step == CHANGED]
    assert at_once[:4] == ["input", "activation/a", "activation/b", "activation/c"]


OTHERS = [{"replicas": 2}, {"policy": "mixed_bfloat16"}]


@pytest.mark.slow
@pytest.mark.parametrize("other", OTHERS, ids=["mirrored", "bfloat16"])
def test_healthy_pairs_do_not_part(train, other):
    found = dw.diff(train(), train(**other))
    assert found.verdict == "within_tolerance"
    assert found.differences
    assert "rounding" in " ".join(found.sentences())


@pytest.mark.slow
@pytest.mark.parametrize("other", OTHERS, ids=["mirrored", "bfloat16"])
def test_another_learning_rate_is_found_at_its_step(train, other):
    found = dw.diff(train(), train(times=3.0, **other))
    assert found.first.step == CHANGED
    assert found.first.signal.startswith("update/")


@pytest.mark.slow
def test_a_small_change_is_found_where_nothing_else_differs(train):
    found = dw.diff(train(), train(times=1.01))
    assert found.first.step == CHANGED
    assert "Up to then they are equal bit for bit" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1.0, 3.0])
@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("other", [*OTHERS, {"replicas": 2, "policy": "mixed_bfloat16"}])
def test_over_models_and_optimizers(train, model, adam, times, other):
    found = dw.diff(
        train(model=model, adam=adam), train(model=model, adam=adam, times=times, **other)
    )
    assert (found.first.step if found.first else None) == (CHANGED if times != 1.0 else None)
