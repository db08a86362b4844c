"""Calling the model beside the training, without a trace in it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import keras

from distwatch.errors import UnwatchableError
from distwatch.training.taps.step_capture import current_graph

_CHANGES_A_VARIABLE = re.compile(r"(Assign\w*VariableOp|Resource(Apply|Scatter|Strided)\w+)")


@contextlib.contextmanager
def without_a_trace(model: keras.Model, what: str) -> Iterator[None]:
    """Call a model inside, while a graph is traced.

    Its layers have the losses afterwards that they had before, and a call that writes
    variables is refused.

    Args:
        model: the model.
        what: calls it, for the message: "probe".

    Raises:
        UnwatchableError: the model writes a variable.
    """
    before = len(_operations())
    losses = [
        (layer, layer._losses[:], set(layer._loss_ids)) for layer in model._flatten_layers()
    ]
    try:
        yield
    finally:
        for layer, kept, ids in losses:
            layer._losses[:], layer._loss_ids = kept, ids
    for operation in _operations()[before:]:
        if _CHANGES_A_VARIABLE.fullmatch(operation.type):
            raise UnwatchableError(
                f"{what}: the model changes a variable when it is called ({operation.name}), "
                f"so a {what} would change the training; leave it out, or fix the layer."
            )


def _operations() -> list[Any]:
    graph = current_graph()
    return graph.get_operations() if graph is not None else []
