"""The cells of the matrix of bits: which trainings are compared, watched with unwatched.

A cell is one value of each factor. The cells are a covering array of strength two: every
pair of values of two factors that go together is in one of them.
"""

import itertools

import keras
import numpy as np

layers = keras.layers

#: Layer -> the shape that its input of 12 numbers takes, and what makes the layer of an
#: activation; those that take none have None in its place.
LAYERS = {
    "dense": ((12,), lambda act: layers.Dense(12, act)),
    "einsum_dense": ((12,), lambda act: layers.EinsumDense("ab,bc->ac", 12, act, "c")),
    "conv1d": ((6, 2), lambda act: layers.Conv1D(2, 3, padding="same", activation=act)),
    "conv2d": ((3, 4, 1), lambda act: layers.Conv2D(3, 3, padding="same", activation=act)),
    "conv3d": ((2, 3, 2, 1), lambda act: layers.Conv3D(2, 2, padding="same", activation=act)),
    "conv1d_transpose": ((6, 2), lambda act: layers.Conv1DTranspose(2, 3, activation=act)),
    "conv2d_transpose": ((3, 4, 1), lambda act: layers.Conv2DTranspose(2, 2, activation=act)),
    "depthwise_conv1d": ((6, 2), lambda act: layers.DepthwiseConv1D(2, activation=act)),
    "depthwise_conv2d": ((3, 2, 2), lambda act: layers.DepthwiseConv2D(2, activation=act)),
    "separable_conv1d": ((6, 2), lambda act: layers.SeparableConv1D(3, 2, activation=act)),
    "separable_conv2d": ((3, 2, 2), lambda act: layers.SeparableConv2D(3, 2, activation=act)),
    "simple_rnn": ((4, 3), lambda act: layers.SimpleRNN(5, act, return_sequences=True)),
    "lstm": ((4, 3), lambda act: layers.LSTM(4, act)),
    "gru": ((4, 3), lambda act: layers.GRU(4, act, return_sequences=True)),
    "conv_lstm1d": ((2, 3, 2), lambda act: layers.ConvLSTM1D(2, 2, activation=act)),
    "bidirectional": ((4, 3), lambda act: layers.Bidirectional(layers.LSTM(3, act))),
    "time_distributed": ((4, 3), lambda act: layers.TimeDistributed(layers.Dense(3, act))),
    "spectral": ((12,), lambda act: layers.SpectralNormalization(layers.Dense(8, act))),
}
WITHOUT_ACTIVATION = {
    "batch_normalization": ((3, 2, 2), lambda: layers.BatchNormalization(synchronized=True)),
    "layer_normalization": ((12,), layers.LayerNormalization),
    "group_normalization": ((3, 2, 2), lambda: layers.GroupNormalization(2)),
    "rms_normalization": ((12,), layers.RMSNormalization),
    "prelu": ((12,), layers.PReLU),
    "attention": ((4, 3), lambda: SelfAttention(layers.MultiHeadAttention(2, 3))),
    "grouped_attention": ((4, 3), lambda: SelfAttention(layers.GroupQueryAttention(3, 2, 1))),
    "embedding": ((12,), lambda: Embedded(layers.Embedding(7, 3))),
}

ACTIVATIONS = sorted(
    name
    for name, function in vars(keras.activations).items()
    # glu halves what it is given, threshold takes arguments, the others are no activations.
    if callable(function)
    and name not in ("deserialize", "get", "glu", "serialize", "threshold")
)

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.02),
    "nesterov": lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.005, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(0.005, weight_decay=0.01, use_ema=True),
    "nadam": lambda: keras.optimizers.Nadam(0.005),
    "adamax": lambda: keras.optimizers.Adamax(0.005),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.002, centered=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.02),
    "adadelta": lambda: keras.optimizers.Adadelta(0.5),
    "adafactor": lambda: keras.optimizers.Adafactor(0.005),
    "ftrl": lambda: keras.optimizers.Ftrl(0.02),
    "lion": lambda: keras.optimizers.Lion(0.001),
    "muon": lambda: keras.optimizers.Muon(0.005),
}

