"""What people do instead of watching, beside it: added time a step, in the same run.

    python tests/benchmarks/peers.py [--models mlp,cnn] [--rounds 15]

Equal models train in short turns that alternate, each with another way to see, at every batch,
how the outputs of its layers change:

- distwatch's default, and distwatch with activations only;
- "predict": the textbook's callback, which calls ``predict_on_batch`` of a second functional
  model, and compares with the batch before (``predict`` itself, with --predict, sets up a
  dataset at each call, and takes a hundred times as long);
- "second model": the same model, called as a compiled function;
- "TensorBoard": Keras's callback with ``update_freq=1``, which logs the loss of each batch and,
  each epoch, histograms of the weights, so less than the others;
- "tf.summary": layers that log five statistics of their input from within the graph.

Only distwatch keeps what changed on each replica. The figures are medians, over rounds, of the
difference to the unwatched training of the round, with an interval of about 95 %; "times ours"
is the lower end of a peer's over the upper end of the default's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from step_time import MODELS, Pace

import distwatch as dw
from distwatch.training.measuring import Estimate, estimate_of

#: Below this part of an unwatched step nothing can be measured.
MEASURABLE = 0.005


class Kept:
    """What a script of one's own keeps of the outputs of all layers: changes, in numbers."""

    def __init__(self) -> None:
        self.rows: list[list[tuple[float, ...]]] = []
        self._before: list[np.ndarray] | None = None

    def keep(self, outputs: list[np.ndarray]) -> None:
        before = outputs if self._before is None else self._before
        deltas = [x - y for x, y in zip(outputs, before, strict=True)]
        self.rows.append(
            [(d.mean(), d.std(), d.min(), d.max(), np.linalg.norm(d)) for d in deltas]
        )
        self._before = outputs


def second_model(model: keras.Model) -> keras.Model:
    """Gives the outputs of the layers that distwatch watches: those with weights."""
    watched = [layer.output for layer in model.layers if layer.weights]
    return keras.Model(model.inputs, watched)


class ByPredict(keras.callbacks.Callback):
    def __init__(self, x: np.ndarray) -> None:
        super().__init__()
        self.x, self.kept = x, Kept()

    def on_train_begin(self, logs=None) -> None:
        self.second = second_model(self.model)

    def on_train_batch_end(self, batch, logs=None) -> None:
        self.kept.keep(self.outputs())

    def outputs(self) -> list[np.ndarray]:
        return self.second.predict_on_batch(self.x)


class ByPredictItself(ByPredict):
    def outputs(self) -> list[np.ndarray]:
        return self.second.predict(self.x, batch_size=len(self.x), verbose=0)


class BySecondModel(ByPredict):
    def on_train_begin(self, logs=None) -> None:
        second = second_model(self.model)
        self.call = tf.function(lambda x: second(x, training=False))

    def outputs(self) -> list[np.ndarray]:
        return [each.numpy() for each in self.call(self.x)]


class Summaries(keras.layers.Layer):
    """Logs its input from within the graph, and hands it on."""

    def __init__(self, writer: tf.summary.SummaryWriter, step: tf.Variable, **options) -> None:
        super().__init__(**options)
        self.log_to = (writer, step)  # a tuple: Keras tracks what it knows

    def call(self, x):
        writer, step = self.log_to
        if not tf.inside_function() or isinstance(x, keras.KerasTensor):
            return x
        with writer.as_default(step=step):
            for name, reduced in {
                "mean": tf.reduce_mean(x),
                "std": tf.math.reduce_std(x),
                "min": tf.reduce_min(x),
                "max": tf.reduce_max(x),
                "l2": tf.norm(tf.reshape(x, [-1])),
            }.items():
                tf.summary.scalar(f"{self.name}/{name}", reduced)
        return x


class CountSteps(keras.callbacks.Callback):
    def __init__(self, writer: tf.summary.SummaryWriter, step: tf.Variable) -> None:
        super().__init__()
        self.writer, self.step = writer, step

    def on_train_batch_end(self, batch, logs=None) -> None:
        self.step.assign_add(1)

    def on_train_end(self, logs=None) -> None:
        self.writer.close()


def with_summaries(model: keras.Model, folder: Path) -> tuple[keras.Model, list]:
    with tf.device("cpu"):
        step = tf.Variable(0, dtype=tf.int64)
    writer = tf.summary.create_file_writer(str(folder))
    x = model.inputs[0]
    for layer in model.layers:
        x = layer(x)
        if layer.weights:
            x = Summaries(writer, step, name=f"of_{layer.name}")(x)
    return keras.Model(model.inputs, x), [CountSteps(writer, step)]


class Entrant(NamedTuple):
    model: keras.Model
    callbacks: list


def entrants(
    make: Callable, x: np.ndarray, folder: Path, *, predict: bool
) -> dict[str, Entrant]:
    """Equal models, each with its way to watch."""

    def made() -> keras.Model:
        keras.utils.set_random_seed(7)
        return make()[0]

    summarized, counting = with_summaries(made(), folder / "summaries")
    board = keras.callbacks.TensorBoard(folder / "board", histogram_freq=1, update_freq=1)
    found = {
        "unwatched": Entrant(made(), []),
        "distwatch": Entrant(made(), [dw.Watch(folder / "default.zarr")]),
        "its activations": Entrant(
            made(), [dw.Watch(folder / "activations.zarr", signals=[dw.activations()])]
        ),
        "predict": Entrant(made(), [ByPredict(x)]),
        "second model": Entrant(made(), [BySecondModel(x)]),
        "TensorBoard": Entrant(made(), [board]),
        "tf.summary": Entrant(summarized, counting),
    }
    if predict:
        found["predict itself"] = Entrant(made(), [ByPredictItself(x)])
    for each in found.values():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        each.model.compile("sgd", loss)
    return found


def race(name: str, rounds: int, folder: Path, *, predict: bool) -> None:
    _, shape, batch, steps = MODELS[name]()
    rng = np.random.default_rng(3)
    x = rng.normal(0.5, 1.0, (batch * 8, *shape)).astype("float32")
    y = rng.integers(0, 10, batch * 8)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch).repeat()
    found = entrants(MODELS[name], x[:batch], folder, predict=predict)
    seconds = Pace(rounds, steps).race(
        [each.model for each in found.values()],
        data,
        [each.callbacks for each in found.values()],
    )
    by_name = dict(zip(found, seconds, strict=True))
    unwatched = by_name.pop("unwatched")
    step = statistics.median(unwatched)
    added = {
        way: estimate_of([a - b for a, b in zip(each, unwatched, strict=True)])
        for way, each in by_name.items()
    }
    for way, each in added.items():
        low, high = 1e3 * each.low, 1e3 * each.high
        interval = f"{1e3 * each.value:+8.3f} ({low:+.3f} to {high:+.3f})"
        print(
            f"{name:6} {1e3 * step:8.2f} {way:16} {interval:28} "
            f"{1 + each.value / step:8.2f} {times_ours(each, added['distwatch'], step):>12}",
            flush=True,
        )


def times_ours(theirs: Estimate, ours: Estimate, step: float) -> str:
    if theirs is ours:
        return ""
    if ours.high < MEASURABLE * step:
        return "not measurable"
    return f"{theirs.low / ours.high:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="mlp,cnn")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--predict", action="store_true", help="predict itself, too (slow)")
    chosen = parser.parse_args()
    print(f"{'model':6} {'ms/step':>8} {'way':16} {'added ms/step':28} {'ratio':>8} times ours")
    for name in chosen.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            race(name, chosen.rounds, Path(folder), predict=chosen.predict)


if __name__ == "__main__":
    main()
