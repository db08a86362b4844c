"""What the healthy and the faulty trainings share: data, and how they are watched."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from live_verdicts import ASKED
from trainings import strategy_over

import distwatch as dw

layers, optimizers = keras.layers, keras.optimizers


def everything():
    """All that is watched while a model is trained by fit."""
    return [
        dw.inputs(),
        dw.activations(),
        dw.loss(),
        dw.gradients(applied=False),
        dw.updates(),
        dw.weights(),
    ]


def rows(n=480, features=8, seed=0, mean=0.5):
    """Inputs whose mean is not zero, and a target that depends on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(mean, 1.0, (n, features)).astype("float32")
    way = rng.normal(size=(features, 1))
    y = np.tanh(x @ way) + 0.1 * rng.normal(size=(n, 1))
    return x, y.astype("float32")


def classes(n=480, features=8, seed=0, number=3):
    """Inputs around a centre for each class, and the classes."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1.5, (number, features))
    y = rng.integers(0, number, n)
    return (centres[y] + rng.normal(size=(n, features))).astype("float32"), y


def images(n=256, seed=0):
    """Bright squares on a dark ground, and in which quarter they are."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.1, 0.05, (n, 12, 12, 1)).astype("float32")
    y = rng.integers(0, 4, n)
    for image, quarter in zip(x, y, strict=True):
        row, column = 6 * (quarter // 2), 6 * (quarter % 2)
        image[row + 1 : row + 5, column + 1 : column + 5] += 1.0
    return x, y


def mlp(*outputs, units=16, activation="relu", last=None, features=8):
    """Two hidden layers, a and b, and the output layer c."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((features,)),
            layers.Dense(units, activation, name="a"),
            layers.Dense(units, activation, name="b"),
            layers.Dense(*outputs or (1,), activation=last, name="c"),
        ]
    )


def fit(path, make, x, y, *, replicas=1, signals=None, callbacks=(), compiled=None, **how):
    """Train what ``make`` makes, watched, and open the run."""
    strategy = strategy_over(replicas)
    with strategy.scope():
        model = make()
        if compiled is not None:
            model.compile(**compiled())
    watch = dw.Watch(path, signals=everything() if signals is None else signals, **ASKED)
    how = {"batch_size": 32, "epochs": 4, "verbose": 0} | how
    data = (x,) if y is None else (x, y)
    model.fit(*data, callbacks=[watch, *callbacks], **how)
    return dw.open_run(path)


def loop(path, step_of, batches, *, replicas=2, signals=None):
    """Train in a loop of one's own, watched, and open the run.

    Args:
        step_of: makes, in the strategy's scope, (model, optimizer, step).
    """
    strategy = strategy_over(replicas)
    with strategy.scope():
        model, optimizer, step = step_of()
    data = strategy.experimental_distribute_dataset(batches)
    chosen = [dw.weights(), dw.gradients()] if signals is None else signals
    options = {"signals": chosen, **ASKED}
    with dw.watching(model, optimizer, path, strategy=strategy, **options) as watch:
        watched = watch.wrap(step)

        @tf.function
        def run(*batch):
            strategy.run(watched, args=batch)

        for batch in data:
            run(*batch)
            watch.after_step()
    return dw.open_run(path)


class AtStep(keras.callbacks.Callback):
    """Does something to the model before a step."""

    def __init__(self, step, do):
        super().__init__()
        self._step, self._do, self._done = step, do, 0

    def on_train_batch_begin(self, batch, logs=None):
        if self._done == self._step:
            self._do(self.model)
        self._done += 1
