"""The demo: a small CNN on real digits under MirroredStrategy, one replica of which is odd.

Importing this loads no TensorFlow; `run_demo` does, once nothing else is missing.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape

from distwatch.errors import RunExistsError, SetupError, training_imports

#: Rows of a batch on each replica.
ROWS_PER_REPLICA = 16

#: The replica whose data is scaled otherwise.
ODD = 2

#: What the demo needs beyond TensorFlow: what is imported, and what it is called.
_NEEDED = {"sklearn": "scikit-learn", "plotly": "plotly", "jinja2": "jinja2"}

_FAULT = (
    "That is on purpose: each replica's digits were divided by the largest pixel among them, "
    f"and among those of replica {ODD} one faulty pixel is 255, where ink ends at 16. Averaged "
    "over all replicas the loss falls all the same. With --healthy all are divided by 16."
)


def run_demo(
    store: Path, *, replicas: int, epochs: int, overwrite: bool, healthy: bool
) -> None:
    """Train, say what is wrong, and write the report.

    Args:
        store: where the run is written; the report is beside it.
        replicas: how many virtual CPU replicas train together, at least 3.
        epochs: how many passes over the digits.
        overwrite: delete a run that is at ``store``.
        healthy: give all replicas data of the same scale.

    Raises:
        SetupError: scikit-learn, whose digits these are, TensorFlow, or what a report needs is
            not installed.
        StoreError: the store or the report cannot be written, or something is there.
    """
    for module, name in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise SetupError(
                "the demo trains on scikit-learn's digits and writes a report, and "
                f"{name} is not installed: pip install 'distwatch[demo]'."
            )
    page = _page_beside(store)
    # Before TensorFlow is loaded, or its start-up messages hide the progress bar.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _train(store, replicas, epochs, overwrite, by_sixteen if healthy else by_own_maximum)
    _write_report(store, page)
    Console().print(_what_is_wrong(store, healthy), highlight=False)
    Console().print(_what_next(store, page), highlight=False, soft_wrap=True)


def by_own_maximum(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The fault: one hot pixel makes all others dark."""
    return np.asarray(images / images.max())


def by_sixteen(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The correction: by the range that is known."""
    return np.asarray(np.clip(images, 0, 16) / 16)


def _page_beside(store: Path) -> Path:
    """Where the report goes, unless something else is there."""
    from distwatch.report import check_page, page_beside, replaced_by

    page = page_beside([store])
    check_page(page)
    what, is_ours = replaced_by(page, ())
    if not is_ours:
        raise RunExistsError(
            f"{page}, where the report goes, is {what}, so it is left alone; choose another "
            "path with --store."
        )
    return page


def _write_report(store: Path, page: Path) -> None:
    from distwatch.report import read_runs, write_page

    write_page(read_runs([store]), page)


def _train(
    store: Path,
    replicas: int,
    epochs: int,
    overwrite: bool,
    scale: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
) -> None:
    with training_imports("the demo"):
        import keras

        from distwatch.training.strategies import mirrored
        from distwatch.training.watch import Watch

    strategy = mirrored(replicas)
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = _small_cnn()
    shards = [(scale(images), digits) for images, digits in _shards(replicas)]
    steps = len(shards[0][0]) // ROWS_PER_REPLICA
    model.fit(
        strategy.distribute_datasets_from_function(lambda context: _in_turn(shards)),
        epochs=epochs,
        steps_per_epoch=steps,
        # The data is shuffled; Keras warns that it does not do so itself.
        shuffle=False,
        callbacks=[Watch(store, overwrite=overwrite)],
    )


def _shards(replicas: int) -> list[tuple[Any, Any]]:
    """The digits of each replica: images of 8 x 8 pixels from 0 to 16, but for one pixel."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    images = images.astype("float32").reshape(-1, 8, 8, 1)
    rows = len(images) // replicas
    found = [(images[r::replicas][:rows], digits[r::replicas][:rows]) for r in range(replicas)]
    found[ODD][0][rows // 4, 3, 3] = 255
    return found


def _in_turn(shards: list[tuple[Any, Any]]) -> Any:
    """Batches of one replica's rows, of each shard in turn: the next replica takes the next."""
    import tensorflow as tf

    batches = [
        tf.data.Dataset.from_tensor_slices(shard)
        .shuffle(len(shard[0]), seed=place)
        .batch(ROWS_PER_REPLICA, drop_remainder=True)
        .repeat()
        for place, shard in enumerate(shards)
    ]
    return tf.data.Dataset.choose_from_datasets(
        batches, tf.data.Dataset.range(len(shards)).repeat()
    )


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


def _what_is_wrong(store: Path, healthy: bool) -> str:
    """The first warning, as everybody reads it."""
    from distwatch.analysis import open_run
    from distwatch.findings import WARNING

    warnings = [each for each in open_run(store).findings() if each.severity == WARNING]
    found = warnings[0].text if warnings else "nothing unusual."
    return f"\n[bold]What is wrong:[/bold] {escape(found)}" + ("" if healthy else f"\n{_FAULT}")


def _what_next(store: Path, page: Path) -> str:
    path = escape(str(store))
    return (
        f"\nThe report is [bold]{escape(str(page))}[/bold]; it needs no network. Open it:\n"
        f"  {escape(page.resolve().as_uri())}\n\n"
        f"The run is in [bold]{path}[/bold]. Next:\n"
        f"  distwatch check {path}\n"
        f"  distwatch tail {path} --once\n"
        f"  distwatch info {path}\n"
        f'  python -c "import distwatch as dw; print(dw.open_run({escape(repr(str(store)))})'
        '.to_xarray())"'
    )
