"""A convolutional variational autoencoder, after Keras's "Variational AutoEncoder".

    python examples/programs/unwatched/vae.py [--replicas 2] [--epochs 2] [--save FILE]

It learns images of one bright spot each. The model has a train step of its own, and no call.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from setting_up import finish, options, strategy_over

SIZE, CODES, BATCH = 16, 2, 32


def spots(count: int) -> np.ndarray:
    places = np.random.default_rng(1).uniform(3, SIZE - 3, (count, 2, 1, 1))
    rows, columns = np.mgrid[:SIZE, :SIZE]
    distances = (rows - places[:, 0]) ** 2 + (columns - places[:, 1]) ** 2
    return np.exp(-distances / 6).astype("float32")[..., None]


class Sampling(layers.Layer):
    """Draws a code from a normal distribution by its mean and the logarithm of its variance."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        mean, log_variance = inputs
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise


def make_encoder() -> keras.Model:
    images = keras.Input((SIZE, SIZE, 1))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(images)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Dense(16, activation="relu")(layers.Flatten()(x))
    mean = layers.Dense(CODES, name="z_mean")(x)
    log_variance = layers.Dense(CODES, name="z_log_var")(x)
    code = Sampling()([mean, log_variance])
    return keras.Model(images, [mean, log_variance, code], name="encoder")


def make_decoder() -> keras.Model:
    codes = keras.Input((CODES,))
    x = layers.Dense(4 * 4 * 16, activation="relu")(codes)
    x = layers.Reshape((4, 4, 16))(x)
    x = layers.Conv2DTranspose(16, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2DTranspose(1, 3, padding="same", activation="sigmoid")(x)
    return keras.Model(codes, x, name="decoder")


class VAE(keras.Model):
    def __init__(self, encoder, decoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.decoder = decoder
        self.total_tracker = keras.metrics.Mean("total_loss")
        self.image_tracker = keras.metrics.Mean("reconstruction_loss")
        self.kl_tracker = keras.metrics.Mean("kl_loss")
        self.built = True

    @property
    def metrics(self):
        return [self.total_tracker, self.image_tracker, self.kl_tracker]

    def train_step(self, images):
        with tf.GradientTape() as tape:
            mean, log_variance, code = self.encoder(images)
            mistakes = keras.losses.binary_crossentropy(images, self.decoder(code))
            image_loss = ops.mean(ops.sum(mistakes, axis=(1, 2)))
            excess = ops.square(mean) + ops.exp(log_variance) - log_variance - 1
            kl_loss = ops.mean(ops.sum(0.5 * excess, axis=1))
            total = image_loss + kl_loss
            # The optimizer adds up the gradients of all replicas.
            share = total / tf.distribute.get_strategy().num_replicas_in_sync
        gradients = tape.gradient(share, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        for tracker, loss in zip(self.metrics, (total, image_loss, kl_loss), strict=True):
            tracker.update_state(loss)
        return {tracker.name: tracker.result() for tracker in self.metrics}


if __name__ == "__main__":
    chosen = options(__doc__)
    keras.utils.set_random_seed(1)
    with strategy_over(chosen.replicas).scope():
        vae = VAE(make_encoder(), make_decoder())
        vae.compile(keras.optimizers.Adam(0.003))
    history = vae.fit(spots(500), epochs=chosen.epochs, batch_size=BATCH, verbose=0)
    finish(vae, history, chosen.save)
