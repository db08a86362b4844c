"""The signals of a step, found by tracing it without running it."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from distwatch.config import WatchConfig
from distwatch.errors import ConfigError
from distwatch.training.strategies import facts_of, replica_id
from distwatch.training.taps.plan import Taps, TracedPlan
from distwatch.training.taps.steps import Steps
from distwatch.training.taps.subject import of_model


class TracedStep(NamedTuple):
    """The signals of a step, and how large they are on one replica."""

    plan: TracedPlan
    #: Elements of each signal's tensor, by its name and the number of the replica.
    elements: dict[tuple[str, int], int]
    #: Signal -> an earlier one of its table that is the same tensor.
    twins: dict[str, str]
    #: Rows of the batch.
    batch: int


def trace_step(model: keras.Model, batch: Any, config: WatchConfig) -> TracedStep:
    """Trace one training step of a model with its signals; nothing is trained.

    Args:
        model: built and compiled.
        batch: what ``train_step`` is given on one replica: x, or (x, y), ...
        config: what to watch.

    Raises:
        ConfigError: the model is not built or not compiled.
    """
    if not model.built or not model.compiled:
        raise ConfigError(
            f"model {model.name!r} is not {'compiled' if model.built else 'built'}, so what "
            "there is to watch is not known yet; do that first."
        )
    strategy = model.distribute_strategy
    data = keras.tree.map_structure(tf.convert_to_tensor, batch)
    with strategy.scope():
        # As fit does before its first step.
        model._symbolic_build(data_batch=data)
    plans: list[TracedPlan] = []
    elements: dict[tuple[str, int], int] = {}
    twins: dict[str, str] = {}

    # Nothing is recorded, only the plan is kept.
    taps = Taps(of_model(model), config, facts_of(strategy))
    steps = Steps(taps, plans.append, _raise)

    train_step = model.train_step
    if model.run_eagerly:
        # It may decide by the values of tensors, which can be traced once it is rewritten.
        train_step = partial(tf.autograph.to_graph(type(model).train_step), model)

    def step(data: Any) -> None:
        with steps.capturing(data) as capture:
            train_step(data)
        given = steps.choose(capture) or []
        for feed, (tensors, _) in zip(plans[0].feeds, given, strict=True):
            first: dict[int, str] = {}
            for name, position in zip(feed.table.names, feed.tensor_index, strict=True):
                elements[name, replica_id()] = _size(tensors[position])
                if first.setdefault(position, name) != name:
                    twins[name] = first[position]

    try:
        # Keras keeps AutoGraph out of its steps, too.
        traced = tf.function(lambda data: strategy.run(step, args=(data,)), autograph=False)
        traced.get_concrete_function(data)
    finally:
        steps.forget_graphs()
    rows = keras.tree.flatten(data)[0].shape[0]
    return TracedStep(plans[0], elements, twins, int(rows))


def _size(tensor: Any) -> int:
    sizes = tensor.shape.as_list()
    return int(np.prod([1 if size is None else size for size in sizes]))


def _raise(error: Exception) -> None:
    raise error
