"""A small GPT, after Keras's "Text generation with a miniature GPT".

    python examples/programs/unwatched/gpt.py [--replicas 2] [--epochs 2] [--save FILE]

It learns sentences of a made-up grammar, and a callback writes one after each epoch. The second
output of the model has no loss.
"""

import keras
import numpy as np
import tensorflow as tf
from attention import TokenAndPositionEmbedding, TransformerBlock
from keras import layers, ops
from setting_up import finish, options, strategy_over

VOCABULARY = ["END", "the", "a", "small", "old", "cat", "dog", "bird"]
VOCABULARY += ["sees", "hears", "likes", "and"]
LENGTH, WIDTH, HEADS, BATCH, TOP = 12, 16, 2, 32, 4


def sentences(count: int) -> np.ndarray:
    """Who does what to whom, as often as there is room for."""
    rng = np.random.default_rng(6)
    kinds = [("the", "a"), ("small", "old"), ("cat", "dog", "bird"), ("sees", "hears", "likes")]
    kinds = [*kinds, *kinds[:3], ("and",), *kinds]
    words = [[VOCABULARY.index(rng.choice(kind)) for kind in kinds] for _ in range(count)]
    return np.pad(words, ((0, 0), (0, LENGTH + 1 - len(kinds)))).astype("int32")


def make_model() -> keras.Model:
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = TokenAndPositionEmbedding(LENGTH, len(VOCABULARY), WIDTH)(inputs)
    x = TransformerBlock(HEADS, WIDTH, causal=True)(x)
    return keras.Model(inputs, [layers.Dense(len(VOCABULARY))(x), x])


class TextGenerator(keras.callbacks.Callback):
    """Continues "the small" word by word, each drawn from the four likeliest."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(7)

    def on_epoch_end(self, epoch, logs=None):
        words = [VOCABULARY.index("the"), VOCABULARY.index("small")]
        while len(words) < LENGTH:
            padded = np.pad(words, (0, LENGTH - len(words))).astype("int32")
            logits, _ = self.model.predict(padded[None], verbose=0)
            scores, likeliest = tf.math.top_k(logits[0, len(words) - 1], TOP)
            chances = ops.softmax(ops.cast(scores, "float64")).numpy()
            words.append(int(self.rng.choice(likeliest, p=chances / chances.sum())))
        print(f"after epoch {epoch + 1}:", " ".join(VOCABULARY[word] for word in words))


if __name__ == "__main__":
    chosen = options(__doc__)
    keras.utils.set_random_seed(6)
    text = sentences(380)
    with strategy_over(chosen.replicas).scope():
        model = make_model()
        next_word = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss=[next_word, None])
    rows = tf.data.Dataset.from_tensor_slices((text[:, :-1], text[:, 1:]))
    batches = rows.shuffle(len(text), seed=6).batch(BATCH)
    writer = [TextGenerator()]
    history = model.fit(
        batches, epochs=chosen.epochs, shuffle=False, verbose=0, callbacks=writer
    )
    finish(model, history, chosen.save)
