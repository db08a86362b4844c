"""A variational autoencoder with its own train step: how its codes are distributed.

    python examples/programs/autoencoder.py [--replicas 2] [--epochs 1] [--store RUN]

Keras's "Variational AutoEncoder", on scikit-learn's digits. Layers and gradients are watched
inside a custom ``train_step``. The divergence pulls the codes, which the decoder takes, towards
a standard normal distribution, of which 90% lie between -1.64 and 1.64.
"""

import keras
import tensorflow as tf
from keras import ops
from running import fresh_strategy, run
from sklearn.datasets import load_digits

import distwatch as dw

layers = keras.layers

BATCH, PIXELS, CODES = 64, 64, 4


def make_data() -> tf.data.Dataset:
    images = (load_digits().data / 16).astype("float32")
    return tf.data.Dataset.from_tensor_slices(images).batch(BATCH)


class Autoencoder(keras.Model):
    def __init__(self):
        super().__init__()
        self.encoder = layers.Dense(64, activation="relu", name="encoder")
        self.mean = layers.Dense(CODES, name="mean")
        self.log_variance = layers.Dense(CODES, name="log_variance")
        self.decoder = layers.Dense(64, activation="relu", name="decoder")
        self.painter = layers.Dense(PIXELS, activation="sigmoid", name="painter")
        self.seed_generator = keras.random.SeedGenerator(3)
        self.loss_tracker = keras.metrics.Mean("loss")
        self.divergence_tracker = keras.metrics.Mean("divergence")

    @property
    def metrics(self):
        return [self.loss_tracker, self.divergence_tracker]

    def call(self, images):
        hidden = self.encoder(images)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        code = mean + ops.exp(0.5 * log_variance) * noise
        return self.painter(self.decoder(code)), mean, log_variance

    def train_step(self, images):
        with tf.GradientTape() as tape:
            painted, mean, log_variance = self(images, training=True)
            mistakes = keras.losses.binary_crossentropy(images, painted)
            excess = ops.square(mean) + ops.exp(log_variance) - log_variance - 1
            divergence = ops.mean(ops.sum(excess, axis=1)) / 2
            loss = PIXELS * ops.mean(mistakes) + divergence
            # The optimizer adds up the gradients of all replicas.
            share = loss / tf.distribute.get_strategy().num_replicas_in_sync
        gradients = tape.gradient(share, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        self.loss_tracker.update_state(loss)
        self.divergence_tracker.update_state(divergence)
        return {tracker.name: tracker.result() for tracker in self.metrics}


def make_model() -> keras.Model:
    return Autoencoder()


def train(store, *, replicas=1, watched=True, epochs=1):
    strategy = fresh_strategy(replicas, seed=3)
    with strategy.scope():
        model = make_model()
        model.compile(keras.optimizers.Adam(0.01))
    codes = dw.activations(
        "decoder", inputs=True, outputs=False, reference="none", statistics=[dw.histogram()]
    )
    signals = [dw.activations(), codes, dw.gradients("*/kernel")]
    watch = [dw.Watch(store, signals=signals)] if watched else []
    fitted = model.fit(make_data(), epochs=epochs, shuffle=False, verbose=0, callbacks=watch)
    return model, fitted.history


def show(watched: dw.Run) -> None:
    print(watched.summary())
    ends = watched.quantile("activation_input/decoder", [0.05, 0.95], per_step=True).to_numpy()
    for when, (low, high) in (("first", ends[0]), ("last", ends[-1])):
        print(f"90% of the {when} batch's codes lie between {low:.2f} and {high:.2f}")


if __name__ == "__main__":
    run(__doc__, train, show)
