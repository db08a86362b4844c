"""A training that another tool logs; test_loggers.py starts it in processes of their own.

    python tests/training/beside_a_logger.py mlflow|wandb first|last|unwatched

The tool is set up before the Watch is made, or after. Prints, as JSON, what the tool was given
at the end of the last epoch, what the run has of it, and a checksum of the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import distwatch as dw
from distwatch.testing import mirrored

SIGNAL = "activation/hidden"


def mlflow() -> tuple[list[Any], Callable[[], dict[str, float]]]:
    """Autologging, which wraps ``fit``, into a folder."""
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    import mlflow

    mlflow.set_tracking_uri("file:./mlruns")
    mlflow.tensorflow.autolog(log_models=False, checkpoint=False)
    return [], lambda: mlflow.last_active_run().data.metrics


def wandb() -> tuple[list[Any], Callable[[], dict[str, float]]]:
    """The callback for Keras, offline."""
    import wandb
    from wandb.integration.keras import WandbMetricsLogger

    run = wandb.init(project="tried", mode="offline", settings=wandb.Settings(silent=True))

    def given() -> dict[str, float]:
        summary = dict(run.summary)
        run.finish()
        return {key.removeprefix("epoch/"): value for key, value in summary.items()}

    return [WandbMetricsLogger()], given


def small_model() -> keras.Model:
    keras.utils.set_random_seed(1)
    with mirrored(2).scope():
        model = keras.Sequential(
            [
                keras.Input((12,)),
                keras.layers.Dense(8, "relu", name="hidden"),
                keras.layers.Dense(4, name="last"),
            ]
        )
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


if __name__ == "__main__":
    tool, place = sys.argv[1:]
    made = {"mlflow": mlflow, "wandb": wandb}[tool]
    random = np.random.default_rng(0)
    x, y = random.normal(1, 1, (64, 12)).astype("float32"), random.integers(0, 4, 64)
    callbacks, given = made() if place != "last" else ([], dict)
    watches = []
    if place != "unwatched":
        watches.append(dw.Watch("run.zarr", log_to_keras=[f"{SIGNAL}:l2"]))
    if place == "last":
        callbacks, given = made()
        callbacks = [*watches, *callbacks]
    else:
        callbacks = [*callbacks, *watches]
    model = small_model()
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, shuffle=False, callbacks=callbacks)
    weights = b"".join(weight.tobytes() for weight in model.get_weights())
    said = {"weights": hashlib.sha256(weights).hexdigest(), "given": given()}
    if watches:
        with dw.open_run("run.zarr") as run:
            merged = run.sel(epoch=1).resample(steps=4)[SIGNAL].merged("l2")
            said["recorded"] = float(merged[-1])
    print(json.dumps(said, default=str))
