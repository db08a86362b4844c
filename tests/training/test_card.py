"""What a Watch records of a training as a whole by default: its card, its data, its loss."""

import keras
import numpy as np
import pytest
from trainings import strategy_over, unlike_rows

import distwatch as dw
from distwatch.records import Layer

X, Y = unlike_rows(96)
ROWS = 16


def model_of(*, optimizer="adam", loss="sparse_categorical_crossentropy", last="softmax"):
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(8, "tanh", name="hidden", kernel_initializer="he_normal"),
            keras.layers.ReLU(name="bent"),
            keras.layers.Dense(4, last, name="out"),
        ]
    )
    model.compile(optimizer, loss)
    return model


def watched(tmp_path, model, *, epochs=1, **how):
    watch = dw.Watch(tmp_path / "run.zarr", strict=True)
    model.fit(
        X, Y, batch_size=ROWS, shuffle=False, epochs=epochs, verbose=0, callbacks=[watch], **how
    )
    return dw.open_run(tmp_path / "run.zarr")


def test_the_card_says_what_is_trained(tmp_path):
    card = watched(tmp_path, model_of(optimizer=keras.optimizers.SGD(0.25))).info.card
    assert card.layers == (
        Layer("hidden", "Dense", "tanh", 8, "HeNormal", True),
        Layer("bent", "ReLU", "relu", 8, None, None),
        Layer("out", "Dense", "softmax", 4, "GlorotUniform", True),
    )
    assert card.last_layer == card.layers[-1]
    assert (card.loss, card.own_loss, card.from_logits) == (
        "sparse_categorical_crossentropy",
        False,
        False,
    )
    assert (card.optimizer, card.learning_rate) == ("SGD", 0.25)
    assert not card.further_terms


@pytest.mark.fast_cases("1")
@pytest.mark.parametrize("replicas", [1, 2])
def test_the_card_says_what_is_frozen_as_it_was_made(tmp_path, replicas):
    with strategy_over(replicas).scope():
        inner = [
            keras.layers.Dense(8, name="made", trainable=False),
            keras.layers.BatchNormalization(name="loaded", trainable=False),
            keras.layers.Dense(8, use_bias=False, name="without", trainable=False),
            keras.layers.Dense(4, name="out"),
        ]
        model = keras.Sequential([keras.Input((12,)), *inner])
        model.get_layer("loaded").gamma.assign(np.full(8, 1.5))
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    known = {layer.path: layer.fresh for layer in watched(tmp_path, model).info.card.layers}
    assert known == {"made": True, "loaded": False, "without": None, "out": None}


@pytest.mark.slow
def test_the_card_says_how_strong_regularizers_are(tmp_path):
    regularizers = keras.regularizers
    made = {
        "none": None,
        "l2": regularizers.L2(0.5),
        "both": regularizers.L1L2(0.01, 0.02),
        "own": regularizers.OrthogonalRegularizer(0.3),
    }
    inner = [
        keras.layers.Dense(12, name=name, kernel_regularizer=each)
        for name, each in made.items()
    ]
    model = keras.Sequential([keras.Input((12,)), *inner])
    model.compile("adam", "sparse_categorical_crossentropy")
    known = {layer.path: layer.penalty for layer in watched(tmp_path, model).info.card.layers}
    assert known == {"none": None, "l2": 0.5, "both": pytest.approx(0.02), "own": None}


WIDE = {
    "normal": (keras.initializers.RandomNormal(stddev=2.0), 2.0),
    "uniform": (keras.initializers.RandomUniform(-3.0, 3.0), 6 / 12**0.5),
    "by its size": (keras.initializers.HeNormal(), None),
}


