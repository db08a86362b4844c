"""How much a perturbation of the inputs by rounding grows in a training, by signal.

A few steps are trained twice on one batch, the second time with inputs that are moved by one
rounding each. How far apart the signals of the two are is compared as `distwatch.diff` compares
runs. Afterwards the model is as it was.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distwatch.errors import ConfigError
from distwatch.findings.distances import FORMATS, Distance, eps_of
from distwatch.records import Amplification
from distwatch.signals.schedules import is_whole
from distwatch.store import StoredRun, delete_run
from distwatch.training.strategies import copies_of, has_copies
from distwatch.training.taps import of_model
from distwatch.training.watch import Watch


def amplification(
    model: keras.Model, batch: Any, *, steps: int = 8, signals: Any = None
) -> Amplification:
    """Measure how much a perturbation of the inputs by rounding grows, by signal.

    The model is trained for some steps on the rows of one batch, twice from the same state:
    once as it is, and once with each input moved up or down by one rounding of the coarsest
    number format in which its layers compute. Afterwards its weights, optimizer and seeds are
    as they were, and its metrics are reset.

    >>> grows = dw.amplification(model, (x[:32], y[:32]))     # doctest: +SKIP
    >>> dw.diff("a.zarr", "b.zarr", tolerance=grows)          # doctest: +SKIP

    Args:
        model: built and compiled; its variables are changed while this runs.
        batch: what ``fit`` is given, of all replicas: (x, y) or (x, y, sample_weight).
        steps: how many; over more of them it grows further.
        signals: as in `Watch`: give those of the runs that are to be compared.

    Raises:
        ConfigError: the model, or an optimizer of its own, is not built, it is not compiled,
            its inputs are whole numbers, which have no rounding, or the training is not finite.
        SetupError: it cannot be trained, or what was chosen cannot be watched.
    """
    if not model.built or not model.compiled:
        raise ConfigError(
            f"model {model.name!r} is not {'compiled' if model.built else 'built'}, so it "
            "cannot be trained; do that first."
        )
    if not is_whole(steps) or steps < 1:
        raise ConfigError(f"amplification(steps={steps!r}): give a whole number from 1 on.")
    x, *rest = keras.utils.unpack_x_y_sample_weight(batch)
    eps = max(eps_of(_format_of(layer)) for layer in model._flatten_layers())
    moved = _moved(x, eps)
    with _as_it_was(model):
        plain = _trained(model, (x, *rest), steps, signals)
    with _as_it_was(model):
        other = _trained(model, (moved, *rest), steps, signals)
    return Amplification(_growth(plain, other, eps), eps, int(steps))


def _format_of(layer: keras.layers.Layer) -> str:
    return layer.compute_dtype if layer.compute_dtype in FORMATS else "float64"


def _moved(x: Any, eps: float) -> Any:
    """Inputs that are moved by one rounding each, up or down."""
    random = np.random.default_rng(0)
    leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(x)]
    if not any(leaf.dtype.kind == "f" for leaf in leaves):
        raise ConfigError(
            "amplification: the inputs are whole numbers, which have no rounding that could "
            "grow; compare the runs with a plain tolerance."
        )
    # The largest number may become infinite, which is told as such.
    with np.errstate(over="ignore"):
        each = [_rounded(leaf, eps, random) for leaf in leaves]
    return keras.tree.pack_sequence_as(x, each)


def _rounded(leaf: Any, eps: float, random: np.random.Generator) -> Any:
    if leaf.dtype.kind != "f":
        return leaf
    return (leaf * (1.0 + eps * random.choice([-1.0, 1.0], leaf.shape))).astype(leaf.dtype)


def _trained(model: keras.Model, batch: Any, steps: int, signals: Any) -> StoredRun:
    """A run in memory of some steps on one batch.

    Its rows move on by one from step to step: of equal batches, nothing but the updates would
    be left of the changes from one to the next.
    """
    address = f"memory://distwatch-amplification-{uuid.uuid4().hex}.zarr"
    watch = Watch(address, signals=signals, strict=True)
    given = tuple(part for part in batch if part is not None)
    rolled = keras.tree.map_structure(
        lambda leaf: np.stack([np.roll(leaf, step, axis=0) for step in range(steps)]), given
    )
    data = tf.data.Dataset.from_tensor_slices(rolled)
    model.fit(data, callbacks=[watch], shuffle=False, verbose=0)
    return StoredRun(address)


def _growth(plain: StoredRun, other: StoredRun, eps: float) -> dict[str, float]:
    """By how many times the rounding each signal differs at most, at any step and replica."""
    found: dict[str, float] = {}
    for name, table in plain.tables.items():
        signals = table.table.signals
        rows = [each.tables[name].read("rows") for each in (plain, other)]
        most = Distance(signals, eps).of(*rows).max(axis=(0, 1), initial=0.0)
        found |= {s.name: float(d) / eps for s, d in zip(signals, most, strict=True)}
    for each in (plain, other):
        delete_run(each.path)
    if infinite := [name for name, factor in found.items() if not np.isfinite(factor)]:
        raise ConfigError(
            f"amplification: {infinite[0]} has NaN or Inf within these steps, in one of two "
            "trainings that differ by a rounding; measure on another batch, or fewer steps."
        )
    return found


@contextlib.contextmanager
def _as_it_was(model: keras.Model) -> Iterator[None]:
    """Train a model inside; afterwards all that it knows is what it was before."""
    optimizers = of_model(model).optimizers
    if not model.optimizer.built:
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
    if unbuilt := [each.name for each in optimizers if not each.built]:
        raise ConfigError(
            f"amplification: the optimizer {unbuilt[0]} has no variables yet, which could be "
            "put back afterwards; call its build with the variables that it trains."
        )
    variables = {
        id(v): v
        for v in (*model.variables, *(v for each in optimizers for v in each.variables))
    }
    kept = [(part, part.numpy()) for v in variables.values() for part in _parts_of(v.value)]
    names = ("history", "stop_training", "train_function")
    attributes = {name: vars(model)[name] for name in names if name in vars(model)}
    try:
        yield
    finally:
        for part, value in kept:
            part.assign(value)
        model.reset_metrics()
        for name in names:
            if name in attributes:
                setattr(model, name, attributes[name])
            elif name in vars(model):
                delattr(model, name)


def _parts_of(variable: Any) -> tuple[Any, ...]:
    """The variable itself, or its copy on each replica."""
    return copies_of(variable) if has_copies(variable) else (variable,)
