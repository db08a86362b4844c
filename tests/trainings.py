"""What the training tests share: models, unlike data, and an ear inside the model."""

from __future__ import annotations

import collections
import errno
import json
import re
import types
import zipfile

import keras
import numpy as np
import tensorflow as tf

from distwatch.testing import mirrored

layers = keras.layers


def strategy_over(replicas: int):
    return mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()


def unlike_rows(rows: int, shape: tuple[int, ...] = (12,), seed: int = 0):
    """Rows whose mean and spread grow from row to row, so that no two shards are alike."""
    rng = np.random.default_rng(seed)
    scale = np.linspace(0.5, 3.0, rows).reshape(-1, *(1 for _ in shape))
    x = (rng.normal(size=(rows, *shape)) * scale + scale).astype("float32")
    return x, rng.integers(0, 4, rows)


class Ear(layers.Layer):
    """Passes its input through and notes it, with the replica it came from."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        # In a plain object: Keras replaces dicts and lists by its own.
        self._notes = types.SimpleNamespace(recorded=collections.defaultdict(list))

    @property
    def recorded(self):
        """Replica number -> what passed, batch by batch."""
        return self._notes.recorded

    def call(self, inputs, training=None):
        context = tf.distribute.get_replica_context()
        if not training or context is None or not isinstance(inputs, tf.Tensor):
            return inputs

        def note(number, values):
            self.recorded[int(number)].append(values.copy())
            return values

        noted = tf.numpy_function(
            note, [context.replica_id_in_sync_group, tf.stop_gradient(inputs)], inputs.dtype
        )
        # Needed by nobody, but a stateful operation of a traced step always runs.
        del noted
        return inputs


def small_model(
    strategy, *, ears: bool = False, spe: int = 1, jit: bool = False, seed: int = 5
):
    """Dense, Dense, Dense: returns the model and the ears behind its layers."""
    keras.utils.clear_session()  # names start from the same numbers again
    keras.utils.set_random_seed(seed)
    recorded = [Ear(name=f"ear{i}") for i in range(3)] if ears else []
    with strategy.scope():
        stack = [keras.Input((12,))]
        for i, (units, activation) in enumerate([(16, "relu"), (8, "tanh"), (4, None)]):
            stack.append(layers.Dense(units, activation, name=f"dense_{i}"))
            stack += recorded[i : i + 1]
        model = keras.Sequential(stack)
        compile_model(model, spe=spe, jit=jit)
    return model, recorded


def compile_model(model, *, spe: int = 1, jit: bool = False):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, steps_per_execution=spe, jit_compile=jit)
    return model


def fit(model, x, y, *callbacks, batch: int = 16, epochs: int = 1, **more):
    return model.fit(
        x, y, batch_size=batch, epochs=epochs, verbose=0, shuffle=False,
        callbacks=list(callbacks), **more,
    )  # fmt: skip


def broken_disk(writer, after: int):
    """An ``append`` for a class of writers that fails when ``after`` blocks are written."""
    original, written = writer.append, []

    def append(self, block):
        if len(written) >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(block)
        original(self, block)

    return append


def same_weights(a, b) -> bool:
    """Bit by bit."""
    pairs = zip(a.get_weights(), b.get_weights(), strict=True)
    return all(x.tobytes() == y.tobytes() for x, y in pairs)


def everything_about(model):
    return {
        "weights": [(w.path, tuple(w.shape), w.dtype) for w in model.weights],
        "optimizer": [(w.path, tuple(w.shape)) for w in model.optimizer.variables],
        "config": json.dumps(model.get_config(), sort_keys=True, default=str),
        "compiled": json.dumps(model.get_compile_config(), sort_keys=True, default=str),
        "jit": model.jit_compile,
        "attributes": sorted(vars(model)),
        "layers": [sorted(vars(layer)) for layer in model._flatten_layers()],
    }


def contents_of(file):
    """Names and bytes of a saved file's parts, which are all there is in it."""
    with zipfile.ZipFile(file) as parts:
        contents = {name: parts.read(name) for name in parts.namelist()}
    # The time of saving, and the memory addresses of shared objects.
    del contents["metadata.json"]
    config = re.sub(rb'"shared_object_id": \d+', b"", contents["config.json"])
    return {**contents, "config.json": config}
