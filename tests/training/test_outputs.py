"""Outputs that are not simply dense floats of one shape: watched, or refused by name."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_truth import assert_rows_equal, deltas_of
from trainings import Ear, fit, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import UnwatchableError

layers = keras.layers


class Odd(layers.Layer):
    """Has a weight, so that it is watched by default, and puts out what ``make`` makes."""

    def __init__(self, make, **kwargs):
        super().__init__(**kwargs)
        self.make = make
        self.scale = self.add_weight((), "ones")

    def call(self, x):
        return self.make(x * self.scale)


class Aside(keras.Model):
    """Calls an odd layer beside the way of its data."""

    def __init__(self, make):
        super().__init__()
        self.hidden = layers.Dense(8, name="hidden")
        self.odd = Odd(make, name="odd")
        self.ear = Ear(name="ear")
        self.head = layers.Dense(4, name="head")

    def build(self, shape):
        self.hidden.build(shape)
        self.head.build((None, 8))

    def call(self, x, training=None):
        hidden = self.hidden(x)
        self.ear(self.odd(hidden), training=training)
        return self.head(hidden * self.odd.scale)  # so that a gradient reaches it


def made(replicas, make):
    keras.utils.set_random_seed(3)
    with strategy_over(replicas).scope():
        model = Aside(make)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        model.build((None, 12))
    return model


def ragged(x):
    return tf.RaggedTensor.from_row_splits(tf.reshape(x, [-1]), [0, tf.size(x)])


ODD = {
    "ragged": (ragged, "it is a RaggedTensor, only dense tensors"),
    "sparse": (tf.sparse.from_dense, "it is a SparseTensor, only dense tensors"),
    "string": (tf.strings.as_string, "it is of dtype string, not of real numbers"),
    "complex": (lambda x: tf.complex(x, x), "it is of dtype complex64, not of real numbers"),
}


@pytest.mark.fast_cases("sparse-2")
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("name", ODD)
def test_what_has_no_delta_is_refused_by_name_or_passed_over(tmp_path, name, replicas):
    make, why = ODD[name]
    model = made(replicas, make)
    before = model.get_weights()
    with pytest.raises(UnwatchableError, match=f"activation/odd' was asked for.*{why}"):
        fit(model, *unlike_rows(32), dw.Watch(tmp_path / "named.zarr", signals="odd"))
    np.testing.assert_array_equal(before[0], model.get_weights()[0])

    fit(model, *unlike_rows(32), dw.Watch(tmp_path / "run.zarr", signals=dw.activations()))
    run = dw.open_run(tmp_path / "run.zarr")
    assert run.info.unwatched["odd"].startswith(why)
    assert run.signals == ["activation/hidden", "activation/head", "activation/output"]
    assert len(run) == 2


@pytest.mark.fast_cases("2-uint8")
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_integers_are_watched_as_the_numbers_that_they_are(tmp_path, dtype, replicas):
    model = made(replicas, lambda x: tf.cast(tf.round(tf.abs(x) * 20), dtype))
    fit(model, *unlike_rows(42), dw.Watch(tmp_path / "run.zarr"), epochs=2)
    rows = dw.open_run(tmp_path / "run.zarr").to_xarray().sel(signal="activation/odd")
    for replica in range(replicas):
        # No wrap-around of unsigned numbers: their deltas may be negative.
        recorded = [batch.astype(np.float32) for batch in model.ear.recorded[replica]]
        assert_rows_equal(rows.sel(replica=replica), deltas_of(recorded, "previous"))
        assert (rows["min"].sel(replica=replica)[1:] < 0).all()
