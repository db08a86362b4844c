"""Small models of many kinds that note, on each replica, all that passes through them."""

from __future__ import annotations

import collections
import threading

import keras
import numpy as np
import tensorflow as tf

layers = keras.layers

#: Layer -> what makes it, from features (6,), (None, 6) or (3, 2), and what it needs.
FLAT = {
    "dense": lambda name: layers.Dense(4, "relu", name=name),
    "dense_tanh": lambda name: layers.Dense(3, "tanh", name=name),
    "wide": lambda name: layers.Dense(9, name=name),
    "norm": lambda name: layers.LayerNormalization(name=name),
    "batch_norm": lambda name: layers.BatchNormalization(synchronized=True, name=name),
    "dropout": lambda name: layers.Dropout(0.3, seed=4, name=name),
    "activation": lambda name: layers.Activation("relu", name=name),
    "prelu": lambda name: layers.PReLU(name=name),
}
IN_SEQUENCE = {
    "dense": lambda name: layers.Dense(4, "relu", name=name),
    "conv": lambda name: layers.Conv1D(3, 2, padding="same", activation="relu", name=name),
    "norm": lambda name: layers.LayerNormalization(name=name),
    "gru": lambda name: layers.GRU(3, return_sequences=True, name=name),
    "activation": lambda name: layers.Activation("tanh", name=name),
}
#: Layers that own trainable weights, and so are watched by default.
TRAINED = {*FLAT, *IN_SEQUENCE} - {"dropout", "activation"} | {"shared", "nested", "split"}
FEATURES, OUTPUTS = 6, 2


class Notes:
    """What was noted: (name, whether in training) -> replica -> values, step by step."""

    def __init__(self):
        self.on = True
        self.lock = threading.Lock()
        self.of = collections.defaultdict(lambda: collections.defaultdict(list))

    def add(self, name, training, replica, values):
        if self.on:
            with self.lock:
                self.of[name, training][int(replica)].append(values)


class Recorder(layers.Layer):
    """Passes its input through and notes it; the first one notes all weights, too."""

    def __init__(self, notes, noted, **kwargs):
        super().__init__(autocast=False, **kwargs)
        # In a function, since Keras tracks what layers hold.
        self._noted = lambda: (notes, noted)
        self._weights_of = list

    def call(self, inputs, training=None):
        context = tf.distribute.get_replica_context()
        if context is None or not isinstance(inputs, tf.Tensor):
            return inputs
        notes, noted = self._noted()
        variables = self._weights_of() if training else []
        wide = tf.cast(inputs, tf.float32) if inputs.dtype.size == 2 else inputs
        number = context.replica_id_in_sync_group

        def note(replica, values, *weights):
            notes.add(noted, bool(training), replica, values.copy())
            for variable, weight in zip(variables, weights, strict=True):
                notes.add(variable.path, True, replica, weight.copy())
            return np.int32(0)

        values = [tf.convert_to_tensor(v.value) for v in variables]
        # Needed by nobody, but a stateful operation of a traced step always runs.
        tf.numpy_function(note, [number, tf.stop_gradient(wide), *values], tf.int32)
        return inputs


class RecordedModel:
    """A model of a configuration, its notes, and which note each signal equals.

    Args:
        config: see `fuzz.draw`.
    """

    def __init__(self, config):
        self.notes = Notes()
        self.activations, self.inputs, self.default = {}, {}, []
        self._config, self._passed = config, "input"
        self._sequences = config["data"]["kind"] == "sequences"
        self.model = self._built()
        self.model.get_layer("hear_input")._weights_of = lambda: list(self.model.weights)

    def _built(self):
        whole = self._config["data"]["kind"] == "tokens"
        shape = (None, FEATURES) if self._sequences else (FEATURES,)
        inputs = keras.Input(shape, dtype="int32" if whole else keras.config.floatx())
        x = self._heard(inputs, "input")
        if whole:
            x = self._layer(layers.Embedding(9, 3, name="tokens"), x)
            x = self._heard(layers.Flatten()(x), "flat")
            self.default.append("tokens")
        for i, kind in enumerate(self._config["layers"]):
            x = self._stage(kind, f"layer_{i}", x)
        if self._sequences:
            x = self._heard(layers.GlobalAveragePooling1D()(x), "pooled")
        x = self._layer(layers.Dense(OUTPUTS, name="head"), x)
        self.default.append("head")
        self.activations["output"] = self._passed
        return keras.Model(inputs, x)

    def _stage(self, kind, name, x):
        if kind in TRAINED:
            self.default.append(f"{name}/dense" if kind == "nested" else name)
        if kind == "split":
            # Watched after the activation, where nobody names the layer.
            x = layers.Activation("relu", name=f"{name}_act")(layers.Dense(4, name=name)(x))
            self.activations[name] = self.activations[f"{name}_act"] = name
            return self._heard(x, name)
        if kind == "nested":
            inside = layers.Dense(5, "relu", name="dense")
            inner = keras.Sequential([keras.Input(x.shape[1:]), inside], name=name)
            self.activations[f"{name}/dense"] = name
            return self._layer(inner, x)
        if kind == "shared":
            twice = layers.Dense(x.shape[-1], "relu", name=name)
            x = self._layer(twice, x)
            self.activations[f"{name}#1"] = f"{name}#1"
            self.default.append(f"{name}#1")
            return self._heard(twice(x), f"{name}#1")
        if kind == "residual":
            branch = self._layer(layers.Dense(x.shape[-1], name=name), x)
            return self._heard(layers.Add(name=f"{name}_add")([x, branch]), f"{name}_sum")
        make = (IN_SEQUENCE if self._sequences else FLAT)[kind]
        return self._layer(make(name), x)

    def _layer(self, layer, x):
        self.inputs[layer.name], self.activations[layer.name] = self._passed, layer.name
        return self._heard(layer(x), layer.name)

    def _heard(self, x, noted):
        self._passed = noted
        return Recorder(self.notes, noted, name="hear_" + noted.replace("#", "_"))(x)

    def of(self, noted, training=True):
        """Replica -> what was noted at each step."""
        return [values for _, values in sorted(self.notes.of[noted, training].items())]
