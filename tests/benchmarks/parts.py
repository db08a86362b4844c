"""Where the default's time goes: steps with parts of the reading left out, interleaved.

    python tests/benchmarks/parts.py [--models cnn,transformer] [--rounds 9]

Each model is trained unwatched and watched in several ways, in short turns (as in
``step_time.py``): "rare" looks at no step that is measured; "unread" keeps references, and
reads nothing of the deltas; "sum" subtracts, and reads one sum; "reads" has all that only
reads; "l1" besides the absolute values; "whole" is the default, with the zeros. Prints the
median of the milliseconds that each adds to a step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from step_time import MODELS, Pace

import distwatch as dw
from distwatch.training.device import kernels
from distwatch.training.device.reductions import Reduced

WAYS = ("rare", "unread", "sum", "reads", "l1", "whole")

#: The way of the training that this thread traces.
_traced = threading.local()
_whole = kernels.reduce


def reduce(delta: tf.Tensor) -> Reduced:
    """What `distwatch.training.device.reductions.reduce` does, less what a way leaves out."""
    way = _traced.way
    if way in ("rare", "whole"):
        return _whole(delta)
    nothing = tf.zeros([], delta.dtype)
    first = [nothing] * 4
    if way != "unread":
        first[0] = tf.reduce_sum(delta)
    if way in ("reads", "l1"):
        first[1:] = tf.nn.l2_loss(delta), tf.reduce_min(delta), tf.reduce_max(delta)
    l1 = nothing
    if way == "l1":
        with tf.control_dependencies(first):
            l1 = tf.reduce_sum(tf.abs(delta))
    return Reduced(*first, l1, tf.zeros([], tf.int32))


class Traced(keras.callbacks.Callback):
    """Says on the training's thread which way it is."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def on_train_begin(self, logs=None) -> None:
        _traced.way = self.way


def added(name: str, rounds: int, folder: Path) -> tuple[float, dict[str, float]]:
    """The median unwatched step in milliseconds, and what each way adds to it."""
    models, callbacks = [], []
    for way in ("unwatched", *WAYS):
        keras.utils.set_random_seed(7)
        model, shape, batch, steps = MODELS[name]()
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        models.append(model)
        schedule = dw.every(10**6) if way == "rare" else dw.every(1)
        watch = dw.Watch(folder / f"{name}-{way}.zarr", schedule=schedule)
        callbacks.append([] if way == "unwatched" else [Traced(way), watch])
    rng = np.random.default_rng(3)
    x = rng.normal(0.5, 1.0, (batch * 8, *shape)).astype("float32")
    y = rng.integers(0, 10, batch * 8)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch).repeat()
    alone, *watched = Pace(rounds, steps).race(models, data, callbacks)
    return 1e3 * statistics.median(alone), {
        way: 1e3 * statistics.median(b - a for a, b in zip(alone, seconds, strict=True))
        for way, seconds in zip(WAYS, watched, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="cnn,transformer")
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    kernels.reduce = reduce
    print(f"{'model':11} {'ms/step':>8}", *(f"{way:>8}" for way in WAYS))
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.models.split(","):
            step, parts = added(name, chosen.rounds, Path(folder))
            print(
                f"{name:11} {step:8.2f}", *(f"{parts[way]:+8.2f}" for way in WAYS), flush=True
            )


if __name__ == "__main__":
    main()
