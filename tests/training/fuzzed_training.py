"""Train one configuration of the fuzz, watched, and keep what its rows are compared with."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from recorded_models import FEATURES, OUTPUTS, RecordedModel
from trainings import strategy_over

import distwatch as dw
from distwatch.errors import DistwatchWarning, KnownTrapWarning, UnwatchedWarning

#: What is fixed for the probe and does not depend on the data.
PROBE_ROWS = 3


@dataclass
class Trained:
    """A watched training of a configuration, and what it noted.

    ``weights`` is path -> replica -> value before each step, and after the last one.
    """

    path: Path
    recorded: RecordedModel
    weights: dict[str, list[list[np.ndarray]]]
    batches: int
    faults: list[str] = field(default_factory=list)

    @property
    def steps(self):
        return len(next(iter(self.weights.values()))[0]) - 1


def schedule_of(said):
    """``every(2)`` as distwatch's own schedule."""
    name, numbers = said.rstrip(")").split("(")
    return getattr(dw, name)(*map(int, numbers.split(",")))


def target_of(x):
    """What a batch is trained towards: known from its rows alone."""
    rows = x[:, 0] if x.ndim == 3 else x
    return (rows[:, :OUTPUTS] * 0.5 + 1).astype(np.float32)


def batches_of(config):
    """The batches of an epoch: lists of x of unequal, non-zero-mean rows."""
    data = config["data"]
    rng = np.random.default_rng(data["seed"])
    without = {"conv", "gru"} & set(config["layers"])
    made = []
    for number in data["rows"]:
        # TensorFlow's kernels of these fail on a replica without rows, and Keras on a first
        # batch that does not divide, watched or not.
        unit = config["replicas"] if without or not made else 1
        rows = -(-number // unit) * unit
        shape = (rows, FEATURES)
        if data["kind"] == "tokens":
            made.append(rng.integers(0, 9, shape).astype("int32"))
            continue
        if data["kind"] == "sequences":
            shape = (rows, int(rng.integers(2, 5)), FEATURES)
        scale = rng.uniform(0.5, 3.0, rows).reshape(-1, *(1 for _ in shape[1:]))
        x = (rng.normal(size=shape) * scale + scale).astype(keras.config.floatx())
        made.append(_with_values(x, data["values"], rng, made))
    return made


def _with_values(x, values, rng, before):
    if values == "far":
        return x + 1e4
    if values == "zeros":
        return np.where(rng.random(x.shape) < 0.5, x.dtype.type(0), x)
    if values == "repeated" and before and before[-1].shape == x.shape:
        return before[-1]
    if values == "nan" and len(before) == 2:
        return np.where(
            rng.random(x.shape) < 0.1, x.dtype.type(rng.choice([np.nan, np.inf])), x
        )
    factor = {"huge": 1e18, "tiny": 1e-30}.get(values, 1.0)
    return x * x.dtype.type(factor)


def dataset_of(config):
    """What fit is given: arrays where batches are alike, otherwise a dataset."""
    batches = batches_of(config)
    sizes = {len(x) for x in batches[:-1]} | {max(map(len, batches))}
    if len(sizes) == 1 and batches[0].ndim == 2:
        x = np.concatenate(batches)
        return {"x": x, "y": target_of(x), "batch_size": len(batches[0]), "shuffle": False}
    signature = (
        tf.TensorSpec([None, *([None] * (batches[0].ndim - 2)), FEATURES], batches[0].dtype),
        tf.TensorSpec([None, OUTPUTS], "float32"),
    )
    make = lambda: ((x, target_of(x)) for x in batches)  # noqa: E731
    return {"x": tf.data.Dataset.from_generator(make, output_signature=signature)}


def optimizer_of(config):
    made = {
        "sgd": lambda: keras.optimizers.SGD(0.01),
        "adam": lambda: keras.optimizers.Adam(0.01),
        "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        "clipvalue": lambda: keras.optimizers.SGD(0.01, clipvalue=0.05),
        "clipnorm": lambda: keras.optimizers.SGD(0.01, clipnorm=0.1),
    }[config["optimizer"]]()
    if config["policy"] == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(made, initial_scale=64.0)
    return made


def build(config, *, replicas):
    """The model of a configuration, compiled."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    keras.config.set_floatx("float64" if config["policy"] == "float64" else "float32")
    keras.config.set_dtype_policy(config["policy"])
    with strategy_over(replicas).scope():
        recorded = RecordedModel(config)
        loss = keras.losses.MeanSquaredError(reduction=config["reduction"])
        recorded.model.compile(
            optimizer_of(config),
            loss,
            steps_per_execution=config["steps_per_execution"],
            jit_compile=False,
        )
    return recorded


def selectors_of(config, recorded):
    return [
        _selector(*each.popitem(), config, recorded) for each in map(dict, config["signals"])
    ]


def _selector(kind, chosen, config, recorded):
    options = {
        name: chosen[name] for name in ("reference", "reduce", "dtype") if name in chosen
    }
    if "every" in chosen:
        options["every"] = schedule_of(chosen["every"])
    if "histogram" in chosen:
        options["statistics"] = [dw.histogram(accuracy=chosen["histogram"])]
    patterns = []
    if kind == "activations":
        options["inputs"] = chosen["inputs"]
        # A layer before its activation has no ear.
        apart = {f"{name}_act" for name in recorded.activations}
        before = {name[: -len("_act")] for name in recorded.activations if name in apart}
        if chosen["named"]:
            # A layer is named with all its calls.
            named = {name.partition("#")[0] for name in recorded.activations}
            patterns = [sorted(named - before)]
    if kind == "gradients":
        # Keras adds up the replicas' gradients where they cannot be seen under a loss scale.
        options["applied"] = config["policy"] != "mixed_float16"
    if kind == "probe":
        patterns = [probe_of(config)]
    return getattr(dw, kind)(*patterns, **options)


def probe_of(config):
    return batches_of(config)[0][:1].repeat(PROBE_ROWS, axis=0)


def watch_of(config, recorded, path):
    return dw.Watch(
        path,
        signals=selectors_of(config, recorded),
        reference=config["reference"],
        schedule=schedule_of(config["schedule"]),
        window=config["window"],
        drain_every=config["drain_every"],
        phases=["train", "test"] if config["validation"] else ["train"],
    )


def train(config, path):
    """Train, watched; None where Keras cannot train this unwatched either."""
    try:
        return _trained(config, path, functools.partial(watch_of, config))
    except Exception:
        try:
            _trained(config, path, None)
        except Exception:
            return None
        raise
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def _trained(config, path, watching):
    recorded = build(config, replicas=config["replicas"])
    given = dataset_of(config)
    validation = {}
    if config["validation"]:
        held = given["x"] if "y" not in given else (given["x"], given["y"])
        validation = {"validation_data": held}
    faults = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callbacks = [watching(recorded, path)] if watching else []
        recorded.model.fit(
            **given, **validation, epochs=config["epochs"], verbose=0, callbacks=callbacks
        )
        for watch in callbacks:
            faults += [f"the watching ended: {watch.status.error!r}"] * bool(watch.status.error)
    recorded.notes.on = False
    expected = (KnownTrapWarning, UnwatchedWarning)
    faults += [
        f"warned: {each.message}"
        for each in caught
        if isinstance(each.message, DistwatchWarning) and not isinstance(each.message, expected)
    ]
    batches = len(config["data"]["rows"])
    return Trained(path, recorded, _weights(recorded), batches, faults)


def _weights(recorded):
    """Path -> replica -> the value before each step, and at last the one after the last."""
    found = {}
    for variable in recorded.model.weights:
        before = recorded.of(variable.path)
        last = tf.distribute.get_strategy().experimental_local_results(variable._value)
        values = getattr(variable._value, "values", last)
        found[variable.path] = [
            [*steps, np.asarray(value)] for steps, value in zip(before, values, strict=True)
        ]
    return found
