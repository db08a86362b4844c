"""Trainings with a planted fault each, and where it is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from watched_trainings import AtStep, classes, fit, layers, loop, mlp, optimizers, rows

import distwatch as dw

#: Rows of a step, half of which go to each of two replicas.
BATCH = 32

#: A step that depends on rounding.
ANY = -1


@dataclass(frozen=True)
class Fault:
    """A training, and what has to be said of it: once, and of nothing else a warning.

    ``step`` and ``replica`` may be None where there is none to tell; ``words`` are in the
    text. ``also`` are kinds of findings that are true beside it.
    """

    train: Callable[[Path], Any]
    kind: str
    signal: str
    step: int | None = None
    replica: int | None = None
    words: str = ""
    also: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.kind, *self.also)

    @property
    def expected(self) -> str:
        where = f"{self.kind} {self.signal} step {self.step} replica {self.replica}"
        return f"{where} {self.words!r}"

    def is_told_by(self, finding: Any) -> bool:
        step = finding.step if self.step == ANY else self.step
        told = (finding.kind, finding.signal, finding.step, finding.replica)
        wanted = (self.kind, self.signal, step, self.replica)
        return told == wanted and self.words in finding.text and finding.severity == "warning"


def regression(path, x=None, y=None, *, make=mlp, optimizer=None, loss="mse", **how):
    """A training on two replicas whose batches are in order."""
    given = rows(640)
    x, y = given[0] if x is None else x, given[1] if y is None else y
    how = {"replicas": 2, "shuffle": False} | how
    chosen = optimizer or (lambda: optimizers.Adam(1e-3))
    return fit(path, make, x, y, compiled=lambda: {"optimizer": chosen(), "loss": loss}, **how)


def of_replica(number, rows_, replicas=2, start=0):
    """Which rows a replica is given, from a step on."""
    place = np.arange(rows_)
    mine = place % BATCH // (BATCH // replicas) == number
    return mine & (place // BATCH >= start)


def spoilt(path, what, where, value, **how):
    """A training of which some numbers of the inputs or targets are others."""
    x, y = rows(640)
    {"x": x, "y": y}[what][where] = value
    return regression(path, x, y, **how)


def spoilt_default(path):
    x, y = rows(64)
    x[3] = np.nan
    made = functools.partial(mlp, activation="tanh")
    return regression(path, x, y, make=made, replicas=1, signals=[dw.activations()], epochs=1)


def broken_layer(path):
    """The logarithm of a negative number, which one step has."""

    def made():
        keras.utils.set_random_seed(1)
        given = keras.Input((8,))
        h = layers.Dense(4, name="z")(given)
        h = layers.Lambda(lambda x: x + tf.math.log(tf.reduce_min(x[:, :1])), name="log")(
            layers.Dense(4, "softplus", name="y")(h) * 0 + given[:, :4]
        )
        return keras.Model(given, layers.Dense(1, name="a")(h))

    x, y = rows(640)
    x = np.abs(x) + 0.1
    x[BATCH * 11 + 20, 0] = -1.0
    signals = [dw.weights(), dw.loss(), dw.gradients(applied=False), dw.activations("*")]
    return regression(path, x, y, make=made, signals=signals)


def assigned(path, step, do, **how):
    return regression(path, callbacks=[AtStep(step, do)], **how)


def broken_weight(model):
    kernel = model.get_layer("b").kernel
    kernel.assign(kernel * np.inf)


def kill_units(number):
    def do(model):
        bias = model.get_layer("a").bias
        bias.assign(np.where(np.arange(16) < number, -1e3, np.asarray(bias)))

    return do


def saturate(model):
    bias = model.get_layer("b").bias
    bias.assign(np.full(16, 1e3, "f"))


def softmax_of_one(path):
    x, y = classes(640, number=2)
    made = functools.partial(mlp, 1, last="softmax")
    return regression(path, x, y[:, None].astype("f"), make=made, loss="binary_crossentropy")


class Stop(layers.Layer):
    def call(self, x):
        return tf.stop_gradient(x)


def stopped():
    keras.utils.set_random_seed(1)
    given = keras.Input((8,))
    h = Stop()(layers.Dense(16, "relu", name="a")(given))
    return keras.Model(given, layers.Dense(1, name="c")(h))


def drifting(path, *, replicas, odd, start):
    """A write to the copy of one replica only, from a step on."""
    x, y = rows(640)
    # Every row has the number of its step.
    numbers = np.arange(640) // BATCH
    batches = tf.data.Dataset.from_tensor_slices((numbers, x, y)).batch(BATCH)

    def made():
        model, optimizer = mlp(), optimizers.SGD(0.01)
        optimizer.build(model.trainable_variables)

        def step(number, a, b):
            with tf.GradientTape() as tape:
                squares = (b - model(a, training=True))[:, 0] ** 2
                loss = tf.nn.compute_average_loss(squares, global_batch_size=BATCH)
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
            mine = tf.distribute.get_replica_context().replica_id_in_sync_group
            off = tf.cast((mine == odd) & (number[0] >= start), tf.float32) * 1e-3
            copy = model.get_layer("b").kernel.value._get_on_device_or_primary()
            copy.assign_add(tf.fill(copy.shape, off))

        return model, optimizer, step

    return loop(path, made, batches, replicas=replicas)


def stuck(path, on):
    """From step 6 on some replicas are given one batch."""
    x, y = rows(640)
    for replica in on:
        for values in (x, y):
            mine = values[of_replica(replica, 640)].reshape(20, BATCH // 2, -1)
            mine[6:] = mine[6]
            values[of_replica(replica, 640)] = mine.reshape(-1, values.shape[1])
    return regression(path, x, y)


def outliers(path):
    x, y = rows(640)
    x[BATCH * 13 : BATCH * 14] *= 300.0
    return regression(path, x, y, epochs=1)


def twins(path):
    x, y = rows(640)
    for values in (x, y):
        values[of_replica(1, 640)] = values[of_replica(0, 640)]
    return regression(path, x, y)


def scaled(path, by, what="x"):
    x, y = rows(640, mean=0.0)
    values = {"x": x, "y": y}[what]
    values[of_replica(1, 640)] *= by
    return regression(path, x, y)


def shifted(path, replicas, odd):
    x, y = rows(640)
    x[of_replica(odd, 640, replicas)] += 1.0
    return regression(path, x, y, replicas=replicas)


def standing_still(path):
    x, y = rows(640)
    x[of_replica(3, 640, 4)] = 0.25
    signals = [dw.inputs(), dw.inputs(reference="previous")]
    return regression(path, x, y, replicas=4, signals=signals)


FAULTY = {
    "NaN in an input": Fault(
        lambda path: spoilt(path, "x", (BATCH * 7 + 20, 3), np.nan),
        "not_finite", "input", 7, 1, "on replica 1"),
    "NaN in a target": Fault(
        lambda path: spoilt(path, "y", BATCH * 7 + 2, np.nan), "not_finite", "loss", 7, 0),
    "Inf in a target of the other": Fault(
        lambda path: spoilt(path, "y", BATCH * 12 + 18, np.inf), "not_finite", "loss", 12, 1),
    "NaN on two of four": Fault(
        lambda path: spoilt(path, "y", [BATCH * 5 + 9, BATCH * 5 + 30], np.nan, replicas=4),
        "not_finite", "loss", 5, None, "on replicas 1 and 3"),
    "NaN in a target, only gradients watched": Fault(
        lambda path: spoilt(path, "y", BATCH * 7 + 20, np.nan, signals=[
            dw.weights(), dw.gradients()]),
        "not_finite", "gradient_local/c/kernel", 7, 1),
    "NaN in a target, only weights watched": Fault(
        lambda path: spoilt(path, "y", BATCH * 7 + 20, np.nan, signals=[
            dw.weights(), dw.updates()]),
        "not_finite", "update/c/kernel", 7, None),
    "NaN in the first batch": Fault(spoilt_default, "not_finite", "activation/a", 0, 0),
    "NaN in a layer": Fault(broken_layer, "not_finite", "activation/log", 11, 1),
    "Inf in a weight": Fault(
        lambda path: assigned(path, 30, broken_weight, make=functools.partial(
            mlp, activation="tanh")),
        "not_finite", "activation/b", 30, None, "on all 2 replicas"),
    "a rate far too high": Fault(
        lambda path: regression(path, optimizer=lambda: optimizers.SGD(1e6), signals=[
            dw.loss(), dw.weights()]),
        "not_finite", "loss", ANY, None),
    "a batch again and again": Fault(
        lambda path: stuck(path, [0, 1]), "stuck_inputs", "input", 6, None),
    "a batch again and again on one": Fault(
        lambda path: stuck(path, [1]), "stuck_inputs", "input", 6, 1),
    "the same batches": Fault(
        twins, "same_inputs", "input", None, None, "Replicas 0 and 1"),
    "a replica scaled": Fault(
        lambda path: scaled(path, 1.3), "skewed_inputs", "input", None, 1, "1.3 times"),
    "a replica shifted": Fault(
        lambda path: shifted(path, 4, 2), "skewed_inputs", "input", None, 2),
    "targets of a replica scaled": Fault(
        lambda path: scaled(path, 4.0, "y"), "replicas_differ", "loss", None, 1),
    "a sensor that stands still": Fault(
        standing_still, "stuck_inputs", "input", 0, 3, "never changes on this replica"),
    "a dead layer": Fault(
        lambda path: assigned(path, 0, kill_units(16)), "dead", "activation/a", 0, None,
        "16 of 16 units"),
    "a layer that dies": Fault(
        lambda path: assigned(path, 30, kill_units(16)), "dead", "activation/a", 30, None,
        "16 of 16 units"),
    "seven units that die": Fault(
        lambda path: assigned(path, 21, kill_units(7)), "dead", "activation/a", 21, None,
        "7 of 16 units"),
    "a saturated layer": Fault(
        lambda path: assigned(path, 25, saturate, make=functools.partial(
            mlp, activation="tanh")),
        "dead", "activation/b", 25, None, "16 of 16 units"),
    "a softmax of one unit": Fault(
        softmax_of_one, "last_activation", "activation/c", 0, None, "over one unit"),
    "a gradient that is stopped": Fault(
        lambda path: regression(path, make=stopped), "without_gradient", "a/kernel", None,
        None, "a/kernel and a/bias"),
    "a gradient that is stopped, by default": Fault(
        lambda path: regression(path, make=stopped, signals=[dw.activations()]),
        "without_gradient", "a/kernel"),
    "a rate of zero": Fault(
        lambda path: regression(path, optimizer=lambda: optimizers.SGD(0.0)),
        "update_ratio", "update/a/kernel", 0, None, "not changed by any step"),
    "a rate far too small": Fault(
        lambda path: regression(path, optimizer=lambda: optimizers.Adam(1e-9)),
        "update_ratio", "update/a/kernel", 60, None, "hardly learns"),
    "copies that drift": Fault(
        lambda path: drifting(path, replicas=2, odd=1, start=4),
        "copies_differ", "weight/b/kernel", 4, None, "replicas 0 and 1"),
    "one copy of four that drifts": Fault(
        lambda path: drifting(path, replicas=4, odd=2, start=9),
        "copies_differ", "weight/b/kernel", 9, 2, "replica 2 and the others"),
    "one batch of outliers": Fault(
        outliers,
        "spike", "input", 13),
}  # fmt: skip
