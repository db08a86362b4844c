"""Make what the first version wrote: a saved model with Trackers, a run, configuration files.

    python tests/data/make_first_version.py

It was run with the first version, and is never run again: ``tests/test_first_version.py`` opens
what it wrote with the code of today.
"""

import contextlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
from trainings import unlike_rows

import distwatch as dw
from distwatch.testing import mirrored, virtual_devices

FOLDER = Path(__file__).parent / "first_version"
CONFIGS = Path(__file__).parents[2] / "configs"
MODEL, RUN, HELD = FOLDER / "model.keras", FOLDER / "run.zarr", FOLDER / "held.json"

#: Of each row; the other statistics are stored in the same way.
STATISTICS = ("count", "mean", "std", "min", "max", "l2")


def compiled(strategy):
    """A model with one Tracker that marks a place, and one that returns changes."""
    keras.utils.set_random_seed(1)
    with strategy.scope():
        stack = [keras.Input((3,)), dw.Tracker(reference="none", name="place")]
        stack += [keras.layers.Dense(4, "relu", name="hidden")]
        stack += [
            dw.Tracker(output="delta", name="change"),
            keras.layers.Dense(2, name="guess"),
        ]
        model = keras.Sequential(stack)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
    return model


def data():
    """20 rows: batches of 8, 8 and 4 on two replicas."""
    x, y = unlike_rows(20, (3,))
    return x, y % 2


def train(model, *callbacks):
    x, y = data()
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=list(callbacks))


def every_kind():
    """Signals of several tables: each statistic, reference and schedule has one."""
    x, _ = data()
    histogram = dw.histogram(accuracy=0.2, smallest=1e-3)
    return (
        dw.activations(statistics=[histogram]),
        dw.activations("hidden", reference=dw.ema(0.9), every=dw.first(4)),
        dw.gradients(),
        dw.updates("*/kernel"),
        dw.weights("*/kernel", every=2, reference="first"),
        dw.inputs(),
        dw.loss(),
        dw.probe(x[:4], every=3),
        dw.tensors("guess", every=2, reduce="mean"),
    )


def held_by_model(model):
    x, _ = data()
    return {
        "config": model.get_config(),
        "weights": [values.tolist() for values in model.get_weights()],
        "predicted": model.predict(x[:8], verbose=0).tolist(),
    }


def held_by_run(path):
    run = dw.open_run(path)
    rows, merged = run.to_xarray(), run.to_xarray(merged=True)
    return {
        "rows": {name: rows[name].values.tolist() for name in STATISTICS},
        "merged": {name: merged[name].values.tolist() for name in STATISTICS},
        "tables": tables(run),
        "iteration": rows["iteration"].values.tolist(),
        "quantile": run.quantile("activation/guess", 0.9),
        "tensor": run.tensor("tensor/guess").values.tolist(),
    }


def tables(run):
    """Signal -> reference, schedule and window of the table that it is in."""
    return {
        signal.name: [str(signal.reference), table.schedule, table.window]
        for table in run.info.tables
        for signal in table.signals
    }


def tables_of_a_run_by(config):
    """What a configuration file makes of a training."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        watch = dw.Watch.from_config(config)
        train(compiled(mirrored(2)), watch)
        return tables(dw.open_run(watch.config.store))


if __name__ == "__main__":
    virtual_devices(2)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    for path in CONFIGS.glob("*.yaml"):
        shutil.copy(path, FOLDER)
    model = compiled(mirrored(2))
    train(model, dw.Watch(RUN, signals=every_kind(), window=4))
    model.save(MODEL)
    configured = tables_of_a_run_by(FOLDER / "everything.yaml")
    held = {
        "numpy": np.__version__,
        "keras": keras.__version__,
        "model": held_by_model(model),
        "run": held_by_run(RUN),
        "configured": configured,
    }
    HELD.write_text(json.dumps(held, indent=1) + "\n")
