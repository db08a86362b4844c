"""Fits of which some cannot be watched: with signals ["known"], in a place that is taken."""

import os
import sys
from pathlib import Path

import keras
import numpy as np

FOLDER = Path(sys.argv[1])


class Own(keras.callbacks.Callback):
    """Fits another model in the middle."""

    def on_train_begin(self, logs=None):
        fit(model("known"), batches(), steps_per_epoch=2)


class Deaf(keras.Model):
    """Has a layer that it never calls."""

    def __init__(self):
        super().__init__()
        self.known = keras.layers.Dense(2, name="known")
        self.guess = keras.layers.Dense(1)
        self.drop = keras.layers.Dropout(0.5)

    def call(self, x, training=False):
        return self.guess(self.drop(x, training=training))


def model(name):
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, "relu", name=name),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )


def batches():
    """A generator: what is drawn from it is gone."""
    for k in range(100):
        x = np.arange(12.0).reshape(4, 3).astype("float32") * 0.1 + k
        yield x, x.sum(1, keepdims=True)


weights = []


def fit(each, data, **arguments):
    each.compile("adam", "mse")
    history = each.fit(data, verbose=0, **arguments)
    print(history.history, flush=True)
    weights.extend(each.get_weights())


# Before TensorFlow starts, which does not survive a fork.
if child := os.fork():
    os.waitpid(child, 0)
else:
    keras.utils.set_random_seed(12)
    fit(model("known"), batches(), steps_per_epoch=1)
    sys.exit(0)
keras.utils.set_random_seed(11)
taken = FOLDER / "fit-002.zarr"
taken.mkdir(parents=True)
(taken / "letter.txt").write_text("keep me")
fit(model("known"), batches(), steps_per_epoch=3)
fit(model("other"), batches(), steps_per_epoch=3)  # a layer that is not there
fit(model("known"), batches(), steps_per_epoch=3)  # a place that is taken
fit(model("known"), batches(), steps_per_epoch=3, callbacks=[Own()])  # one within another
listed = keras.callbacks.CallbackList([], add_history=True, model=(m := model("known")))
fit(m, batches(), steps_per_epoch=3, callbacks=listed)
fit(Deaf(), batches(), steps_per_epoch=3)  # found out while the first step is traced
np.savez("weights.npz", *weights)
