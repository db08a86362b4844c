"""A convnet on handwritten digits: how much its layers change, and how fast they learn.

    python examples/programs/digits_convnet.py [--replicas 2] [--epochs 1] [--store RUN]

Keras's "Simple MNIST convnet", on scikit-learn's digits of 8 x 8 pixels. Apart from the change
of each layer's output it watches what the optimizer does to the kernels. The norm of an update
divided by that of the weight is near 1e-3 where a layer learns at a healthy speed.
"""

import keras
import tensorflow as tf
from running import fresh_strategy, run
from sklearn.datasets import load_digits

import distwatch as dw

layers = keras.layers

BATCH = 64


def make_data() -> tf.data.Dataset:
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    return tf.data.Dataset.from_tensor_slices((images, digits)).batch(BATCH)


def make_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )


def train(store, *, replicas=1, watched=True, epochs=1):
    strategy = fresh_strategy(replicas, seed=1)
    with strategy.scope():
        model = make_model()
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    signals = [dw.activations(), dw.updates("*/kernel")]
    watch = [dw.Watch(store, signals=signals)] if watched else []
    fitted = model.fit(make_data(), epochs=epochs, shuffle=False, verbose=0, callbacks=watch)
    return model, fitted.history


def show(watched: dw.Run) -> None:
    print(watched.summary())
    for kernel in ("conv2d", "conv2d_1", "dense"):
        ratio = watched[f"update/{kernel}/kernel"].merged("ratio").to_numpy()
        print(f"{kernel:9} learns at {ratio[0]:.1e} of itself a step, later {ratio[-1]:.1e}")


if __name__ == "__main__":
    run(__doc__, train, show)
