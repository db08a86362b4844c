"""The demo: a small CNN on real digits under MirroredStrategy, watched.

Importing this loads no TensorFlow; `run_demo` does, once nothing else is missing.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from distwatch.cli.following import Follower, Wanted, display
from distwatch.errors import SetupError, training_imports

#: Rows a replica and batch: the first batch has to divide evenly over the replicas.
ROWS_PER_REPLICA = 32


def run_demo(store: Path, *, replicas: int, epochs: int, overwrite: bool) -> None:
    """Train, then show what changed and where the run is.

    Args:
        store: where the run is written.
        replicas: how many virtual CPU replicas train together.
        epochs: how many passes over the digits.
        overwrite: delete a run that is at ``store``.

    Raises:
        SetupError: scikit-learn, whose digits these are, or TensorFlow is not installed.
        StoreError: the store cannot be written, or something is there.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise SetupError(
            "the demo trains on scikit-learn's digits, and scikit-learn is not "
            "installed: pip install 'distwatch[demo]'."
        )
    # Before TensorFlow is loaded, or its start-up messages hide the progress bar.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _train(store, replicas, epochs, overwrite)

    display([Follower(str(store), Wanted()).look()], str(store), once=True)
    Console().print(_what_next(store), highlight=False, soft_wrap=True)


def _train(store: Path, replicas: int, epochs: int, overwrite: bool) -> None:
    with training_imports("the demo"):
        import keras

        from distwatch.training.strategies import mirrored
        from distwatch.training.watch import Watch

    from sklearn.datasets import load_digits

    strategy = mirrored(replicas)
    watch = Watch(store, overwrite=overwrite)
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = _small_cnn()
    # 1,797 digits of 8 x 8 pixels, with values from 0 to 16.
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    rows = ROWS_PER_REPLICA * replicas
    # So that the last batch has a row for every replica: TensorFlow's convolutions need one.
    kept = len(images) // replicas * replicas
    model.fit(images[:kept], digits[:kept], batch_size=rows, epochs=epochs, callbacks=[watch])


def _small_cnn() -> Any:
    from keras import Input, Sequential, layers

    model = Sequential(
        [
            Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="strokes"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="shapes"),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _what_next(store: Path) -> str:
    path = escape(str(store))
    return (
        "\nEach batch is measured against the one before it, on the same replica. l2 is the\n"
        "Euclidean norm of a step's change over all replicas, spread how far apart the\n"
        "replicas' mean changes lie, replica the one that is furthest from the others.\n\n"
        f"The run is in [bold]{path}[/bold]. Next:\n"
        f"  distwatch check {path}\n"
        f"  distwatch report {path}\n"
        f"  distwatch info {path}\n"
        f'  python -c "import distwatch as dw; print(dw.open_run({escape(repr(str(store)))})'
        '.to_xarray())"'
    )
