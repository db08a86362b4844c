"""Train what is drawn at random, and compare every row with NumPy.

    python tests/training/fuzz.py [--count 500] [--seed 0] [--first 0] [--minutes 60]

A configuration is a model, a strategy, data, a precision, signals with references, statistics
and schedules, and how the Watch writes. It is drawn from the seed and its number alone, so
``--seed 3 --first 17 --count 1`` tries one of them again. What rows have to hold is computed
in NumPy (`oracle`) from what the model itself noted (`recorded_models`). Prints each fault with
its number, then how many configurations were tried and how many rows were compared, and ends
with 1 if there was a fault.
"""

from __future__ import annotations

import collections
import json
import os
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

if __name__ == "__main__":
    # Before TensorFlow starts.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from distwatch.testing import virtual_devices

    virtual_devices(4)
    sys.path.insert(0, str(Path(__file__).parents[1]))

import fuzzed_training
import trials
from row_comparison import compare

REFERENCES = ["previous", "batch_mean", "first", "ema(0.9)", "ema(0.5)", "neighbour", "none"]
#: Those of values that have no batch dim.
UNBATCHED = ["previous", "first", "ema(0.9)", "none"]
SCHEDULES = ["every(1)", "every(1)", "every(2)", "every(3)", "first(5)", "at(0, 3, 4, 9)"]

LAYERS = {
    "plain": ["dense", "dense", "dense_tanh", "wide", "norm", "batch_norm", "dropout", "prelu",
              "activation", "split", "nested", "shared", "residual"],
    "sequences": ["dense", "conv", "norm", "gru", "activation", "split", "nested", "shared"],
}  # fmt: skip
LAYERS["tokens"] = LAYERS["plain"]


def draw(seed, number):
    """One configuration, as plain values."""
    rng = random.Random(f"{seed}/{number}")
    kind = rng.choices(["plain", "sequences", "tokens"], [6, 2, 1])[0]
    replicas = rng.choices([1, 2, 4], [6, 4, 1])[0]
    config = {
        "number": number,
        "replicas": replicas,
        "layers": rng.choices(LAYERS[kind], k=rng.randint(1, 2)),
        "policy": rng.choices(
            ["float32", "float64", "mixed_bfloat16", "mixed_float16"], [7, 1, 1, 1]
        )[0],
        "optimizer": rng.choice(["sgd", "adam", "momentum", "clipvalue", "clipnorm"]),
        "reduction": rng.choice(["sum_over_batch_size"] * 3 + ["sum"]),
        "steps_per_execution": rng.choice([1, 1, 2, 5]),
        "epochs": rng.randint(1, 3),
        "data": draw_data(rng, kind, replicas),
        "validation": rng.random() < 0.3,
        "window": rng.choice([1, 2, 3, 5, 8, 64]),
        "drain_every": rng.choice([None, 0.01, 10.0]),
        "schedule": rng.choice(SCHEDULES),
        "reference": rng.choice(REFERENCES),
        "signals": draw_signals(rng),
    }
    kinds = {kind for each in config["signals"] for kind in each}
    # A probe, too, runs the model in inference mode; weights are those of the training.
    if "probe" in kinds or not kinds & {"activations", "inputs", "loss", "tensors"}:
        config["validation"] = False
    return config


def draw_data(rng, kind, replicas):
    """Batches of fixed size with an uneven end, or each of its own size."""
    ragged = rng.random() < 0.3
    size = rng.randint(replicas, 9)
    rows = [rng.randint(1, 9) if ragged else size for _ in range(rng.randint(2, 6))]
    if not ragged:
        rows[-1] = rng.randint(1, size)
    return {
        "kind": kind,
        "seed": rng.randrange(2**31),
        "rows": rows,
        "values": rng.choices(
            ["usual", "far", "zeros", "repeated", "nan", "huge", "tiny"], [8, 2, 1, 1, 2, 1, 1]
        )[0],
    }


def draw_signals(rng):
    """One to four selectors, each of another kind."""
    kinds = ["activations", "inputs", "loss", "weights", "updates", "gradients", "tensors",
             "probe"]  # fmt: skip
    return [draw_selector(rng, kind) for kind in rng.sample(kinds, rng.randint(1, 3))]


def draw_selector(rng, kind):
    batched = kind in ("activations", "inputs", "tensors", "probe")
    chosen = {"reference": rng.choice(REFERENCES if batched else UNBATCHED)}
    if kind in ("tensors", "probe") or rng.random() < 0.5:
        chosen["every"] = rng.choice(SCHEDULES)
    if kind != "tensors" and rng.random() < 0.4:
        chosen["histogram"] = rng.choice([0.05, 0.2])
    if kind == "activations":
        chosen["named"] = rng.random() < 0.4
        chosen["inputs"] = rng.random() < 0.3
        if rng.random() < 0.3:
            del chosen["reference"]  # the Watch's own
    if kind == "tensors":
        chosen["reduce"] = rng.choice([None, None, "mean", "sum"])
        chosen["dtype"] = rng.choice(["float32", "float32", "float16"])
    return {kind: chosen}


def faults_of(config):
    """How many rows were compared (None: Keras cannot train this), and what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            trained = fuzzed_training.train(config, Path(folder) / "run.zarr")
            if trained is None:
                return None, []
            compared, faults = compare(config, trained)
            return compared, trained.faults + faults
        except Exception:
            return 0, [traceback.format_exc()]


def harness(count, seed, first=0, minutes=None):
    """What was tried and compared, and the faults, each of which is printed as it is found."""
    counted, wrong, begun = collections.Counter(), trials.Faults(), time.monotonic()
    for number in range(first, first + count):
        if minutes is not None and time.monotonic() > begun + 60 * minutes:
            break
        config = draw(seed, number)
        compared, faults = faults_of(config)
        counted["configurations"] += 1
        counted[f"on {config['replicas']} replicas"] += 1
        counted["that Keras cannot train"] += compared is None
        counted["rows compared"] += compared or 0
        if faults:
            said = "\n  ".join([*faults[:5], json.dumps(config)])
            wrong.append(f"--seed {seed} --first {number} --count 1:\n  {said}")
    return counted, wrong


if __name__ == "__main__":
    sys.exit(trials.main(__doc__, harness, count=500, **trials.NUMBERED))
