"""A siamese network, after Keras's "Image similarity estimation with a triplet loss".

    python examples/programs/unwatched/siamese.py [--replicas 2] [--epochs 2] [--save FILE]

A residual network first learns to tell stripes by their direction. Then it is frozen up to its
last block, and distances of its outputs learn which images are alike: two fits.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from setting_up import finish, options, strategy_over

SIZE, KINDS, BATCH = 16, 4, 24


def stripes(kinds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noisy images of stripes in the direction of their kind."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    angles, starts = kinds[:, None, None] * np.pi / KINDS, rng.uniform(0, 6, (len(kinds), 1, 1))
    waves = np.sin(rows * np.cos(angles) + columns * np.sin(angles) + starts)
    noise = rng.normal(0.2, 0.3, waves.shape)
    return (waves + noise).astype("float32")[..., None]


def conv_block(x, filters, name, stride=1):
    x = layers.Conv2D(filters, 3, stride, "same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def make_backbone() -> keras.Model:
    images = keras.Input((SIZE, SIZE, 1))
    x = conv_block(images, 8, "block1", stride=2)
    x = layers.Add()([x, conv_block(x, 8, "block2")])
    x = conv_block(x, 16, "block3", stride=2)
    x = layers.Add()([x, conv_block(x, 16, "block4")])
    return keras.Model(images, x, name="backbone")


def make_embedding(backbone: keras.Model) -> keras.Model:
    x = layers.Dense(32, activation="relu")(layers.Flatten()(backbone.output))
    x = layers.Dense(16, activation="relu")(layers.BatchNormalization()(x))
    return keras.Model(backbone.input, layers.Dense(8)(x), name="embedding")


class Distances(layers.Layer):
    def call(self, anchor, positive, negative):
        near = ops.sum(ops.square(anchor - positive), -1)
        return near, ops.sum(ops.square(anchor - negative), -1)


def make_network(embedding: keras.Model) -> keras.Model:
    inputs = [keras.Input((SIZE, SIZE, 1)) for _ in range(3)]
    return keras.Model(inputs, Distances()(*(embedding(images) for images in inputs)))


class Siamese(keras.Model):
    def __init__(self, network, margin=0.5):
        super().__init__()
        self.network = network
        self.margin = margin
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.built = True

    def triplet_loss(self, triplets):
        near, far = self.network(triplets)
        return ops.mean(ops.maximum(near - far + self.margin, 0.0))

    def train_step(self, triplets):
        with tf.GradientTape() as tape:
            loss = self.triplet_loss(triplets)
            share = loss / tf.distribute.get_strategy().num_replicas_in_sync
        gradients = tape.gradient(share, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def test_step(self, triplets):
        self.loss_tracker.update_state(self.triplet_loss(triplets))
        return {"loss": self.loss_tracker.result()}

    @property
    def metrics(self):
        return [self.loss_tracker]


def triplets(count: int, rng: np.random.Generator) -> tf.data.Dataset:
    kinds = rng.integers(0, KINDS, count)
    others = (kinds + rng.integers(1, KINDS, count)) % KINDS
    images = tuple(stripes(each, rng) for each in (kinds, kinds, others))
    return tf.data.Dataset.from_tensor_slices(images).batch(BATCH)


if __name__ == "__main__":
    chosen = options(__doc__)
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(3)
    kinds = rng.integers(0, KINDS, 380)
    with strategy_over(chosen.replicas).scope():
        backbone = make_backbone()
        pooled = layers.GlobalAveragePooling2D()(backbone.output)
        classifier = keras.Model(backbone.input, layers.Dense(KINDS)(pooled))
        crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        classifier.compile("adam", crossentropy)
        siamese = Siamese(make_network(make_embedding(backbone)))
        siamese.compile(keras.optimizers.Adam(0.001))
    classifier.fit(stripes(kinds, rng), kinds, batch_size=BATCH, verbose=0)
    for layer in backbone.layers:
        layer.trainable = layer.name.startswith("block4")
    history = siamese.fit(
        triplets(380, rng),
        validation_data=triplets(60, rng),
        epochs=chosen.epochs,
        verbose=0,
        shuffle=False,
    )
    finish(siamese, history, chosen.save)
