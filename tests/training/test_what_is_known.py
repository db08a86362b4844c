"""What a run knows of its signals besides their rows: order, copies, what is trained."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import distwatch as dw
from distwatch.config import watch_config
from distwatch.records import NO_GRADIENT
from distwatch.training.taps import trace_step

layers = keras.layers

# Keras's own warning of what is planted here.
pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist for:UserWarning")


class Crossed(keras.Model):
    """Its layers are called in another order than that in which they were made."""

    def __init__(self):
        super().__init__()
        self.last = layers.Dense(1, name="last")
        self.frozen = layers.Dense(4, name="frozen", trainable=False)
        self.norm = layers.BatchNormalization(name="norm")
        self.first = layers.Dense(4, name="first")
        self.cut = layers.Dense(4, name="cut")

    def call(self, x, training=None):
        kept = self.norm(self.frozen(self.first(x)), training=training)
        return self.last(kept + tf.stop_gradient(self.cut(x)))


def traced(*signals):
    model = Crossed()
    batch = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")
    model(batch[0])
    model.compile("sgd", "mse")
    return trace_step(model, batch, watch_config(store="none.zarr", signals=list(signals))).plan


@pytest.mark.slow
def test_signals_are_in_the_order_of_calls():
    # A frozen layer is watched where it is named.
    plan = traced(dw.activations(), dw.activations("frozen"), dw.gradients(applied=False))
    known = {signal.name: signal for feed in plan.feeds for signal in feed.table.signals}
    outputs = ["first", "frozen", "norm", "cut", "last"]
    orders = [known[f"activation/{name}"].order for name in outputs]
    assert orders == sorted(set(orders))
    # The model puts out what its last layer did; a variable has its layer's place.
    assert known["activation/output"].order == known["activation/last"].order
    assert known["gradient_local/first/kernel"].order == known["activation/first"].order
    assert {name: known[f"activation/{name}"].trained for name in outputs} == {
        "first": True, "frozen": False, "norm": True, "cut": True, "last": True
    }  # fmt: skip


def test_what_a_layer_keeps_is_no_copy():
    plan = traced(dw.weights(), dw.updates(), dw.loss())
    known = {s.name: s.copied for feed in plan.feeds for s in feed.table.signals}
    assert known["weight/norm/moving_mean"] is known["weight/norm/moving_variance"] is False
    copies = {name: copied for name, copied in known.items() if "moving" not in name}
    assert copies.pop("loss") is None
    assert set(copies.values()) == {True}
    assert "weight/frozen/kernel" in copies


def test_variables_that_no_gradient_reaches_are_noted_whatever_is_watched():
    for signals in ([dw.activations()], [dw.gradients()], [dw.updates("last/*")]):
        missing = {k for k, why in traced(*signals).unwatched.items() if why == NO_GRADIENT}
        assert missing == {"cut/kernel", "cut/bias"}
