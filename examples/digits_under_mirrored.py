"""Does every layer learn, and do all replicas see the same kind of data?

    python examples/digits_under_mirrored.py [RUN]

A small convnet learns handwritten digits on two replicas while a Watch records every batch.
The model is built, compiled and fitted as usual, without any change.

Look at three parts of the output: the summary at the end of `fit` (no NaN, no row lost, no
replica with different data); how much the output of each layer changes from one batch to the
next, which grows as the layer learns to distinguish digits; and the ratio of each update to its
weight, near 1e-3 where a layer learns at a healthy speed, 0 where it learns nothing.
"""

from __future__ import annotations

import argparse

import keras
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

import distwatch as dw
from distwatch.testing import mirrored

layers = keras.layers

BATCH = 64

SIGNALS = [
    dw.activations(),  # the change of every layer's output since the batch before
    dw.updates("*/kernel"),  # what the optimizer did, and its ratio to the weight
    dw.inputs(statistics=[dw.histogram()]),  # what each replica was given, with quantiles
    dw.loss(),  # of each replica's own rows
]


def make_model() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu", name="strokes"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def make_data() -> tuple[np.ndarray, np.ndarray]:
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    # Two replicas cannot share a last batch of 5 rows evenly; a Watch warns of that.
    rows = len(images) // BATCH * BATCH
    return images[:rows], digits[:rows]


def train(store: str) -> None:
    keras.utils.set_random_seed(1)
    # Two virtual CPUs, so that this runs on any laptop. On a machine with GPUs:
    # strategy = tf.distribute.MirroredStrategy()
    strategy = mirrored(2)
    with strategy.scope():
        model = make_model()

    images, digits = make_data()
    # Without overwrite=True, a run that is there already is refused, and left as it is.
    watch = dw.Watch(store, signals=SIGNALS, overwrite=True)
    model.fit(images, digits, batch_size=BATCH, epochs=4, verbose=2, callbacks=[watch])


def change_by_epoch(run: dw.Run) -> pd.DataFrame:
    """Mean absolute change of each layer: a row for each layer, a column for each epoch."""
    rows = run.to_xarray(merged=True)  # dims (step, signal); with the coordinate epoch
    outputs = [signal for signal in run.signals if signal.startswith("activation/")]
    # Sums of |change| and numbers of elements add up over steps; means would not.
    sums = rows[["l1", "count"]].sel(signal=outputs).groupby("epoch").sum()
    return (sums["l1"] / sums["count"]).transpose("signal", "epoch").to_pandas()


def ratio_by_epoch(run: dw.Run) -> pd.DataFrame:
    """Norm of a step's update over that of the weight, as the median of each epoch's steps."""
    kernels = [signal for signal in run.signals if signal.startswith("update/")]
    ratio = run.to_xarray(merged=True)["ratio"].sel(signal=kernels)
    return ratio.groupby("epoch").median().transpose("signal", "epoch").to_pandas()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "run", nargs="?", default="runs/digits.zarr", help="replaced if it exists"
    )
    store = parser.parse_args().run
    train(store)

    run = dw.open_run(store)
    print(f"\nMean change from batch to batch\n{change_by_epoch(run).round(4)}")
    print(f"\nRatio of each update to its weight\n{ratio_by_epoch(run).round(5)}")
    print(f"\nRead on:\n  distwatch info {store}")
    print(f"  python examples/analyse_with_dask.py {store}")


if __name__ == "__main__":
    main()
