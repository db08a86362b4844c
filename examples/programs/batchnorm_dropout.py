"""BatchNormalization on replicas: moving statistics that drift apart.

    python examples/programs/batchnorm_dropout.py [--replicas 2] [--epochs 1] [--store RUN]

Trained weights stay equal on all replicas. Moving means and variances do not: each replica
follows its own part of the batches, here low digits on the first replica and high ones on the
last, and Keras saves those of the first. ``synchronized=True`` would use all of them.
"""

import keras
import numpy as np
import tensorflow as tf
from running import fresh_strategy, run
from sklearn.datasets import load_digits

import distwatch as dw

layers = keras.layers

BATCH = 64


def make_data() -> tf.data.Dataset:
    images, digits = load_digits(return_X_y=True)
    sorted_in_batches = np.lexsort((digits, np.arange(len(digits)) // BATCH))
    images = (images[sorted_in_batches] / 16).astype("float32")
    rows = tf.data.Dataset.from_tensor_slices((images, digits[sorted_in_batches]))
    return rows.batch(BATCH)


def make_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(64, name="first"),
            layers.BatchNormalization(momentum=0.9, name="norm"),
            layers.ReLU(),
            layers.Dropout(0.3),
            layers.Dense(32, name="second"),
            layers.BatchNormalization(momentum=0.9, name="norm_again"),
            layers.ReLU(),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )


def train(store, *, replicas=1, watched=True, epochs=1):
    strategy = fresh_strategy(replicas, seed=5)
    with strategy.scope():
        model = make_model()
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    signals = [dw.activations(), dw.weights(["*moving*", "*/kernel"])]
    watch = [dw.Watch(store, signals=signals)] if watched else []
    fitted = model.fit(make_data(), epochs=epochs, shuffle=False, verbose=0, callbacks=watch)
    return model, fitted.history


def show(watched: dw.Run) -> None:
    print(watched.summary())
    for weight in ("norm/moving_mean", "norm/moving_variance", "second/kernel"):
        apart = watched[f"weight/{weight}"].merged("spread").to_numpy()
        print(f"{weight:20} lies {apart[0]:.3f} apart after a step, {apart[-1]:.3f} at last")


if __name__ == "__main__":
    run(__doc__, train, show)
