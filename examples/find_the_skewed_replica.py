"""Which replica receives different data? The loss does not show it; the inputs do.

    python examples/find_the_skewed_replica.py [FOLDER]

Handwritten digits are in four shards, one for each replica, and each shard was scaled by its
own largest pixel. Shard 2 contains one faulty pixel: it reads 255, while ink ends at 16. So all
other images of that shard are divided by 255, and replica 2 trains on nearly blank images.
Averaged over four replicas, the loss still falls.

Look at the summary's sentence about the replica with different data, and at the means above it.
The second training scales every shard in the same way: the sentence is gone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import distwatch as dw
from distwatch.testing import mirrored

REPLICAS, ROWS, EPOCHS = 4, 16, 3  # replicas, rows of a batch on each, epochs
STEPS = 28  # of an epoch
HOT = 2  # the shard with the hot pixel


def shards() -> list[tuple[np.ndarray, np.ndarray]]:
    """Four times 448 images of 64 pixels from 0 to 16, but for the hot one."""
    images, digits = load_digits(return_X_y=True)
    found = [(images[r::REPLICAS], digits[r::REPLICAS]) for r in range(REPLICAS)]
    found[HOT][0][100, 27] = 255
    return [(x[: ROWS * STEPS], y[: ROWS * STEPS]) for x, y in found]


def by_own_maximum(images: np.ndarray) -> np.ndarray:
    return images / images.max()  # the fault


def by_known_range(images: np.ndarray) -> np.ndarray:
    return np.clip(images, 0, 16) / 16  # the correction


def pipeline(scale) -> tf.data.Dataset:
    """Batches of one replica's rows: of shard 0, 1, 2, 3, and of shard 0 again."""
    batches = [
        tf.data.Dataset.from_tensor_slices((scale(x).astype("float32"), y))
        .shuffle(len(x), seed=replica)
        .batch(ROWS)
        .repeat()
        for replica, (x, y) in enumerate(shards())
    ]
    in_turn = tf.data.Dataset.range(REPLICAS).repeat()
    return tf.data.Dataset.choose_from_datasets(batches, in_turn)


def train(store: Path, scale) -> dict[str, list[float]]:
    keras.utils.set_random_seed(2)
    strategy = mirrored(REPLICAS)  # on GPUs: tf.distribute.MirroredStrategy()
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((64,)),
                keras.layers.Dense(32, activation="relu", name="hidden"),
                keras.layers.Dense(10, activation="softmax", name="digit"),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    # The next replica takes the next batch, so each shard goes to its own replica.
    data = strategy.distribute_datasets_from_function(lambda context: pipeline(scale))
    watch = dw.Watch(store, signals=[dw.inputs(), dw.activations(), dw.loss()], overwrite=True)
    how = {"epochs": EPOCHS, "steps_per_epoch": STEPS, "shuffle": False, "verbose": 0}
    return model.fit(data, callbacks=[watch], **how).history


def show(run: dw.Run, history: dict[str, list[float]]) -> None:
    print("loss of each epoch:    ", *(f"{loss:7.3f}" for loss in history["loss"]))
    # All batches are of one size, so that their means can be averaged.
    for name in ("input", "loss"):
        means = run[name].per_replica("mean").mean("step")
        print(f"mean {name} of replicas:".ljust(23), *(f"{mean:7.3f}" for mean in means.values))
    print(run.summary())
    means, width = run["input"].per_replica("mean"), run["input"].merged("std")
    # Against the median, which one odd replica of three or more does not move.
    apart = abs((means - means.median("replica")) / width).mean("step")
    odd = int(apart.idxmax("replica"))
    print(f"Furthest from the others: replica {odd}, by {float(apart.max()):.2f} std.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default="runs", help="for both runs")
    folder = parser.parse_args().folder
    for name, scale in (("skewed", by_own_maximum), ("fixed", by_known_range)):
        history = train(folder / f"{name}.zarr", scale)
        print(f"\n{name.upper()}")
        show(dw.open_run(folder / f"{name}.zarr"), history)


if __name__ == "__main__":
    main()
