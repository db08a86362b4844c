"""A masked LSTM on sequences of different lengths: every batch has another shape.

    python examples/programs/masked_lstm.py [--replicas 2] [--epochs 1] [--store RUN]

Sequences are padded with zeros up to the longest of their batch, and the LSTM skips the
padding. Its output is compared from batch to batch. Sequences of different lengths have no
positions in common, so inputs and embeddings are watched as values, without a reference; they
show how much of each batch was padding.
"""

import keras
import numpy as np
import tensorflow as tf
from running import fresh_strategy, run

import distwatch as dw

layers = keras.layers

BATCH, WORDS, SENTENCES = 32, 50, 790


def make_data() -> tf.data.Dataset:
    rng = np.random.default_rng(6)
    lengths = 3 + rng.poisson(6, SENTENCES)
    words = rng.integers(1, WORDS, lengths.sum())  # from 1, since 0 is padding
    ends_high = (words[lengths.cumsum() - 1] > WORDS // 2).astype("int32")
    sentences = tf.RaggedTensor.from_row_lengths(words, lengths)
    rows = tf.data.Dataset.from_tensor_slices((sentences, ends_high))
    return rows.batch(BATCH).map(lambda words, label: (words.to_tensor(), label))


def make_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(WORDS, 16, mask_zero=True),
            layers.LSTM(16),
            layers.Dense(2, activation="softmax"),
        ]
    )


def train(store, *, replicas=1, watched=True, epochs=1):
    strategy = fresh_strategy(replicas, seed=6)
    with strategy.scope():
        model = make_model()
        model.compile("adam", "sparse_categorical_crossentropy")
    embedded = dw.activations("embedding", reference="none")
    signals = [dw.activations(["lstm", "dense"]), embedded, dw.inputs()]
    watch = [dw.Watch(store, signals=signals)] if watched else []
    fitted = model.fit(make_data(), epochs=epochs, shuffle=False, verbose=0, callbacks=watch)
    return model, fitted.history


def show(watched: dw.Run) -> None:
    print(watched.summary())
    words, padding = (watched["input"].merged(name).to_numpy() for name in ("count", "zeros"))
    share = padding / words
    print(f"words in a batch, padding included: {words.min()} to {words.max()}")
    print(f"share of padding: {share.min():.0%} to {share.max():.0%}")


if __name__ == "__main__":
    run(__doc__, train, show)
