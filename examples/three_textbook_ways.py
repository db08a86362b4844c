"""Three textbook ways to see how tensors change from batch to batch, made to work.

    python examples/three_textbook_ways.py [--replicas 1 2] [--folder RUNS]

1. a layer with a memory, which returns the change between batches;
2. a callback that gives mean and maximum change of the model's output per batch;
3. the distribution of activations.

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
        model = keras.Sequential([keras.Input((10,)), layers.Dense(3, activation="relu")])
    return fit(model, dw.Watch(store, signals=["output"]))


def mean_and_maximum(run: dw.Run) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean and maximum absolute change of each batch, over all replicas."""
    output = run["activation/output"]
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
    return fit(model, dw.Watch(store, signals=["hidden"], reference="none"))


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
    hidden = run["activation/hidden"]
    of_interest = ("min", "mean", "max", "std")
    show(3, "the hidden activations", {name: hidden.merged(name) for name in of_interest})


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