@pytest.mark.fast_cases("normal", "by its size")
@pytest.mark.parametrize("name", WIDE)
def test_a_layer_says_how_wide_its_first_weights_are_spread(tmp_path, name):
    initializer, width = WIDE[name]
    model = keras.Sequential(
        [
            keras.Input((3, 4, 1)),
            keras.layers.Conv2D(2, (3, 2), kernel_initializer=initializer),
            keras.layers.Flatten(),
            keras.layers.Dense(4, kernel_initializer=initializer),
        ]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    watch = dw.Watch(tmp_path / "run.zarr")
    model.fit(X.reshape(-1, 3, 4, 1), Y, verbose=0, callbacks=[watch])
    convolution, _, dense = dw.open_run(tmp_path / "run.zarr").info.card.layers
    if width is None:
        assert (convolution.spread, dense.spread) == (None, None)
    else:
        # Inputs and outputs: 3 x 2 x 1 and 3 x 2 x 2; 6 and 4.
        assert convolution.spread == pytest.approx(width / (2 / 18) ** 0.5)
        assert dense.spread == pytest.approx(width / (2 / 10) ** 0.5)


def own(y, said):
    return keras.ops.mean(keras.ops.square(keras.ops.one_hot(y, 4) - said))


@pytest.mark.fast_cases("how0-*")
@pytest.mark.parametrize(
    "how, known",
    [
        (
            {
                "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                "last": None,
            },
            {"loss": "sparse_categorical_crossentropy", "from_logits": True},
        ),
        ({"loss": own}, {"loss": "own", "own_loss": True}),
    ],
)
def test_losses_are_told_apart(tmp_path, how, known):
    card = watched(tmp_path, model_of(**how)).info.card
    assert {name: getattr(card, name) for name in known} == known


SUM = keras.losses.SparseCategoricalCrossentropy(reduction="sum")


@pytest.mark.fast_cases("sum")
@pytest.mark.parametrize(
    "how", [{"loss": SUM}, {"loss_weights": [0.5]}], ids=["sum", "weights"]
)
def test_a_loss_that_is_no_mean_is_not_compared(tmp_path, how):
    model = model_of()
    model.compile("adam", **{"loss": "sparse_categorical_crossentropy"} | how)
    assert watched(tmp_path, model).info.card.further_terms


@pytest.mark.slow
def test_weights_of_examples_are_further_terms(tmp_path):
    run = watched(tmp_path, model_of(), sample_weight=np.linspace(0.5, 2, len(X)))
    assert run.info.card.further_terms


@pytest.mark.fast_cases("2")
@pytest.mark.parametrize("replicas", [1, 2])
def test_the_data_are_those_of_the_batch(tmp_path, replicas):
    with strategy_over(replicas).scope():
        model = model_of()
    run = watched(tmp_path, model, epochs=2)
    assert run.signals[-4:] == ["loss", "data/input", "data/target", "data/prediction"]
    rows = run.to_xarray().sel(signal=["data/input", "data/target"])
    rows = rows[["mean", "std", "min", "max"]].dropna("step", how="all")
    # Every tenth of twelve steps; the 11th is the fifth of the second epoch.
    assert rows.step.values.tolist() == [0, 10]
    half = ROWS // replicas
    for step, start in ((0, 0), (10, 4 * ROWS)):
        for replica in range(replicas):
            part = slice(start + replica * half, start + (replica + 1) * half)
            for name, values in (("data/input", X[part]), ("data/target", Y[part])):
                row = rows.sel(step=step, replica=replica, signal=name)
                np.testing.assert_allclose(row["mean"], values.mean(), rtol=1e-5)
                np.testing.assert_allclose(row["std"], values.std(), rtol=1e-5)
                assert (row["min"], row["max"]) == (values.min(), values.max())


class OfItsOwn(keras.Model):
    """Computes its loss by hand, and is given more than x, y and weights."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4, name="dense")

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = keras.ops.mean(self(data["x"], training=True) ** 2)
        self.optimizer.apply(
            tape.gradient(loss, self.trainable_variables), self.trainable_variables
        )
        return {"loss": loss}


def test_what_is_not_there_is_listed_and_not_warned_of(tmp_path):
    model = OfItsOwn()
    model.compile("adam")
    watch = dw.Watch(tmp_path / "run.zarr", strict=True)
    model.fit({"x": X}, batch_size=ROWS, verbose=0, callbacks=[watch])
    run = dw.open_run(tmp_path / "run.zarr")
    assert "loss" not in run.signals and "compute_loss" in run.unwatched["loss"]
    assert run.info.card.loss is None
    assert run.info.card.last == "dense"
