"""Two trainings should be the same, and are not quite: rounding, or a change?

    python examples/where_runs_part.py

Three small trainings: on one device; on two virtual replicas, which differs by rounding only;
and on two replicas again, with three times the learning rate from step 50 on. ``dw.diff`` tells
the second from the third, and says where it began.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import distwatch as dw
from distwatch.testing import mirrored, virtual_devices

STEPS, BATCH, CHANGED = 80, 32, 50


class ThreeTimesFrom(keras.callbacks.Callback):
    """Trains with three times the learning rate from a step on."""

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        """Change it before that step."""
        if batch == CHANGED:
            rate = self.model.optimizer.learning_rate
            rate.assign(rate * 3)


def train(store: Path, replicas: int, *callbacks: keras.callbacks.Callback) -> Path:
    """Train a small model, watched."""
    keras.utils.set_random_seed(0)
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((12,)),
                keras.layers.Dense(16, "relu", name="hidden"),
                keras.layers.Dense(4, name="guess"),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05), loss)
    x = np.random.default_rng(0).normal(0.5, 1.0, (STEPS * BATCH, 12)).astype("float32")
    y = x[:, :4].argmax(axis=1)
    signals = [dw.activations(), dw.gradients(), dw.updates(), dw.loss(), dw.inputs()]
    watch = dw.Watch(store, signals=signals, overwrite=True)
    # The summary of each is not the matter here.
    model.fit(x, y, BATCH, shuffle=False, verbose=0, callbacks=[watch, *callbacks])
    return store


def main() -> None:
    """Train three times, and compare the first with the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    folder = parser.parse_args().folder
    virtual_devices(2)
    one = train(folder / "one.zarr", 1)
    two = train(folder / "two.zarr", 2)
    changed = train(folder / "changed.zarr", 2, ThreeTimesFrom())
    for other in (two, changed):
        print(f"one.zarr and {other.name}")
        print(dw.diff(one, other))
        print()


if __name__ == "__main__":
    main()
