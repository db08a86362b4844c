"""Three common ways to see how tensors change from batch to batch, with distwatch.

    python examples/three_textbook_ways.py [--replicas 1 2] [--folder RUNS]

1. a layer with a memory, which returns the change between batches;
2. a callback that compares the model's outputs after each batch. Outputs on the batches
   themselves differ because the batches do; on one fixed batch, a probe, a change can only
   come from the weights;
3. histograms of activations, as quantiles of each batch.

Each runs on one device and on two replicas, where a replica is compared with itself.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import xarray as xr

import distwatch as dw
from distwatch.testing import mirrored, virtual_devices

layers = keras.layers

QUANTILES = {"smallest": 0.0, "median": 0.5, "90%": 0.9, "99%": 0.99, "largest": 1.0}


def a_layer_that_returns_the_change(store: Path, strategy) -> dw.Run:
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((10,)),
                layers.Dense(64, activation="relu"),
                dw.Tracker(output="delta", name="change"),
                layers.Dense(3, activation="softmax"),
            ]
        )
    # A Watch records what the Tracker saw change, which is what it returned.
    return fit(model, dw.Watch(store, signals=["change"]))


def change_of_the_output(store: Path, strategy) -> dw.Run:
    with strategy.scope():
        model = keras.Sequential([keras.Input((10,)), layers.Dense(3, activation="softmax")])
    # Eight rows that are never trained on; in inference mode.
    fixed = np.linspace(-1.0, 3.0, 80, dtype="float32").reshape(8, 10)
    probe = dw.probe(fixed, every=1, reference="previous")
    return fit(model, dw.Watch(store, signals=[probe]))


def mean_and_maximum(run: dw.Run) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean and maximum absolute change by each batch's training, over all replicas."""
    output = run["probe/output"]
    mean = output.merged("l1") / output.merged("count")
    return mean, np.maximum(abs(output.merged("min")), abs(output.merged("max")))


def distribution_of_activations(store: Path, strategy) -> dw.Run:
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((10,)),
                layers.Dense(10, activation="relu", name="hidden"),
                layers.Dense(3, activation="softmax"),
            ]
        )
    hidden = dw.activations("hidden", reference="none", statistics=[dw.histogram()])
    return fit(model, dw.Watch(store, signals=[hidden]))


def quantiles(run: dw.Run) -> dict[str, xr.DataArray]:
    """Quantiles of each batch's activations, over all replicas; the extremes are exact."""
    found = run.quantile("activation/hidden", list(QUANTILES.values()), per_step=True)
    return {name: found.sel(quantile=q) for name, q in QUANTILES.items()}


def fit(model: keras.Model, watch: dw.Watch) -> dw.Run:
    """Train for five batches, no two of them alike, the last one short."""
    rng = np.random.default_rng(4)
    x = (rng.normal(2.0, 1.0, (72, 10)) + np.linspace(0, 3, 72)[:, None]).astype("float32")
    y = rng.integers(0, 3, 72)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=[watch])
    return dw.open_run(watch.config.store)


def show(way: int, title: str, statistics: dict[str, xr.DataArray]) -> None:
    print(f"  {way}. {title}")
    for name, values in statistics.items():
        print(f"     {name:20}", *(f"{value:9.4f}" for value in values.to_numpy()))


def show_all(replicas: int, folder: Path) -> None:
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    print(f"On {replicas} replica{'s' * (replicas != 1)}, batch by batch:")
    keras.utils.set_random_seed(3)

    run = a_layer_that_returns_the_change(folder / f"layer-{replicas}.zarr", strategy)
    norms = run["activation/change"].per_replica("l2")
    by_replica = {f"L2 on replica {r}": norms.sel(replica=r) for r in run.replicas}
    show(1, "what the layer returned", by_replica)

    mean, largest = mean_and_maximum(
        change_of_the_output(folder / f"output-{replicas}.zarr", strategy)
    )
    show(2, "change of the output", {"mean change": mean, "maximum change": largest})

    run = distribution_of_activations(folder / f"hidden-{replicas}.zarr", strategy)
    show(3, "the hidden activations", quantiles(run))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    chosen = parser.parse_args(arguments)
    virtual_devices(max(chosen.replicas))
    with tempfile.TemporaryDirectory() as temporary:
        for replicas in chosen.replicas:
            show_all(replicas, chosen.folder or Path(temporary))


if __name__ == "__main__":
    main()
