"""What watching costs: watched over unwatched step time, interleaved, as a median ratio.

    python tests/benchmarks/step_time.py [--models mlp,wide,cnn,transformer]
                                         [--replicas 1,2] [--rounds 15]
                                         [--signals usual,gradients,...|all]

Each case trains two equal models, one of them watched (by default every layer with
weights; exact statistics, every batch unless the case says otherwise), in short turns
that alternate; a turn is a whole ``fit`` of one model, with its drains and its writing
inside the measured time. The figure is the median over rounds of the ratio within a
round, so that a machine that speeds up or slows down does not show.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import distwatch as dw
from distwatch.testing import mirrored, virtual_devices

layers = keras.layers


def mlp() -> tuple[keras.Model, tuple[int, ...], int, int]:
    model = keras.Sequential(
        [keras.Input((32,)), *(layers.Dense(64, "relu") for _ in range(2)), layers.Dense(10)]
    )
    return model, (32,), 64, 300


def wide() -> tuple[keras.Model, tuple[int, ...], int, int]:
    hidden = [layers.Dense(1024, "relu") for _ in range(5)]
    return keras.Sequential([keras.Input((1024,)), *hidden, layers.Dense(10)]), (1024,), 128, 40


def cnn() -> tuple[keras.Model, tuple[int, ...], int, int]:
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    return model, (28, 28, 1), 64, 80


def transformer() -> tuple[keras.Model, tuple[int, ...], int, int]:
    """Six blocks of attention and feed-forward layers: 98 variables, most of them small."""
    inputs = keras.Input((32, 64))
    x = layers.Dense(64)(inputs)
    for _ in range(6):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 16)(y, y)])
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.Dense(64)(layers.Dense(256, "gelu")(y))])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(x)), (32, 64), 32, 20


MODELS = {"mlp": mlp, "wide": wide, "cnn": cnn, "transformer": transformer}


def watched_by(kind: str, x: np.ndarray) -> list | None:
    """What a Watch is given: name of a case -> signals."""
    fixed = x[:32]
    cases = {
        "usual": lambda: None,
        "values": lambda: [dw.activations(reference="none")],
        "first": lambda: [dw.activations(reference="first")],
        "batch_mean": lambda: [dw.activations(reference="batch_mean")],
        "ema": lambda: [dw.activations(reference="ema(0.99)")],
        "neighbour": lambda: [dw.activations(reference="neighbour")],
        "histogram": lambda: [dw.activations(statistics=[dw.histogram()])],
        "histogram/10": lambda: [dw.activations(statistics=[dw.histogram()], every=10)],
        "gradients": lambda: [dw.gradients()],
        "weights": lambda: [dw.weights()],
        "updates": lambda: [dw.updates()],
        "inputs": lambda: [dw.inputs()],
        "loss": lambda: [dw.loss()],
        "probe/50": lambda: [dw.probe(fixed)],
        "tensors/50": lambda: [dw.tensors("output", every=50, reduce="mean")],
        "light": lambda: [dw.gradients(), dw.updates(), dw.loss(), dw.inputs()],
        "optimizer": lambda: [dw.activations(), dw.gradients(), dw.updates()],
        "everything": lambda: [
            dw.activations(),
            dw.gradients(),
            dw.updates(),
            dw.weights(),
            dw.loss(),
            dw.inputs(),
        ],
        # The usual ones, with event files beside the run.
        "tensorboard": lambda: None,
    }
    return cases[kind]()


SIGNALS = (
    "usual,values,first,batch_mean,ema,neighbour,histogram,histogram/10,gradients,weights,"
    "updates,inputs,loss,probe/50,tensors/50,light,optimizer,everything,tensorboard"
)


def strategy_over(replicas: int) -> tf.distribute.Strategy:
    return mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()


def measure(
    name: str, strategy: tf.distribute.Strategy, rounds: int, folder: Path, signals: str
) -> tuple[float, float]:
    """Return the median ratio and the median unwatched step in milliseconds."""
    replicas = strategy.num_replicas_in_sync
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        with strategy.scope():
            model, shape, batch, steps = MODELS[name]()
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile("sgd", loss)
        models.append(model)
    rng = np.random.default_rng(3)
    x = rng.normal(0.5, 1.0, (batch * 8, *shape)).astype("float32")
    y = rng.integers(0, 10, batch * 8)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch).repeat()
    store = folder / f"{name}-{replicas}-{signals.replace('/', '-')}.zarr"
    board = store.with_suffix(".logs") if signals == "tensorboard" else None
    watch = dw.Watch(store, signals=watched_by(signals, x), tensorboard=board)
    # One fit each, in step with one another: compiling and opening the store stay
    # outside the measured turns, drains and writing inside.
    unwatched, watched = Pace(rounds, steps).race(models, data, [[], [watch]])
    ratios = [b / a for a, b in zip(unwatched, watched, strict=True)]
    return statistics.median(ratios), 1e3 * statistics.median(unwatched)


class Pace:
    """Lets trainings take turns of ``steps`` steps, each on a thread of its own."""

    def __init__(self, rounds: int, steps: int) -> None:
        self.rounds, self.steps = rounds, steps

    def race(self, models, data, callbacks) -> list[list[float]]:
        """Seconds a step of each training, round by round."""
        import threading

        everyone = range(len(models))
        turns = [threading.Semaphore(0) for _ in everyone]
        done = threading.Semaphore(0)
        seconds: list[list[float]] = [[] for _ in everyone]

        class Turn(keras.callbacks.Callback):
            def __init__(self, which: int) -> None:
                super().__init__()
                self.which = which

            def on_epoch_begin(self, epoch, logs=None) -> None:
                turns[self.which].acquire()
                self.start = time.perf_counter()

            # Listed last, so that the watch's own work at epoch end is inside.
            def on_epoch_end(self, epoch, logs=None) -> None:
                seconds[self.which].append(time.perf_counter() - self.start)
                done.release()

        def train(which: int) -> None:
            models[which].fit(
                data,
                epochs=self.rounds + 2,
                steps_per_epoch=self.steps,
                shuffle=False,
                verbose=0,
                callbacks=[*callbacks[which], Turn(which)],
            )

        threads = [threading.Thread(target=train, args=(i,), daemon=True) for i in everyone]
        for thread in threads:
            thread.start()
        for round_ in range(self.rounds + 2):
            for which in everyone if round_ % 2 else reversed(everyone):
                turns[which].release()
                done.acquire()
        for thread in threads:
            thread.join()
        return [[took / self.steps for took in each[2:]] for each in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="mlp,wide,cnn")
    parser.add_argument("--replicas", default="1,2")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--signals", default="usual", help="cases, or all of them")
    chosen = parser.parse_args()
    cases = (SIGNALS if chosen.signals == "all" else chosen.signals).split(",")
    virtual_devices(2)
    print(
        f"{'model':11} {'replicas':>8} {'signals':12} {'ms/step':>8} {'watched/unwatched':>18}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.models.split(","):
            for replicas in map(int, chosen.replicas.split(",")):
                for signals in cases:
                    strategy = strategy_over(replicas)
                    ratio, ms = measure(name, strategy, chosen.rounds, Path(folder), signals)
                    print(
                        f"{name:11} {replicas:8} {signals:12} {ms:8.2f} {ratio:18.3f}",
                        flush=True,
                    )


if __name__ == "__main__":
    sys.exit(main())
