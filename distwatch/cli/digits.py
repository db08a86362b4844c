"""The demo: a small CNN on real digits under MirroredStrategy, watched.

Importing this loads no TensorFlow; `run_demo` does, once it knows that it can work.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distwatch.errors import SetupError, training_imports

if TYPE_CHECKING:
    from distwatch.analysis import Run

#: Rows a replica and batch: the first batch has to divide evenly over the replicas.
ROWS_PER_REPLICA = 32


def run_demo(store: Path, *, replicas: int, epochs: int, overwrite: bool) -> Run:
    """Train, then print what changed and where the run lies.

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
    # Before TensorFlow is loaded, or its start-up notes hide the progress bar.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _train(store, replicas, epochs, overwrite)

    from distwatch.analysis import open_run

    run = open_run(store)
    console = Console()
    console.print(change_table(run))
    console.print(_what_next(store), highlight=False, soft_wrap=True)
    return run


@dataclass(frozen=True)
class Change:
    """How one signal changed on one replica over a whole run.

    ``l2`` is the mean over steps of the step's Euclidean norm. ``spread`` is the same
    on all replicas: how far apart their mean changes of one step lie, also as the
    mean over steps (over a whole run, changes from batch to batch cancel out).
    """

    signal: str
    replica: int
    mean_change: float
    max_change: float
    l2: float
    zero_share: float
    spread: float


def changes(run: Run) -> list[Change]:
    """Read the changes of a run, signal by signal, replica by replica."""
    from distwatch.records import readable

    (table,) = run.digest().tables.values()
    total: dict[str, Any] = readable(table.totals)
    finite = total["count"] - total["nans"] - total["infs"]
    mean = total["l1"] / np.where(finite > 0, finite, np.nan)
    largest = np.maximum(np.abs(total["min"]), np.abs(total["max"]))
    zeros = total["zeros"] / np.where(total["count"] > 0, total["count"], np.nan)
    l2 = run.to_xarray()["l2"].mean("step").to_numpy()
    spread = run.to_xarray(merged=True)["spread"].mean("step").to_numpy()
    return [
        Change(
            signal=signal,
            replica=replica,
            mean_change=float(mean[j, i]),
            max_change=float(largest[j, i]),
            l2=float(l2[j, i]),
            zero_share=float(zeros[j, i]),
            spread=float(spread[i]),
        )
        for i, signal in enumerate(run.signals)
        for j, replica in enumerate(run.replicas)
    ]


def change_table(run: Run) -> Table:
    """Put the changes of a run in a table; a signal's name and spread stand once."""
    table = Table(
        title=f"What changed from batch to batch, over {len(run)} steps",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("signal", overflow="fold")
    headings = ("replica", "mean\n|change|", "max\n|change|", "L2", "zeros", "spread")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for change in changes(run):
        starts = change.replica == run.replicas[0]
        table.add_row(
            escape(change.signal) if starts else "",
            str(change.replica),
            f"{change.mean_change:.4g}",
            f"{change.max_change:.4g}",
            f"{change.l2:.4g}",
            f"{change.zero_share:.1%}",
            f"{change.spread:.2g}" if starts else "",
        )
    return table


def _train(store: Path, replicas: int, epochs: int, overwrite: bool) -> None:
    with training_imports("the demo"):
        import keras

        from distwatch.training.strategies import mirrored
        from distwatch.training.watch import Watch

    strategy = mirrored(replicas)
    watch = Watch(store, overwrite=overwrite)
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = _small_cnn()
    images, digits = _digits()
    rows = ROWS_PER_REPLICA * replicas
    # So that the last batch has a row for every replica: TensorFlow's convolutions need one.
    kept = len(images) // replicas * replicas
    model.fit(images[:kept], digits[:kept], batch_size=rows, epochs=epochs, callbacks=[watch])


def _digits() -> tuple[Any, Any]:
    """1,797 handwritten digits of 8 x 8 pixels, with values from 0 to 1."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    return (images / 16).astype("float32").reshape(-1, 8, 8, 1), digits


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
        "Each batch is measured against the one before, on its own replica. L2 is that of\n"
        "a step, spread how far apart the replicas' mean changes lie; both as step means.\n\n"
        f"The run lies in [bold]{path}[/bold]. Next:\n"
        f"  distwatch report {path}\n"
        f"  distwatch info {path}\n"
        f'  python -c "import distwatch as dw; print(dw.open_run({escape(repr(str(store)))})'
        '.to_xarray())"'
    )
