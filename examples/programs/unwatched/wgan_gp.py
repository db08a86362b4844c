"""A GAN with a gradient penalty, after Keras's "WGAN-GP overriding Model.train_step".

    python examples/programs/unwatched/wgan_gp.py [--replicas 2] [--epochs 2] [--save FILE]

Two inner models with an optimizer each: two steps of the critic, then one of the generator.
A callback has the generator draw at the end of each epoch.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from setting_up import finish, options, strategy_over

SIZE, NOISE, BATCH = 12, 8, 32


def crosses(count: int) -> np.ndarray:
    """Images of a row and a column that are bright, from -1 to 1."""
    rng = np.random.default_rng(2)
    images = rng.uniform(-1, -0.8, (count, SIZE, SIZE, 1))
    images[np.arange(count), rng.integers(0, SIZE, count)] = 0.9
    images[np.arange(count), :, rng.integers(0, SIZE, count)] = 0.9
    return images.astype("float32")


class WGAN(keras.Model):
    def __init__(self, discriminator, generator, critic_steps=2, penalty_weight=10.0):
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self.critic_steps = critic_steps
        self.penalty_weight = penalty_weight
        self.built = True

    def compile(self, d_optimizer, g_optimizer):
        super().compile()
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer

    def gradient_penalty(self, real, fake):
        between = tf.random.uniform((tf.shape(real)[0], 1, 1, 1))
        mixed = real + between * (fake - real)
        with tf.GradientTape() as tape:
            tape.watch(mixed)
            rating = self.discriminator(mixed, training=True)
        slope = ops.sqrt(ops.sum(ops.square(tape.gradient(rating, mixed)), axis=(1, 2, 3)))
        return ops.mean((slope - 1.0) ** 2)

    def train_step(self, real):
        rows = tf.shape(real)[0]
        # The optimizers add up the gradients of all replicas.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        for _ in range(self.critic_steps):
            noise = tf.random.normal((rows, NOISE))
            with tf.GradientTape() as tape:
                fake = self.generator(noise, training=True)
                rated_fake = self.discriminator(fake, training=True)
                rated_real = self.discriminator(real, training=True)
                d_loss = ops.mean(rated_fake) - ops.mean(rated_real)
                d_loss += self.penalty_weight * self.gradient_penalty(real, fake)
                share = d_loss / replicas
            weights = self.discriminator.trainable_variables
            self.d_optimizer.apply(tape.gradient(share, weights), weights)
        noise = tf.random.normal((rows, NOISE))
        with tf.GradientTape() as tape:
            fake = self.generator(noise, training=True)
            g_loss = -ops.mean(self.discriminator(fake, training=True))
            share = g_loss / replicas
        weights = self.generator.trainable_variables
        self.g_optimizer.apply(tape.gradient(share, weights), weights)
        return {"d_loss": d_loss, "g_loss": g_loss}


def make_discriminator() -> keras.Model:
    images = keras.Input((SIZE, SIZE, 1))
    x = layers.Conv2D(8, 3, strides=2, padding="same")(images)
    x = layers.LeakyReLU(0.2)(x)
    x = layers.Conv2D(16, 3, strides=2, padding="same")(x)
    x = layers.Dropout(0.3)(layers.LeakyReLU(0.2)(x))
    return keras.Model(images, layers.Dense(1)(layers.Flatten()(x)), name="discriminator")


def make_generator() -> keras.Model:
    noise = keras.Input((NOISE,))
    x = layers.Dense(3 * 3 * 16, use_bias=False)(noise)
    x = layers.LeakyReLU(0.2)(layers.BatchNormalization()(x))
    x = layers.UpSampling2D(2)(layers.Reshape((3, 3, 16))(x))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    x = layers.LeakyReLU(0.2)(layers.BatchNormalization()(x))
    x = layers.Conv2D(1, 3, padding="same", activation="tanh")(layers.UpSampling2D(2)(x))
    return keras.Model(noise, x, name="generator")


class Monitor(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        drawn = self.model.generator(tf.random.normal((4, NOISE)))
        print(f"brightness after epoch {epoch + 1}:", ops.mean(drawn, axis=(1, 2, 3)).numpy())


if __name__ == "__main__":
    chosen = options(__doc__)
    keras.utils.set_random_seed(2)
    with strategy_over(chosen.replicas).scope():
        wgan = WGAN(make_discriminator(), make_generator())
        wgan.compile(*(keras.optimizers.Adam(0.0002, 0.5, 0.9) for _ in range(2)))
    monitor = [Monitor()]
    history = wgan.fit(
        crosses(380), epochs=chosen.epochs, batch_size=BATCH, verbose=0, callbacks=monitor
    )
    finish(wgan, history, chosen.save)
