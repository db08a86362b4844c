"""Healthy trainings of many kinds, of none of which anything is warned.

Each takes the path of a run and gives the run, opened.
"""

from __future__ import annotations

import functools

import keras
import numpy as np
import tensorflow as tf
from watched_trainings import classes, fit, images, layers, loop, mlp, optimizers, rows

import distwatch as dw


def regression(optimizer, path, *, loss="mse", **how):
    return fit(
        path, mlp, *rows(), compiled=lambda: {"optimizer": optimizer(), "loss": loss}, **how
    )


def classifier(path):
    x, y = classes()
    made = functools.partial(mlp, 3, last="softmax")
    compiled = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy"}
    return fit(path, made, x, y, replicas=2, compiled=lambda: compiled)


def binary(path):
    x, y = classes(number=2)
    made = functools.partial(mlp, 1, last="sigmoid", activation="gelu")
    return fit(path, made, x, y[:, None].astype("f"), compiled=lambda: {
        "optimizer": optimizers.AdamW(1e-3), "loss": "binary_crossentropy"})  # fmt: skip


def solved_hinge(path):
    """Every margin is met after a while, and no gradient is left."""
    x, y = classes(number=2, features=4)
    x = x + 6 * np.sign(y - 0.5)[:, None]
    made = functools.partial(mlp, 1, features=4, activation="tanh")
    return fit(path, made, x, np.sign(y - 0.5)[:, None], epochs=12, compiled=lambda: {
        "optimizer": optimizers.SGD(0.1), "loss": "hinge"})  # fmt: skip


def to_zero(path):
    """The learning rate comes to its end before the training does."""
    rate = optimizers.schedules.CosineDecay(0.05, 30)
    return regression(lambda: optimizers.SGD(rate), path)


