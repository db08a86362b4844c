"""Diffusion, after Keras's "Denoising Diffusion Implicit Models".

    python examples/programs/unwatched/ddim.py [--replicas 2] [--epochs 2] [--save FILE]

A small U-Net learns which noise was added to images of rings. A second network follows its
weights by an exponential average, is validated, and draws images at the end of each epoch.
"""

import itertools

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from setting_up import finish, options, strategy_over

SIZE, BATCH, EMA = 12, 32, 0.9


def rings(count: int) -> np.ndarray:
    rng = np.random.default_rng(4)
    places, radii = rng.uniform(4, 8, (count, 2, 1, 1)), rng.uniform(2, 4, (count, 1, 1))
    rows, columns = np.mgrid[:SIZE, :SIZE]
    distances = np.hypot(rows - places[:, 0], columns - places[:, 1])
    return np.exp(-((distances - radii) ** 2)).astype("float32")[..., None]


@keras.saving.register_keras_serializable()
def sinusoidal(variance):
    speeds = 2 * np.pi * np.geomspace(1, 100, 4).astype("float32")
    return ops.concatenate([ops.sin(speeds * variance), ops.cos(speeds * variance)], axis=3)


def residual_block(x, width):
    residual = layers.Conv2D(width, 1)(x)
    x = layers.BatchNormalization(center=False, scale=False)(x)
    x = layers.Conv2D(width, 3, padding="same", activation="swish")(x)
    return layers.Add()([layers.Conv2D(width, 3, padding="same")(x), residual])


def make_network() -> keras.Model:
    noisy, variance = keras.Input((SIZE, SIZE, 1)), keras.Input((1, 1, 1))
    embedded = layers.Lambda(sinusoidal, output_shape=(1, 1, 8))(variance)
    x = layers.Concatenate()([layers.Conv2D(8, 1)(noisy), layers.UpSampling2D(SIZE)(embedded)])
    skipped = residual_block(x, 8)
    x = residual_block(layers.AveragePooling2D(2)(skipped), 16)
    x = layers.Concatenate()([layers.UpSampling2D(2, interpolation="bilinear")(x), skipped])
    x = layers.Conv2D(1, 1, kernel_initializer="zeros")(residual_block(x, 8))
    return keras.Model([noisy, variance], x, name="residual_unet")


class DiffusionModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.normalizer = layers.Normalization()
        self.network = make_network()
        self.ema_network = keras.models.clone_model(self.network)
        self.seed_generator = keras.random.SeedGenerator(4)
        self.noise_tracker = keras.metrics.Mean(name="n_loss")
        self.built = True

    @property
    def metrics(self):
        return [self.noise_tracker]

    def noise_loss(self, images, network, training):
        images = self.normalizer(images)
        noises = keras.random.normal(ops.shape(images), seed=self.seed_generator)
        times = (ops.shape(images)[0], 1, 1, 1)
        times = keras.random.uniform(times, 0.1, 1.5, seed=self.seed_generator)
        noisy = ops.cos(times) * images + ops.sin(times) * noises
        guessed = network([noisy, ops.sin(times) ** 2], training=training)
        loss = ops.mean(keras.losses.mean_absolute_error(noises, guessed))
        self.noise_tracker.update_state(loss)
        return loss

    def train_step(self, images):
        with tf.GradientTape() as tape:
            loss = self.noise_loss(images, self.network, training=True)
            share = loss / tf.distribute.get_strategy().num_replicas_in_sync
        gradients = tape.gradient(share, self.network.trainable_weights)
        self.optimizer.apply(gradients, self.network.trainable_weights)
        for weight, ema in zip(self.network.weights, self.ema_network.weights, strict=True):
            ema.assign(EMA * ema + (1 - EMA) * weight)
        return {"n_loss": self.noise_tracker.result()}

    def test_step(self, images):
        self.noise_loss(images, self.ema_network, training=False)
        return {"n_loss": self.noise_tracker.result()}

    def generate(self, count, steps=4):
        noisy = keras.random.normal((count, SIZE, SIZE, 1), seed=5)
        times = np.linspace(1.5, 0.1, steps + 1, dtype="float32")
        for now, then in itertools.pairwise(times):
            variance = ops.full((count, 1, 1, 1), np.sin(now) ** 2)
            noises = self.ema_network([noisy, variance], training=False)
            shown = (noisy - np.sin(now) * noises) / np.cos(now)
            noisy = np.cos(then) * shown + np.sin(then) * noises
        return shown


class Draw(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        print(f"brightness after epoch {epoch + 1}:", float(ops.mean(self.model.generate(4))))


if __name__ == "__main__":
    chosen = options(__doc__)
    keras.utils.set_random_seed(4)
    images = rings(440)
    with strategy_over(chosen.replicas).scope():
        model = DiffusionModel()
        model.normalizer.adapt(images)
        model.compile(keras.optimizers.AdamW(0.003, weight_decay=1e-4))
    history = model.fit(
        images[:380],
        validation_data=(images[380:],),
        epochs=chosen.epochs,
        batch_size=BATCH,
        verbose=0,
        callbacks=[Draw()],
    )
    finish(model, history, chosen.save)
