"""Text classification with a transformer: custom layers, and a bias that cannot learn.

    python examples/programs/text_transformer.py [--replicas 2] [--epochs 1] [--store RUN]

Keras's "Text classification with Transformer", on made-up reviews: words below 100 are
praise, the others are not, and the class is whichever is more frequent. The gradients of the
attention's biases are watched inside the block. That of the keys' bias is zero except for
rounding: it adds the same number to all scores of a query, which softmax removes again.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from running import fresh_strategy, run

import distwatch as dw

layers = keras.layers

BATCH, WORDS, LENGTH, WIDTH = 32, 200, 24, 16


def make_data() -> tf.data.Dataset:
    reviews = np.random.default_rng(2).integers(0, WORDS, (950, LENGTH))
    praise = ((reviews < WORDS // 2).mean(axis=1) > 0.5).astype("int32")
    return tf.data.Dataset.from_tensor_slices((reviews, praise)).batch(BATCH)


class TokenAndPositionEmbedding(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tokens = layers.Embedding(WORDS, WIDTH, name="tokens")
        self.positions = layers.Embedding(LENGTH, WIDTH, name="positions")

    def call(self, words):
        return self.tokens(words) + self.positions(ops.arange(ops.shape(words)[-1]))


class TransformerBlock(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, WIDTH, name="attention")
        self.norm = layers.LayerNormalization(name="norm")
        self.widen = layers.Dense(2 * WIDTH, activation="relu", name="widen")
        self.narrow = layers.Dense(WIDTH, name="narrow")
        self.norm_again = layers.LayerNormalization(name="norm_again")
        self.dropout = layers.Dropout(0.1)

    def call(self, x, training=None):
        attended = self.dropout(self.attention(x, x), training=training)
        x = self.norm(x + attended)
        fed_forward = self.dropout(self.narrow(self.widen(x)), training=training)
        return self.norm_again(x + fed_forward)


def make_model() -> keras.Model:
    words = keras.Input((LENGTH,), dtype="int32")
    x = TokenAndPositionEmbedding(name="embedding")(words)
    x = TransformerBlock(name="block")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(words, layers.Dense(2, activation="softmax", name="verdict")(x))


def train(store, *, replicas=1, watched=True, epochs=1):
    strategy = fresh_strategy(replicas, seed=2)
    with strategy.scope():
        model = make_model()
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    signals = [dw.activations(), dw.gradients("block/attention/*/bias", applied=False)]
    watch = [dw.Watch(store, signals=signals)] if watched else []
    fitted = model.fit(make_data(), epochs=epochs, shuffle=False, verbose=0, callbacks=watch)
    return model, fitted.history


def show(watched: dw.Run) -> None:
    print(watched.summary())
    for name in ("query", "key", "value"):
        gradient = watched[f"gradient_local/block/attention/{name}/bias"]
        largest = float(gradient.per_replica("l2").max())
        print(f"largest gradient of the attention's {name} bias: {largest:.1e}")


if __name__ == "__main__":
    run(__doc__, train, show)
