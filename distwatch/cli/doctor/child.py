"""The process in which the doctor trains, since TensorFlow may crash or hang.

    python -m distwatch.cli.doctor.child cpu|gpu

Prints one JSON object per line, each as soon as it is known: what was loaded, the devices,
and the result of a watched training. Everything else that is printed goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np

BATCHES = 6

#: Rows of a batch that each replica gets.
ROWS = 16


def main(kind: str) -> None:
    """Report the devices, and train on virtual CPUs or on all GPUs."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def report(**facts: Any) -> None:
        print(json.dumps(facts), file=lines, flush=True)

    start = time.perf_counter()
    import tensorflow as tf

    import distwatch.training.watch  # noqa: F401 - Keras, too

    report(loaded=tf.__version__, seconds_to_load=time.perf_counter() - start)
    physical = [device.device_type for device in tf.config.list_physical_devices()]
    report(devices=physical, gpus=physical.count("GPU"), cuda=tf.test.is_built_with_cuda())
    report(**train(_strategy(kind)))


def _strategy(kind: str) -> Any:
    import tensorflow as tf

    from distwatch.training.strategies import mirrored

    if kind == "gpu":
        return tf.distribute.MirroredStrategy(
            [device.name for device in tf.config.list_logical_devices("GPU")]
        )
    # A GPU that does not start must not affect the test of the CPU.
    tf.config.set_visible_devices([], "GPU")
    return mirrored(2)


def train(strategy: Any) -> dict[str, Any]:
    """Train a tiny model, watched, and compare its rows with NumPy.

    Returns:
        ``strategy`` in words, ``seconds``, ``rows`` kept, ``due`` and ``wrong``.
    """
    import keras

    from distwatch.analysis import open_run
    from distwatch.signals import activations, inputs
    from distwatch.training.strategies import facts_of
    from distwatch.training.watch import Watch

    start = time.perf_counter()
    store = "memory://doctor/run.zarr"
    replicas = strategy.num_replicas_in_sync
    x, y = _unlike_rows(BATCHES * replicas * ROWS)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(8, "relu"),
                keras.layers.Dense(3, "softmax"),
            ]
        )
        model.compile("adam", "sparse_categorical_crossentropy")
    watch = Watch(store, signals=[inputs(), activations()], strict=True)
    model.fit(x, y, batch_size=replicas * ROWS, shuffle=False, callbacks=[watch], verbose=0)
    rows = open_run(store)["input"]
    return {
        "strategy": str(facts_of(strategy)),
        "seconds": time.perf_counter() - start,
        "rows": int((rows.per_replica("count") > 0).sum()),
        "due": BATCHES * replicas,
        "wrong": _wrong(rows, x.reshape(BATCHES, replicas, -1).astype(np.float64)),
    }


def _unlike_rows(rows: int) -> tuple[Any, Any]:
    """Each row has its own mean and spread, so that exchanged replicas are noticed."""
    random = np.random.default_rng(0)
    scale = np.linspace(0.5, 3.0, rows)[:, None]
    x = (random.normal(size=(rows, 4)) * scale + 2 * scale).astype("float32")
    return x, random.integers(0, 3, rows)


def _wrong(rows: Any, given: Any) -> int:
    """How many rows differ from NumPy's; given: (step, replica, element)."""
    exact = {name: getattr(given, name)(axis=-1) for name in ("mean", "std", "min", "max")}
    wrong = np.zeros(given.shape[:2], bool)
    for name, want in {"count": np.full(wrong.shape, given.shape[-1]), **exact}.items():
        got = rows.per_replica(name).to_numpy()
        if got.shape != want.shape:
            return int(np.prod(want.shape))
        wrong |= ~(np.abs(got - want) <= 1e-5 * np.abs(want))
    return int(wrong.sum())


if __name__ == "__main__":
    main(sys.argv[1])
