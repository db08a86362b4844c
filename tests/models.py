"""Models of every kind that the training tests train: (batch, 12) -> (batch, 4).

BatchNormalization is synchronized, for else a replica without rows makes its weights NaN,
which is a known fault and would leave nothing to compare.
"""

import keras
import tensorflow as tf

layers = keras.layers


def sequential():
    return keras.Sequential([layers.Dense(16, "relu"), layers.Dense(4)])


def functional():
    shared = layers.Dense(12, "relu")
    inputs = keras.Input((12,))
    x = shared(shared(inputs))
    x = layers.BatchNormalization(synchronized=True)(x)
    x = layers.Dropout(0.3, seed=4)(x)
    inner = keras.Sequential([keras.Input((12,)), layers.Dense(8, "relu")], name="inner")
    return keras.Model(inputs, layers.Dense(4)(inner(x)))


def convolutional():
    return keras.Sequential(
        [
            keras.Input((12,)),
            layers.Reshape((12, 1)),
            layers.Conv1D(8, 3, activation="relu"),
            layers.BatchNormalization(synchronized=True),
            layers.Dropout(0.25, seed=9),
            layers.Conv1D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [layers.Dense(16, "relu"), layers.LSTM(6)]
        self.head = layers.Dense(4)

    def call(self, inputs, training=None):
        x = self.blocks[0](inputs)
        x = self.blocks[1](tf.reshape(x, [-1, 4, 4]))
        return self.head(x)


def nested():
    innermost = keras.Sequential([keras.Input((8,)), layers.Dense(8, "tanh")], name="innermost")
    inputs = keras.Input((12,))
    inner = keras.Model(inputs, innermost(layers.Dense(8)(inputs)), name="inner")
    return keras.Sequential([keras.Input((12,)), inner, layers.Dense(4)])


def shared():
    twice = layers.Dense(12, "relu", name="twice")
    inputs = keras.Input((12,))
    left, right = twice(inputs), twice(layers.Dense(12)(inputs))
    joined = layers.Concatenate()([left, right, twice(left)])
    return keras.Model(inputs, layers.Dense(4)(joined))


KINDS = {
    "sequential": sequential,
    "functional": functional,
    "convolutional": convolutional,
    "subclassed": Subclassed,
    "nested": nested,
    "shared": shared,
}
