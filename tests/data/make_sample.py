"""Make the sample store of format 1, and what it holds as plain numbers.

    python tests/data/make_sample.py

It is committed and never made again under this format: ``tests/store/test_old_stores.py`` reads
it back for ever.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
from trainings import unlike_rows

import distwatch as dw
from distwatch.testing import mirrored, virtual_devices

HERE = Path(__file__).parent
SAMPLE = HERE / "format-1.zarr"

SIGNALS = (
    dw.activations(reference="none", statistics=[dw.histogram(accuracy=0.2, smallest=1e-3)]),
    dw.updates("*/kernel"),
    dw.tensors("guess", every=2, reduce="mean"),
    dw.inputs(),
)


def train(epochs):
    keras.utils.set_random_seed(1)
    strategy = mirrored(2)
    with strategy.scope():
        stack = [keras.Input((3,)), keras.layers.Dense(4, "relu", name="hidden")]
        model = keras.Sequential([*stack, keras.layers.Dense(2, name="guess")])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = unlike_rows(20, (3,))
    saving = keras.callbacks.BackupAndRestore(HERE / "backup", delete_checkpoint=epochs > 2)
    watch = dw.Watch(SAMPLE, signals=SIGNALS, window=4, resume=True, phases=["train", "test"])
    model.fit(
        x,
        y % 2,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[saving, watch],
        validation_data=(x[:8], y[:8] % 2),
    )


def what_it_holds(path):
    """All that a reader says of a run, as JSON has it."""
    held = {}
    for phase in dw.open_run(path).phases:
        run = dw.open_run(path, phase=phase)
        held[phase] = {
            "rows": _plain(run.to_xarray()),
            "merged": _plain(run.to_xarray(merged=True)),
            "segments": [list(segment) for segment in run.segments],
            "lost": run.lost,
            "ended": run.ended,
            "strategy": run.info.strategy,
            "quantile": run.quantile("activation/hidden", 0.9),
        }
    held["train"]["tensor"] = dw.open_run(path).tensor("tensor/guess").values.tolist()
    return held


def _plain(dataset):
    return {str(name): values.values.tolist() for name, values in dataset.variables.items()}


if __name__ == "__main__":
    virtual_devices(2)
    train(epochs=2)
    train(epochs=3)
    held = json.dumps(what_it_holds(SAMPLE), indent=1)
    (HERE / "format-1.json").write_text(held + "\n")
