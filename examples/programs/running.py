"""What the programs here have in common: a strategy over replicas, and a command line."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

import distwatch as dw
from distwatch.testing import mirrored, virtual_devices


def fresh_strategy(replicas: int, seed: int) -> tf.distribute.Strategy:
    """Forget earlier models, so that names and random numbers are those of a new process."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    return mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()


def run(
    description: str,
    train: Callable[..., object],
    show: Callable[[dw.Run], None],
    arguments: list[str] | None = None,
) -> None:
    """Train as the command line says, then show what was watched."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--replicas", type=int, default=1, help="virtual CPUs to train on")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--store", type=Path, help="keep the run here")
    chosen = parser.parse_args(arguments)
    virtual_devices(chosen.replicas)
    with tempfile.TemporaryDirectory() as temporary:
        store = chosen.store or Path(temporary, "run.zarr")
        train(store, replicas=chosen.replicas, epochs=chosen.epochs)
        show(dw.open_run(store))
