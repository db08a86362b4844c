"""What the transformer and the small GPT are made of, after Keras's examples of both."""

import keras
from keras import layers, ops


class TransformerBlock(layers.Layer):
    """Attention and a feed-forward network on (batch, place, width); each adds to its input."""

    def __init__(self, heads, width, *, causal=False, rate=0.1):
        super().__init__()
        self.causal = causal
        self.attention = layers.MultiHeadAttention(heads, width)
        self.feed_forward = keras.Sequential(
            [layers.Dense(2 * width, activation="relu"), layers.Dense(width)]
        )
        self.norm1 = layers.LayerNormalization(epsilon=1e-6)
        self.norm2 = layers.LayerNormalization(epsilon=1e-6)
        self.dropout1 = layers.Dropout(rate)
        self.dropout2 = layers.Dropout(rate)

    def call(self, inputs):
        attended = self.attention(inputs, inputs, use_causal_mask=self.causal)
        x = self.norm1(inputs + self.dropout1(attended))
        return self.norm2(x + self.dropout2(self.feed_forward(x)))


class TokenAndPositionEmbedding(layers.Layer):
    """Token numbers of shape (batch, place) to (batch, place, width)."""

    def __init__(self, length, words, width):
        super().__init__()
        self.tokens = layers.Embedding(words, width)
        self.positions = layers.Embedding(length, width)

    def call(self, x):
        return self.tokens(x) + self.positions(ops.arange(ops.shape(x)[-1]))
