"""A GAN with two optimizers: how the discriminator's rating of generated digits changes.

    python examples/programs/gan.py [--replicas 2] [--epochs 1] [--store RUN]

Keras's "GAN overriding Model.train_step", on scikit-learn's digits. The layers of both inner
models are watched. The discriminator is called twice in a step: on generated and real digits
together (``discriminator``), then on generated ones alone (``discriminator#1``).
"""

import keras
import tensorflow as tf
from keras import ops
from running import fresh_strategy, run
from sklearn.datasets import load_digits

import distwatch as dw

layers = keras.layers

BATCH, NOISE = 64, 16


def make_data() -> tf.data.Dataset:
    images = (load_digits().images / 16).astype("float32")[..., None]
    return tf.data.Dataset.from_tensor_slices(images).batch(BATCH)


class GAN(keras.Model):
    def __init__(self, discriminator, generator):
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self.seed_generator = keras.random.SeedGenerator(4)
        self.d_loss_tracker = keras.metrics.Mean("d_loss")
        self.g_loss_tracker = keras.metrics.Mean("g_loss")
        # Both networks are, and there is no call by which Keras could build the rest.
        self.built = True

    @property
    def metrics(self):
        return [self.d_loss_tracker, self.g_loss_tracker]

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        super().compile()
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer
        self.loss_fn = loss_fn

    def train_step(self, real):
        rows = ops.shape(real)[0]
        noise = keras.random.normal((rows, NOISE), seed=self.seed_generator)
        digits = ops.concatenate([self.generator(noise), real])
        is_real = ops.concatenate([ops.zeros((rows, 1)), ops.ones((rows, 1))])

        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(is_real, self.discriminator(digits))
        self.learn(self.discriminator, self.d_optimizer, tape, d_loss)

        with tf.GradientTape() as tape:
            verdict = self.discriminator(self.generator(noise))
            g_loss = self.loss_fn(ops.ones((rows, 1)), verdict)
        self.learn(self.generator, self.g_optimizer, tape, g_loss)

        # For the optimizers, Keras has divided both by the number of replicas.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self.d_loss_tracker.update_state(d_loss * replicas)
        self.g_loss_tracker.update_state(g_loss * replicas)
        return {tracker.name: tracker.result() for tracker in self.metrics}

    @staticmethod
    def learn(network, optimizer, tape, loss):
        gradients = tape.gradient(loss, network.trainable_weights)
        optimizer.apply(gradients, network.trainable_weights)


def make_model() -> keras.Model:
    discriminator = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, strides=2, activation="leaky_relu", name="strokes"),
            layers.Flatten(),
            layers.Dense(1, name="verdict"),
        ],
        name="discriminator",
    )
    generator = keras.Sequential(
        [
            keras.Input((NOISE,)),
            layers.Dense(4 * 4 * 8, activation="leaky_relu", name="sketch"),
            layers.Reshape((4, 4, 8)),
            layers.Conv2DTranspose(1, 4, 2, "same", activation="sigmoid", name="digit"),
        ],
        name="generator",
    )
    return GAN(discriminator, generator)


def train(store, *, replicas=1, watched=True, epochs=1):
    strategy = fresh_strategy(replicas, seed=4)
    with strategy.scope():
        model = make_model()
        model.compile(
            d_optimizer=keras.optimizers.Adam(0.003),
            g_optimizer=keras.optimizers.Adam(0.003),
            loss_fn=keras.losses.BinaryCrossentropy(from_logits=True),
        )
    verdicts = dw.activations("discriminator", reference="none")
    watch = [dw.Watch(store, signals=[dw.activations(), verdicts])] if watched else []
    fitted = model.fit(make_data(), epochs=epochs, shuffle=False, verbose=0, callbacks=watch)
    return model, fitted.history


def show(watched: dw.Run) -> None:
    print(watched.summary())
    for call, shown in (("", "all"), ("#1", "forged")):
        verdict = watched[f"activation/discriminator{call}"].merged("mean").to_numpy()
        print(
            f"verdict on {shown} digits: {verdict[0]:+.2f} at first, {verdict[-1]:+.2f} later"
        )


if __name__ == "__main__":
    run(__doc__, train, show)
