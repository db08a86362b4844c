"""What each signal of a fuzzed training was, from what the model itself noted."""

from __future__ import annotations

import functools

import keras
import ml_dtypes  # noqa: F401 - NumPy knows bfloat16 by it
import numpy as np
import tensorflow as tf
from fuzzed_training import build, probe_of, target_of

#: How exactly values are known that were computed again, relative to the largest: in float32,
#: and in half precision.
AGAIN, AGAIN_HALF = 3e-6, 3e-2


class Expected:
    """What each signal was, replica by replica and step by step."""

    def __init__(self, config, trained, training=True):
        self.config, self.trained, self.training = config, trained, training
        self.recorded = trained.recorded
        self.half = config["policy"].startswith("mixed")

    def of(self, signal):
        """Replica -> its values, step by step, and how exactly they are known; or None."""
        kind, _, path = signal.partition("/")
        known = {
            "activation": lambda: (self._noted(self.recorded.activations.get(path)), 0.0),
            "tensor": lambda: (self._noted(self.recorded.activations.get(path)), 0.0),
            "activation_input": lambda: (self._taken_in(path), 0.0),
            "input": lambda: (self._noted("input"), 0.0),
            "loss": lambda: (self._losses(), 1e-5),
            "weight": lambda: (self._weights(path, lambda a, b: b), 0.0),
            "update": lambda: (self._weights(path, lambda a, b: b - a), 0.0),
            "gradient_local": lambda: (self._gradients(path), 3e-5),
            "gradient": lambda: (self._applied(path), 3e-5),
            "gradient_clipped": lambda: (self._applied(path), 3e-5),
            "probe": lambda: (self._probe(path), AGAIN_HALF if self.half else 1e-5),
        }
        values, error = known[kind]()
        return None if values is None else (values, error)

    def _noted(self, noted):
        return self.recorded.of(noted, self.training) if noted else None

    def _taken_in(self, path):
        """What a layer is given, in the precision that it computes in."""
        noted = self._noted(self.recorded.inputs.get(path))
        dtype = self.config["policy"].removeprefix("mixed_")
        if noted is None or not self.half or noted[0][0].dtype != np.float32:
            return noted
        if isinstance(self.recorded.model.get_layer(path), keras.Model):
            return noted  # its layers do that
        cast = functools.partial(np.ndarray.astype, dtype=np.dtype(dtype))
        return [[cast(x) for x in each] for each in noted]

    def _losses(self):
        outputs = self._noted(self.recorded.activations["output"])
        return [
            [self._loss(x, y) for x, y in zip(*each, strict=True)]
            for each in zip(self._noted("input"), outputs, strict=True)
        ]

    def _loss(self, x, y):
        if not len(x):
            return None
        with np.errstate(all="ignore"):
            each = np.square(y - target_of(x).astype(y.dtype)).mean(axis=-1)
            mean = self.config["reduction"] == "sum_over_batch_size"
            return each.mean() if mean else each.sum()

    def _weights(self, path, change):
        values = self.trained.weights.get(path)
        if values is None:
            return None
        with np.errstate(all="ignore"):
            return [list(map(change, each[:-1], each[1:])) for each in values]

    @functools.cached_property
    def _alone(self):
        """The same model without a strategy or notes."""
        alone = build(self.config, replicas=1)
        alone.notes.on = False
        return alone.model

    def _at(self, step, replica):
        for variable in self._alone.weights:
            variable.assign(self.trained.weights[variable.path][replica][step])
        return self._alone

    @functools.cached_property
    def _tape(self):
        """Replica -> step -> path -> the gradient of its own loss."""
        found = []
        for replica, shards in enumerate(self._noted("input")):
            found.append([])
            for step, x in enumerate(shards):
                found[-1].append(_gradients_of(self._at(step, replica), x))
        return found

    def _gradients(self, path):
        # What is random, or needs all replicas, cannot be done again on one of them.
        if self.half or {"dropout", "batch_norm"} & set(self.config["layers"]):
            return None
        return [[step[path] for step in each] for each in self._tape]

    def _applied(self, path):
        clips = self.config["optimizer"].startswith("clip")
        # Keras clips an embedding's gradient before it adds up rows that are there twice.
        if self._gradients(path) is None or (clips and path.startswith("tokens")):
            return None
        clip = {"clipvalue": _clipped_by_value, "clipnorm": _clipped_by_norm}.get(
            self.config["optimizer"], lambda gradient: gradient
        )
        # Keras clips what each replica adds to the sum.
        replicas = self._gradients(path)
        share = len(replicas) if self.config["reduction"] == "sum_over_batch_size" else 1
        with np.errstate(all="ignore"):
            summed = [
                sum(clip(g.astype(np.float64) / share) for g in step)
                for step in zip(*replicas, strict=True)
            ]
        return [summed, *([None] * len(summed) for _ in replicas[1:])]

    def _probe(self, path):
        if path != "output":
            return None
        x, last = probe_of(self.config), self.trained.steps
        return [
            [self._at(step, r)(x, training=False).numpy() for step in range(1, last + 1)]
            for r in range(self.config["replicas"])
        ]


def _gradients_of(model, x):
    """Path -> the gradient of the loss of a batch."""
    variables = model.trainable_variables
    if not len(x):
        # Keras's addition fails eagerly on no rows.
        return {v.path: np.zeros(v.shape, v.dtype) for v in variables}
    with tf.GradientTape() as tape:
        loss = model.loss(target_of(x), model(x, training=True))
    each = tape.gradient(loss, [v.value for v in variables])
    return {
        v.path: tf.convert_to_tensor(g).numpy() for v, g in zip(variables, each, strict=True)
    }


def _clipped_by_value(gradient):
    return np.clip(gradient, -0.05, 0.05)


def _clipped_by_norm(gradient):
    return gradient * (0.1 / max(0.1, np.linalg.norm(gradient)))
