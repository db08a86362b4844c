"""A text classifier, after Keras's "Text classification with Transformer".

    python examples/programs/unwatched/transformer.py [--replicas 2] [--epochs 2] [--save FILE]

Made-up reviews are praise if the words of the lower half are more frequent in them.
"""

import keras
import numpy as np
from keras import layers, ops
from setting_up import finish, options, strategy_over

WORDS, LENGTH, WIDTH, BATCH = 100, 20, 16, 32


def reviews(count: int) -> tuple[np.ndarray, np.ndarray]:
    words = np.random.default_rng(5).integers(0, WORDS, (count, LENGTH)).astype("int32")
    return words, ((words < WORDS // 2).mean(axis=1) > 0.5).astype("int32")


class TransformerBlock(layers.Layer):
    def __init__(self, heads, width, rate=0.1):
        super().__init__()
        self.attention = layers.MultiHeadAttention(num_heads=heads, key_dim=width)
        self.feed_forward = keras.Sequential(
            [layers.Dense(2 * width, activation="relu"), layers.Dense(width)]
        )
        self.norm1 = layers.LayerNormalization(epsilon=1e-6)
        self.norm2 = layers.LayerNormalization(epsilon=1e-6)
        self.dropout1 = layers.Dropout(rate)
        self.dropout2 = layers.Dropout(rate)

    def call(self, inputs):
        attended = self.dropout1(self.attention(inputs, inputs))
        x = self.norm1(inputs + attended)
        return self.norm2(x + self.dropout2(self.feed_forward(x)))


class TokenAndPositionEmbedding(layers.Layer):
    def __init__(self, length, words, width):
        super().__init__()
        self.tokens = layers.Embedding(input_dim=words, output_dim=width)
        self.positions = layers.Embedding(input_dim=length, output_dim=width)

    def call(self, x):
        return self.tokens(x) + self.positions(ops.arange(ops.shape(x)[-1]))


def make_model() -> keras.Model:
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = TokenAndPositionEmbedding(LENGTH, WORDS, WIDTH)(inputs)
    x = TransformerBlock(2, WIDTH)(x)
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x))
    x = layers.Dropout(0.1)(layers.Dense(20, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


if __name__ == "__main__":
    chosen = options(__doc__)
    keras.utils.set_random_seed(5)
    words, praise = reviews(500)
    with strategy_over(chosen.replicas).scope():
        model = make_model()
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(
        words[:430],
        praise[:430],
        batch_size=BATCH,
        epochs=chosen.epochs,
        validation_data=(words[430:], praise[430:]),
        verbose=0,
    )
    finish(model, history, chosen.save)