def convolution(path):
    def made():
        keras.utils.set_random_seed(1)
        return keras.Sequential(
            [
                keras.Input((12, 12, 1)),
                layers.Conv2D(8, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(16, 3, activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dropout(0.3),
                layers.Dense(4, "softmax"),
            ]
        )

    compiled = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy"}
    return fit(path, made, *images(), replicas=2, compiled=lambda: compiled)


def normalized(layer, path, *, replicas=2):
    def made():
        keras.utils.set_random_seed(1)
        inner = [layers.Dense(16), layer(), layers.ReLU(), layers.Dense(1)]
        return keras.Sequential([keras.Input((8,)), *inner])

    compiled = {"optimizer": "adam", "loss": "mse"}
    return fit(path, made, *rows(960), replicas=replicas, compiled=lambda: compiled)


def heavy_dropout(path):
    def made():
        keras.utils.set_random_seed(1)
        inner = [layers.Dense(32, "relu"), layers.Dropout(0.6), layers.Dense(1)]
        return keras.Sequential([keras.Input((8,)), *inner])

    return fit(path, made, *rows(), compiled=lambda: {"optimizer": "adam", "loss": "mse"})


def recurrent(layer, path):
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 1.0, (256, 10, 3)).astype("f")

    def made():
        keras.utils.set_random_seed(1)
        return keras.Sequential([keras.Input((10, 3)), layer(), layers.Dense(1)])

    y = x[:, :, :1].sum(axis=1)
    return fit(path, made, x, y, compiled=lambda: {"optimizer": "adam", "loss": "mse"})


def words(path):
    """Sentences of several lengths, padded, and masked."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 12, 256)
    x = np.where(np.arange(12) < lengths[:, None], rng.integers(1, 40, (256, 12)), 0)
    y = (x > 20).sum(axis=1, keepdims=True) > 3

    def made():
        keras.utils.set_random_seed(1)
        return keras.Sequential(
            [
                keras.Input((12,), dtype="int32"),
                layers.Embedding(40, 8, mask_zero=True),
                layers.GRU(8),
                layers.Dense(1, "sigmoid"),
            ]
        )

    compiled = {"optimizer": "adam", "loss": "binary_crossentropy"}
    return fit(path, made, x, y.astype("f"), compiled=lambda: compiled)


def transformer(path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 20, (256, 8))

    def made():
        keras.utils.set_random_seed(1)
        words_ = keras.Input((8,), dtype="int32")
        h = layers.Embedding(20, 16)(words_)
        h = layers.LayerNormalization()(
            h + layers.MultiHeadAttention(2, 8)(h, h, use_causal_mask=True)
        )
        h = layers.LayerNormalization()(h + layers.Dense(16)(layers.Dense(32, "relu")(h)))
        return keras.Model(words_, layers.Dense(20)(h))

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiled = {"optimizer": "adam", "loss": loss}
    return fit(path, made, x, np.roll(x, -1, axis=1), replicas=2, compiled=lambda: compiled)


def residual(path):
    def made():
        keras.utils.set_random_seed(1)
        given = keras.Input((8,))
        h = layers.Dense(16)(given)
        for _ in range(4):
            h = h + layers.Dense(16, "relu", kernel_regularizer="l2")(h)
        return keras.Model(given, layers.Dense(1)(h))

    return fit(path, made, *rows(), replicas=2, compiled=lambda: {
        "optimizer": optimizers.Adam(1e-3, clipnorm=1.0), "loss": "huber"})  # fmt: skip


def autoencoder(path):
    x, _ = rows()
    made = functools.partial(mlp, 8)
    return fit(path, made, x, x, compiled=lambda: {"optimizer": "adam", "loss": "mse"})


class Gan(keras.Model):
    """A generator and a critic, each trained by an optimizer of its own."""

    def __init__(self, wasserstein):
        super().__init__()
        keras.utils.set_random_seed(1)
        self.wasserstein = wasserstein
        self.generator = keras.Sequential(
            [keras.Input((4,)), layers.Dense(16, "relu"), layers.Dense(2)]
        )
        self.critic = keras.Sequential(
            [keras.Input((2,)), layers.Dense(16), layers.LeakyReLU(), layers.Dense(1)]
        )
        self.critic_optimizer = optimizers.Adam(1e-3, beta_1=0.5)

    def call(self, x):
        return self.critic(x)

    def losses_of(self, x, noise):
        real, fake = self.critic(x), self.critic(self.generator(noise))
        if self.wasserstein:
            return tf.reduce_mean(fake) - tf.reduce_mean(real), -tf.reduce_mean(fake)
        entropy = functools.partial(keras.losses.binary_crossentropy, from_logits=True)
        ones, zeros = tf.ones_like(real), tf.zeros_like(real)
        critic = tf.reduce_mean(entropy(ones, real) + entropy(zeros, fake))
        return critic, tf.reduce_mean(entropy(ones, fake))

    def train_step(self, x):
        noise = tf.random.normal((tf.shape(x)[0], 4))
        with tf.GradientTape(persistent=True) as tape:
            critic, generator = self.losses_of(x, noise)
        for optimizer, loss, part in (
            (self.critic_optimizer, critic, self.critic),
            (self.optimizer, generator, self.generator),
        ):
            variables = part.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
        return {"critic": critic}


def gan(path, *, wasserstein):
    x = np.random.default_rng(0).normal((1.0, -2.0), 0.3, (640, 2)).astype("f")
    signals = [dw.inputs(), dw.gradients(applied=False), dw.updates(), dw.weights()]

    def made():
        model = Gan(wasserstein)
        model(x[:2])
        model.generator(x[:2, [0, 1, 0, 1]])
        return model

    compiled = {"optimizer": optimizers.Adam(1e-3, beta_1=0.5)}
    return fit(path, made, x, None, signals=signals, compiled=lambda: compiled)


def mixed(policy, path):
    keras.mixed_precision.set_global_policy(policy)
    try:
        return regression(lambda: optimizers.Adam(1e-3), path, epochs=6)
    finally:
        keras.mixed_precision.set_global_policy("float32")


def whole_batch(path):
    """All data in each step."""
    x, y = rows(48)
    compiled = {"optimizer": "adam", "loss": "mse"}
    how = {"batch_size": 48, "shuffle": False, "epochs": 60}
    return fit(path, mlp, x, y, compiled=lambda: compiled, **how)


def repeated(path, *, seed, shuffle=False, replicas=2):
    """Few data that come again and again, so that each replica has always the same ones."""
    x, y = rows(96, seed=seed)
    compiled = {"optimizer": "adam", "loss": "mse"}
    how = {"batch_size": 16, "shuffle": shuffle, "epochs": 20}
    return fit(path, mlp, x, y, replicas=replicas, compiled=lambda: compiled, **how)


def fine_tuned(path, *, whole_batch=False):
    """A frozen part under a new one."""

    def made():
        model = mlp()
        for layer in model.layers[:-1]:
            layer.trainable = False
        return model

    how = {"batch_size": 480, "shuffle": False, "epochs": 40} if whole_batch else {}
    compiled = {"optimizer": optimizers.Adam(0.01), "loss": "mse"}
    return fit(path, made, *rows(), compiled=lambda: compiled, **how)


def by_classes(path):
    """Data that are sorted, so that batches resemble their neighbours."""
    x, y = classes(960)
    order = np.argsort(y, kind="stable")
    made = functools.partial(mlp, 3, last="softmax")
    compiled = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy"}
    return fit(path, made, x[order], y[order], replicas=2, shuffle=False,
               compiled=lambda: compiled)  # fmt: skip


def small_batches(path):
    return regression(lambda: optimizers.SGD(0.01), path, batch_size=3, epochs=1)


def uneven_end(path):
    return regression(lambda: optimizers.Adam(1e-3), path, batch_size=44, epochs=6, replicas=2)


def accumulated(path):
    def made():
        return optimizers.Adam(1e-3, gradient_accumulation_steps=4)

    return regression(made, path)


def own_loop(path):
    x, y = rows(960)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)

    def made():
        model, optimizer = mlp(), optimizers.SGD(0.02)
        optimizer.build(model.trainable_variables)

        def step(a, b):
            with tf.GradientTape() as tape:
                squares = (b - model(a, training=True))[:, 0] ** 2
                loss = tf.nn.compute_average_loss(squares, global_batch_size=32)
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)

        return model, optimizer, step

    return loop(path, made, batches)


def unwatched_but_for_defaults(path):
    return regression(lambda: optimizers.RMSprop(1e-3), path, replicas=2, signals=[
        dw.activations()])  # fmt: skip


HEALTHY = {
    "sgd": functools.partial(regression, lambda: optimizers.SGD(0.02)),
    "momentum": functools.partial(regression, lambda: optimizers.SGD(0.01, momentum=0.9)),
    "adam on two": functools.partial(regression, optimizers.Adam, replicas=2),
    "rmsprop": functools.partial(regression, optimizers.RMSprop),
    "adagrad": functools.partial(regression, lambda: optimizers.Adagrad(0.05)),
    "nadam": functools.partial(regression, optimizers.Nadam, loss="mae"),
    "lion": functools.partial(regression, lambda: optimizers.Lion(1e-3), loss="log_cosh"),
    "to zero": to_zero,
    "classifier": classifier,
    "binary": binary,
    "solved hinge": solved_hinge,
    "convolution": convolution,
    "batch normalization": functools.partial(normalized, layers.BatchNormalization),
    "layer normalization": functools.partial(normalized, layers.LayerNormalization),
    "batch normalization on one": functools.partial(
        normalized, layers.BatchNormalization, replicas=1
    ),
    "heavy dropout": heavy_dropout,
    "lstm": functools.partial(recurrent, lambda: layers.LSTM(8)),
    "gru": functools.partial(recurrent, lambda: layers.Bidirectional(layers.GRU(6))),
    "words": words,
    "transformer": transformer,
    "residual": residual,
    "autoencoder": autoencoder,
    "gan": functools.partial(gan, wasserstein=False),
    "wasserstein gan": functools.partial(gan, wasserstein=True),
    "mixed_float16": functools.partial(mixed, "mixed_float16"),
    "mixed_bfloat16": functools.partial(mixed, "mixed_bfloat16"),
    "whole batch": whole_batch,
    **{f"repeated {seed}": functools.partial(repeated, seed=seed) for seed in range(4)},
    "repeated, shuffled": functools.partial(repeated, seed=5, shuffle=True),
    "fine tuned": fine_tuned,
    "fine tuned on one batch": functools.partial(fine_tuned, whole_batch=True),
    "by classes": by_classes,
    "small batches": small_batches,
    "uneven end": uneven_end,
    "gradient accumulation": accumulated,
    "own loop": own_loop,
    "defaults": unwatched_but_for_defaults,
}