FACTORS = {
    "layer": [*LAYERS, *WITHOUT_ACTIVATION],
    "activation": ACTIVATIONS,
    "placed": ["inline", "separate", "function", "residual"],
    "trained": ["trainable", "frozen"],
    "optimizer": list(OPTIMIZERS),
    "policy": ["float32", "mixed_bfloat16", "mixed_float16"],
    "replicas": [1, 2, 4],
    "steps": [1, 7],
    "compiled": ["graph", "xla"],
    "signals": ["default", "named", "everything"],
    "reference": ["previous", "ema(0.9)", "none"],
}


class SelfAttention(layers.Layer):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def call(self, x):
        return self.attention(x, x)


class Function(layers.Layer):
    """What people write in a layer of their own: a function, no layer for it."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


class Embedded(layers.Layer):
    """An embedding of numbers that are no whole ones."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def call(self, x):
        return self.embedding(keras.ops.cast(keras.ops.abs(x), "int32") % 7)


def goes_together(cell):
    """Whether Keras can train this; ``cell`` may be a part of one."""
    get = cell.get
    several = get("replicas", 1) > 1
    return not (
        # Keras compiles by XLA on one device only.
        (several and get("compiled") == "xla")
        # Layers without an activation of their own.
        or (get("layer") in WITHOUT_ACTIVATION and get("placed") == "inline")
        # Keras reads these inside a condition of each replica.
        or (several and get("policy") == "mixed_float16" and get("optimizer") == "adamw")
        # A power iteration is an assignment in each replica, and overflows in float16.
        or (get("layer") == "spectral" and (several or get("policy") == "mixed_float16"))
    )


def covering_cells(seed):
    """Cells in which every pair of values that go together is.

    Each cell starts with a pair that is missing and takes, factor by factor in a random
    order, the value that adds most of the missing pairs.
    """
    rng = np.random.default_rng(seed)
    missing = {
        frozenset(pair)
        for a, b in itertools.combinations(FACTORS, 2)
        for pair in itertools.product(
            [(a, v) for v in FACTORS[a]], [(b, v) for v in FACTORS[b]]
        )
        if goes_together(dict(pair))
    }
    ordered = sorted(missing, key=lambda pair: sorted(map(repr, pair)))
    rng.shuffle(ordered)
    for pair in ordered:
        if pair in missing and (cell := _grown(dict(pair), missing, rng)):
            missing -= {frozenset(two) for two in itertools.combinations(cell.items(), 2)}
            yield cell


def _grown(cell, missing, rng):
    for factor in rng.permutation([name for name in FACTORS if name not in cell]):
        values = [v for v in FACTORS[factor] if goes_together({**cell, factor: v})]
        if not values:
            return None
        rng.shuffle(values)
        cell[str(factor)] = max(
            values,
            key=lambda v: sum(
                frozenset([(factor, v), each]) in missing for each in cell.items()
            ),
        )
    return {name: cell[name] for name in FACTORS}


def model_of(cell):
    """(batch, 12) -> (batch, 4): a trained layer, the layer of the cell, and a head."""
    shape, make = {**LAYERS, **WITHOUT_ACTIVATION}[cell["layer"]]
    activation = cell["activation"]
    inline = cell["placed"] == "inline" and cell["layer"] in LAYERS
    layer = (
        make() if cell["layer"] in WITHOUT_ACTIVATION else make(activation if inline else None)
    )
    layer.trainable = cell["trained"] == "trainable"
    inputs = keras.Input((12,))
    x = before = layers.Reshape(shape)(layers.Dense(12)(inputs))
    x = layer(x)
    if cell["placed"] == "separate":
        x = layers.Activation(activation)(x)
    elif not inline:
        x = Function(keras.activations.get(activation))(x)
    if cell["placed"] == "residual" and x.shape == before.shape:
        x = layers.Add()([layers.Add()([x, before]), before])
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))
