"""A text classifier, after Keras's "Text classification with Transformer".

    python examples/programs/unwatched/transformer.py [--replicas 2] [--epochs 2] [--save FILE]

Made-up reviews are praise if the words of the lower half are more frequent in them.
"""

import keras
import numpy as np
from attention import TokenAndPositionEmbedding, TransformerBlock
from keras import layers
from setting_up import finish, options, strategy_over

WORDS, LENGTH, WIDTH, BATCH = 100, 20, 16, 32


def reviews(count: int) -> tuple[np.ndarray, np.ndarray]:
    words = np.random.default_rng(5).integers(0, WORDS, (count, LENGTH)).astype("int32")
    return words, ((words < WORDS // 2).mean(axis=1) > 0.5).astype("int32")


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
