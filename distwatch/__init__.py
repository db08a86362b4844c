"""distwatch: what changed inside a Keras model, batch by batch, on every replica.

>>> import distwatch as dw
>>> run = dw.open_run("run.zarr")          # doctest: +SKIP

Importing this loads neither TensorFlow nor xarray; each name is loaded when it
is first used. What trains (`Watch`, `Tracker`, `watching`, `preflight`, `compat`) needs
TensorFlow and Keras, ``pip install "distwatch[tensorflow]"``, and raises
`distwatch.errors.BackendError` without them; reading runs needs neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from distwatch.keras_calls import place_with_keras

if TYPE_CHECKING:
    from distwatch.analysis import Run, diff, list_runs, open_run
    from distwatch.signals import (
        activations,
        canary,
        data,
        desync,
        ema,
        gradients,
        histogram,
        inputs,
        learning_rate,
        logged,
        loss,
        probe,
        states,
        tensors,
        updates,
        weights,
    )
    from distwatch.signals.schedules import at, every, first, logarithmic
    from distwatch.training.amplification import amplification
    from distwatch.training.loop import watching
    from distwatch.training.tracker import Tracker
    from distwatch.training.traps import preflight
    from distwatch.training.watch import Watch

__version__ = "0.1.0"

_HOMES = {
    "Run": "distwatch.analysis",
    "Tracker": "distwatch.training.tracker",
    "Watch": "distwatch.training.watch",
    "activations": "distwatch.signals",
    "amplification": "distwatch.training.amplification",
    "at": "distwatch.signals.schedules",
    "canary": "distwatch.signals",
    "data": "distwatch.signals",
    "diff": "distwatch.analysis",
    "desync": "distwatch.signals",
    "ema": "distwatch.signals",
    "every": "distwatch.signals.schedules",
    "first": "distwatch.signals.schedules",
    "gradients": "distwatch.signals",
    "histogram": "distwatch.signals",
    "inputs": "distwatch.signals",
    "learning_rate": "distwatch.signals",
    "list_runs": "distwatch.analysis",
    "logarithmic": "distwatch.signals.schedules",
    "logged": "distwatch.signals",
    "loss": "distwatch.signals",
    "open_run": "distwatch.analysis",
    "preflight": "distwatch.training.traps",
    "probe": "distwatch.signals",
    "states": "distwatch.signals",
    "tensors": "distwatch.signals",
    "updates": "distwatch.signals",
    "watching": "distwatch.training.loop",
    "weights": "distwatch.signals",
}

#: Rooms that people name by way of this one, as in ``distwatch.compat.multiworker_fit()``.
_ROOMS = ("actions", "compat", "errors", "testing")

__all__ = [
    "Run",
    "Tracker",
    "Watch",
    "activations",
    "amplification",
    "at",
    "canary",
    "data",
    "desync",
    "diff",
    "ema",
    "every",
    "first",
    "gradients",
    "histogram",
    "inputs",
    "learning_rate",
    "list_runs",
    "logarithmic",
    "logged",
    "loss",
    "open_run",
    "preflight",
    "probe",
    "states",
    "tensors",
    "updates",
    "watching",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES and name not in _ROOMS:
        raise AttributeError(f"module 'distwatch' has no attribute {name!r}")
    if name in _ROOMS:
        return importlib.import_module(f"distwatch.{name}")
    from distwatch.errors import training_imports

    with training_imports(f"distwatch.{name}"):
        value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


# Before anybody looks ``model.fit`` up; see `keras_calls`.
place_with_keras()


def __dir__() -> list[str]:
    # What is public, without what this module itself imports.
    return sorted({*__all__, *_ROOMS, *(name for name in globals() if name.startswith("__"))})
