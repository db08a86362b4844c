"""Running the model on a fixed batch inside the train step, without a trace in it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from distwatch.errors import UnwatchableError
from distwatch.signals import Probe
from distwatch.training.taps.capturing import StepCapturer
from distwatch.training.taps.layer_paths import leaves
from distwatch.training.taps.step_capture import current_graph
from distwatch.training.taps.tap import PickedSignal

Tensor = Any

_CHANGES_A_VARIABLE = re.compile(r"(Assign\w*VariableOp|Resource(Apply|Scatter|Strided)\w+)")


def maker(
    model: keras.Model, probe: Probe, picked: Sequence[PickedSignal], capturer: StepCapturer
) -> Callable[[], list[Tensor]]:
    """Make a function that gives the probed tensors, computed where it is called.

    Args:
        model: the model as the step left it.
        probe: with its fixed batch.
        picked: the signals, with tensors of the train step as examples.
        capturer: captures the layers' outputs.

    Raises:
        UnwatchableError: when the function is called, if a signal is put out in training
            only, or if the model changes a variable in inference.
    """
    with tf.init_scope():
        x = keras.tree.map_structure(tf.convert_to_tensor, probe.x)
    names = [each.name.removeprefix("probe/") for each in picked]

    def run() -> list[Tensor]:
        before = len(operations())
        with losses_kept(model), capturer.capturing() as capture:
            model(x, training=False)
        refuse_changes(before, "probe: the model changes a variable when it is called")
        found = {
            name: leaf
            for path, calls in capture.calls.items()
            for name, leaf in leaves(path, [call.outputs for call in calls])
        }
        if missing := [name for name in names if name not in found]:
            raise UnwatchableError(
                f"probe: {', '.join(missing)} is put out in training only, not in inference."
            )
        return [found[name] for name in names]

    return run


@contextlib.contextmanager
def losses_kept(model: keras.Model) -> Iterator[None]:
    """Call a model inside, and its layers have the losses afterwards that they had before."""
    losses = [
        (layer, layer._losses[:], set(layer._loss_ids)) for layer in model._flatten_layers()
    ]
    try:
        yield
    finally:
        for layer, kept, ids in losses:
            layer._losses[:], layer._loss_ids = kept, ids


def operations() -> list[Any]:
    """Those of the graph that is being traced."""
    graph = current_graph()
    return graph.get_operations() if graph is not None else []


def refuse_changes(before: int, what: str) -> None:
    """Refuse a model that writes variables.

    Args:
        before: how many operations the graph had before it was called.
        what: the beginning of the message.

    Raises:
        UnwatchableError: it does.
    """
    for operation in operations()[before:]:
        if _CHANGES_A_VARIABLE.fullmatch(operation.type):
            raise UnwatchableError(
                f"{what} ({operation.name}), so looking would change the training; leave it "
                "out, or fix the layer."
            )
