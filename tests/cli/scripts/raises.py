"""Errors in all places of a fit, the last of them to the end of the script."""

import sys
import traceback

import keras
import numpy as np


class Model(keras.Model):
    def __init__(self, in_step=None):
        super().__init__()
        self.guess = keras.layers.Dense(1)
        self.in_step = in_step
        self.compile("sgd", "mse")

    def call(self, x):
        return self.guess(x)

    def train_step(self, data):
        if self.in_step:
            self.in_step()
        return super().train_step(data)


class Raise(keras.callbacks.Callback):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise self.error


def broken():
    try:
        {}["nothing"]
    except KeyError as error:
        raise ValueError("in the step") from error


keras.utils.set_random_seed(9)
x = np.arange(24.0).reshape(8, 3).astype("float32")
y = x.sum(1, keepdims=True)
last = Model()
for attempt in (
    lambda: Model(broken).fit(x, y, verbose=0),
    lambda: last.fit(x, y, 2, verbose=0, callbacks=[Raise(LookupError("in a callback"))]),
    lambda: last.fit(x, y, wrong=3),
    lambda: keras.Sequential([keras.layers.Dense(1)]).fit(x, y),
    lambda: last.fit(x, y[:3], verbose=0),
    lambda: last.fit(x, y, 2, verbose=0, callbacks=[Raise(KeyboardInterrupt())]),
):
    try:
        attempt()
    except (Exception, KeyboardInterrupt) as error:
        kept = error
        traceback.print_exc() if isinstance(error, Exception) else print("interrupted")
np.savez("weights.npz", *last.get_weights())
sys.stderr.flush()
last.fit(x, y, 2, verbose=0, callbacks=[Raise(kept)])
