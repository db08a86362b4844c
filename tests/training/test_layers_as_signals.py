"""Layers given as objects, and names of layers that mean their variables."""

import keras
import numpy as np
import pytest
from trainings import fit, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import ConfigError, UnknownSignalError, UnwatchedWarning
from distwatch.training.strategies import facts_of
from distwatch.training.taps import of_model
from distwatch.training.taps.tap import TAPS, LayerTap, Watched


def model_over(replicas):
    """Two layers are called "dense": one in the encoder, one after it."""
    with strategy_over(replicas).scope():
        encoder = keras.Sequential(
            [keras.Input((12,)), keras.layers.Dense(6, "tanh", name="dense")], name="encoder"
        )
        inputs = keras.Input((12,))
        hidden = keras.layers.Dense(5, "relu", name="hidden")(encoder(inputs))
        outputs = keras.layers.Dense(8, name="dense")(keras.layers.Reshape((5,))(hidden))
        model = keras.Model(inputs, outputs, name="functional")
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.fixture(scope="module")
def model():
    return model_over(2)


def chosen_by(model, selector):
    """The paths that a selector chooses in a model, without a step of it."""
    watched = Watched(of_model(model), facts_of(model.distribute_strategy))
    tap = TAPS[type(selector)](selector, watched)
    if isinstance(tap, LayerTap):
        return [place.path for place in tap.chosen_layers()]
    return list(tap.chosen_weights())


@pytest.mark.parametrize("kind", [dw.gradients, dw.weights, dw.updates])
def test_variables_are_those_of_the_layer_itself_or_of_all_of_its_name(model, kind):
    encoder, both = model.get_layer("encoder"), ["encoder/dense/kernel", "encoder/dense/bias"]
    assert chosen_by(model, kind("hidden")) == ["hidden/kernel", "hidden/bias"]
    assert chosen_by(model, kind(model.get_layer("dense"))) == ["dense/kernel", "dense/bias"]
    assert chosen_by(model, kind(encoder.get_layer("dense"))) == both
    assert chosen_by(model, kind([encoder, "hidden/bias"])) == [*both, "hidden/bias"]
    assert chosen_by(model, kind("dense")) == [*both, "dense/kernel", "dense/bias"]
    assert len(chosen_by(model, kind(model))) == len(model.weights) == 6


@pytest.mark.parametrize(
    "kind",
    [
        dw.activations,
        lambda layers: dw.activations(layers, inputs=True, outputs=False),
        lambda layers: dw.probe(np.ones((4, 12)), layers=layers),
        lambda layers: dw.tensors(layers, every=10),
    ],
)
def test_a_layer_is_itself_and_none_of_the_same_name(model, kind):
    encoder = model.get_layer("encoder")
    assert chosen_by(model, kind(model.get_layer("dense"))) == ["dense"]
    assert chosen_by(model, kind([encoder.get_layer("dense"), "hid*"])) == [
        "encoder/dense",
        "hidden",
    ]
    assert chosen_by(model, kind("dense")) == ["encoder/dense", "dense"]
    # Of layers, a name means what is called so, not what is inside.
    assert chosen_by(model, kind("encoder")) == chosen_by(model, kind(encoder)) == ["encoder"]
    assert chosen_by(model, kind(model)) == ["output"]


@pytest.mark.slow
def test_a_model_a_number_as_schedule_and_what_was_not_watched(model, tmp_path):
    x, y = unlike_rows(64)
    chosen = [model, dw.weights(model), dw.desync("hidden", every=1), dw.updates("conv*")]
    watch = dw.Watch(tmp_path / "run.zarr", signals=chosen, schedule=3)
    assert repr(watch) == (
        f"<distwatch.Watch {str(tmp_path / 'run.zarr')!r}: activations(functional), "
        "weights(functional), desync(hidden), updates(conv*), every(3); not started>"
    )
    with pytest.warns(UnwatchedWarning):
        fit(model, x, y, watch, batch=8)
    # Every third of 8 steps, of the output and of the weights, and all of the checksums.
    assert "every(3); 14 rows of its tables drained, 14 committed>" in repr(watch)
    run = dw.open_run(tmp_path / "run.zarr")
    assert run.signals[0] == "activation/output"
    assert len(run.signals) == 1 + len(model.weights)
    assert run["output"].merged().step.values.tolist() == [0, 3, 6]
    assert run.copies().variable.values.tolist() == ["hidden/kernel", "hidden/bias"]
    assert "matches no weight" in run.unwatched["updates: conv*"]
    assert run.info.names == tuple(run.signals)


def test_half_of_a_layer_is_watched_where_the_other_half_cannot_be(tmp_path):
    norm = keras.Sequential([keras.Input((12,)), keras.layers.BatchNormalization(name="norm")])
    norm.compile("sgd", "mse")
    x, _ = unlike_rows(32)
    fit(norm, x, x, dw.Watch(tmp_path / "run.zarr", signals=dw.updates("norm")))
    found = dw.open_run(tmp_path / "run.zarr").signals
    assert found == ["update/norm/gamma", "update/norm/beta"]


def test_layers_that_cannot_be_watched_are_refused_before_the_run_is_made(model, tmp_path):
    x, y = unlike_rows(32)
    other = keras.layers.Dense(5, name="hidden")
    reshape = next(each for each in model.layers if isinstance(each, keras.layers.Reshape))
    for signals, says in (
        ([other], "'hidden' that was given is not in this model"),
        (dw.gradients(other), "'hidden' that was given is not in this model"),
        (dw.weights(reshape), "matches no weight of this model"),
    ):
        with pytest.raises(UnknownSignalError, match=says):
            fit(model, x, y, dw.Watch(tmp_path / "run.zarr", signals=signals))
    assert not (tmp_path / "run.zarr").exists()
    with pytest.raises(ConfigError, match="or layers"):
        dw.gradients([object()])


def test_a_layer_is_given_alone_or_in_a_list(model, tmp_path):
    hidden = model.get_layer("hidden")
    for signals in (hidden, [hidden], dw.activations(hidden), dw.activations([hidden])):
        (chosen,) = dw.Watch(tmp_path / "run.zarr", signals=signals).config.signals
        assert str(chosen) == "activations(hidden)"
