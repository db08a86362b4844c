"""A masked LSTM on sequences of any length: every batch has another shape.

    python examples/programs/masked_lstm.py [--replicas 2] [--store RUN]

Sequences are padded with zeros up to the longest of their batch, and the LSTM skips the
padding. What it puts out is compared from batch to batch. Sequences of another length have
no places in common, so inputs and embeddings are watched as they are; they tell how much
of each batch was padding.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import distwatch as dw
from distwatch.testing import mirrored, virtual_devices

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
    keras.utils.clear_session()
    keras.utils.set_random_seed(6)
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        model = make_model()
        model.compile("adam", "sparse_categorical_crossentropy")
    embedded = dw.activations("embedding", reference="none")
    signals = [dw.activations(["lstm", "dense"]), embedded, dw.inputs()]
    watch = [dw.Watch(store, signals=signals)] if watched else []
    fitted = model.fit(make_data(), epochs=epochs, shuffle=False, verbose=0, callbacks=watch)
    return model, fitted.history


def show(run: dw.Run) -> None:
    print(run.summary())
    words, padding = (run["input"].merged(name).to_numpy() for name in ("count", "zeros"))
    share = padding / words
    print(f"words in a batch, padding included: {words.min()} to {words.max()}")
    print(f"share of padding: {share.min():.0%} to {share.max():.0%}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--store", type=Path, help="keep the run here")
    chosen = parser.parse_args(arguments)
    virtual_devices(chosen.replicas)
    with tempfile.TemporaryDirectory() as temporary:
        store = chosen.store or Path(temporary, "run.zarr")
        train(store, replicas=chosen.replicas)
        show(dw.open_run(store))


if __name__ == "__main__":
    main()
