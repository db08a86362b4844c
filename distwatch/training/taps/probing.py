"""Running the model on a fixed batch inside the train step, without a trace in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from distwatch.errors import UnwatchableError
from distwatch.signals import Probe
from distwatch.training.taps.beside import without_a_trace
from distwatch.training.taps.capturing import StepCapturer
from distwatch.training.taps.layer_paths import leaves
from distwatch.training.taps.tap import PickedSignal

Tensor = Any


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
        with without_a_trace(model, "probe"), capturer.capturing() as capture:
            model(x, training=False)
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
