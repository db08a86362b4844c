"""The taps: one class per kind of selector.

A new kind is a selector in `distwatch.signals.selectors` and a class here, which also says
in which phases its signals exist.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from distwatch import signals
from distwatch.errors import UnwatchableError
from distwatch.records import NO_GRADIENT, PHASES, PREDICT, TensorLayout
from distwatch.training.strategies import facts_of, replica_id
from distwatch.training.taps import canary as _canary  # noqa: F401 - registers its tap
from distwatch.training.taps import copies as _copies  # noqa: F401 - registers its tap
from distwatch.training.taps.capturing import StepCapturer, value_of
from distwatch.training.taps.layer_paths import (
    Place,
    copied_weights,
    leaves,
    parts,
    path_of_model,
)
from distwatch.training.taps.probing import maker
from distwatch.training.taps.step_capture import LOSS, StepCapture
from distwatch.training.taps.tap import (
    TAPS,
    LayerTap,
    OptimizerTap,
    PickedSignal,
    Tap,
    Watched,
    WeightTap,
)

__all__ = ["TAPS"]

Tensor = Any


class ActivationTap(LayerTap, selector=signals.Activations):
    """What layers put out, or take in."""

    phases = PHASES
    by_rows = True

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        after = _after(self, capture)
        for place in self.chosen_layers():
            calls = self.calls(place, capture)
            layer = place.layer
            trained = bool(layer.trainable_weights) if layer.weights else None
            if self.selector.outputs:
                reference = place.inputs_reference
                values = [c.inputs if reference else c.outputs for c in calls]
                for name, leaf in leaves(place.path, values):
                    path, output = after.get(id(leaf), (None, leaf))
                    yield PickedSignal(
                        f"activation/{name}",
                        output,
                        reference=reference,
                        after=path,
                        trained=trained,
                    )
            if self.selector.inputs:
                for name, leaf in leaves(place.path, [call.inputs for call in calls]):
                    yield PickedSignal(f"activation_input/{name}", leaf)


def _after(tap: LayerTap, capture: StepCapture) -> dict[int, tuple[str, Tensor]]:
    """Tensors that an activation layer alone takes: id -> its path, and what it puts out.

    TensorFlow computes it together with the layer before, and the training keeps only what
    comes after it. Of layers that a person names, what they put out is meant.
    """
    if tap.selector.chosen is not None:
        return {}
    takers: dict[int, list[tuple[Place, Any]]] = defaultdict(list)
    for place in tap.watched.layers:
        for call in capture.calls.get(place.path, []):
            for leaf in keras.tree.flatten(call.inputs):
                takers[id(leaf)].append((place, call.outputs))
    alone = {taken: found[0] for taken, found in takers.items() if len(found) == 1}
    return {
        taken: (place.path, output)
        for taken, (place, output) in alone.items()
        if isinstance(place.layer, _ACTIVATIONS)
    }


#: Layers that compute an activation and own no weights.
_ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.ReLU,
    keras.layers.Softmax,
)


class TensorTap(LayerTap, selector=signals.Tensors):
    """Raw deltas, each in a table of its own."""

    phases = PHASES
    by_rows = True

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        reduce = self.selector.reduce
        if reduce and facts_of(tf.distribute.get_strategy()).workers > 1:
            raise UnwatchableError(
                f"tensors(reduce={reduce!r}): each worker reduces over its own replicas "
                "only; leave reduce out to keep the tensors of all of them."
            )
        after = _after(self, capture)
        for name, leaf in self.outputs(capture):
            path, output = after.get(id(leaf), (None, leaf))
            features = output.shape[1:] if isinstance(output, tf.Tensor) else None
            if features is not None and not features.is_fully_defined():
                self.skip(f"tensor/{name}", _VARIES.format(output.shape))
            elif features is not None and features.num_elements() == 0:
                self.skip(f"tensor/{name}", _EMPTY)
            else:
                yield PickedSignal(f"tensor/{name}", output, after=path)

    def table_key(self, name: str) -> Any:
        return name

    def layout(self, picked: PickedSignal) -> TensorLayout | None:
        features = tuple(int(size) for size in picked.tensor.shape[1:])
        return TensorLayout(features, self.selector.reduce, self.selector.dtype)


class StateTap(LayerTap, selector=signals.States):
    """What stateful RNN layers go on from, as the step left it."""

    phases = PHASES
    absent = "the model has no stateful RNN layer"

    def paths(self) -> list[str]:
        return [
            place.path
            for place in self.watched.layers
            if isinstance(place.layer, keras.layers.RNN) and place.layer.stateful
        ]

    def check(self) -> None:
        super().check()
        if not self.paths():
            self.hopeless = True
            self.request.give_up(self.absent)

    def chosen_layers(self) -> list[Place]:
        if self.selector.chosen is not None:
            return super().chosen_layers()
        stateful = set(self.paths())
        return [place for place in self.watched.layers if place.path in stateful]

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        for place in self.chosen_layers():
            states = keras.tree.map_structure(value_of, place.layer.states)
            for name, state in parts(place.path, states):
                # Each replica goes on from its own rows.
                yield PickedSignal(f"state/{name}", state, copied=False)


class ProbeTap(LayerTap, selector=signals.Probe):
    """Outputs on a fixed batch; what the step put out are examples of their shapes."""

    computes = True

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        for name, leaf in self.outputs(capture):
            yield PickedSignal(f"probe/{name}", leaf)

    def table_key(self, name: str) -> Any:
        return id(self.selector)

    def maker(
        self, picked: Sequence[PickedSignal], capturer: StepCapturer
    ) -> Callable[[], Sequence[Tensor]] | None:
        return maker(self.watched.model, self.selector, picked, capturer)


class ChosenWeightTap(WeightTap, selector=signals.Weights):
    """Weights as the step left them."""

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        copied = copied_weights(self.watched.model)
        for path, variable in self.chosen_weights().items():
            value = value_of(variable)
            yield PickedSignal(f"weight/{path}", value, copied=id(variable) in copied)


class UpdateTap(OptimizerTap, selector=signals.Updates):
    """What the optimizer did to a weight, with the weight before it as companion."""

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        for path, applied, i in self.applied(capture):
            before = applied.before[i]
            update = applied.after[i] - before
            yield PickedSignal(f"update/{path}", update, companion=before, copied=True)


class GradientTap(OptimizerTap, selector=signals.Gradients):
    """Gradients before and after the replicas add theirs."""

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        for path, applied, i in self.applied(capture):
            if applied.local[i] is None:
                self.absent = NO_GRADIENT
                continue
            if self.selector.local:
                local = applied.local[i]
                scaled = _scaled(capture, local)
                yield PickedSignal(f"gradient_local/{path}", local, scaled=scaled)
            if self.selector.applied:
                reduced = applied.reduced.get(id(applied.variables[i].value))
                if reduced is None:
                    self.absent = _HIDDEN.format(_name(applied.optimizer))
                    self.watched.unwatched.pass_over("gradient/*", self.absent)
                    continue
                prefix = "gradient_clipped" if _clips(applied.optimizer) else "gradient"
                yield PickedSignal(f"{prefix}/{path}", _on_first_replica(reduced))


class LearningRateTap(OptimizerTap, selector=signals.LearningRate):
    """The learning rate, as the optimizer is applied."""

    observes_rate = True

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        rates = [applied.learning_rate for applied in self.steps(capture)]
        if None in rates:
            self.absent = _OWN_RATE
        known = [rate for rate in rates if rate is not None]
        for name, rate in leaves("learning_rate", known):
            yield PickedSignal(name, rate, copied=True)


class InputTap(Tap, selector=signals.Inputs):
    """The batch."""

    phases = PHASES
    by_rows = True

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(capture.data)
        for name, leaf in parts("input", x):
            yield PickedSignal(name, leaf)


class DataTap(Tap, selector=signals.Data):
    """What the model is given, is to say, and says."""

    phases = PHASES
    by_rows = True

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        for name, values in self._values(capture).items():
            if values is not None:
                for part, leaf in parts(f"data/{name}", values):
                    yield PickedSignal(part, leaf)

    def _values(self, capture: StepCapture) -> dict[str, Any]:
        calls = capture.calls.get(path_of_model(self.watched.places), [])
        said = calls[-1].outputs if calls else None
        try:
            x, y, _ = keras.utils.unpack_x_y_sample_weight(capture.data)
        except ValueError:
            # A step of the user's own may be given anything.
            self.absent = _NO_DATA
            x = y = None
        return {"input": x, "target": y, "prediction": said}


class LossTap(Tap, selector=signals.Loss):
    """The loss of the batch."""

    phases = tuple(phase for phase in PHASES if phase != PREDICT)

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        if not capture.losses:
            self.request.give_up(self._why_none(capture))
        for name, loss in leaves("loss", capture.losses):
            scaled = _scaled(capture, loss)
            yield PickedSignal(name, _of_some_rows(loss, capture.data), scaled=scaled)

    def _why_none(self, capture: StepCapture) -> str:
        if where := capture.elsewhere.get(LOSS):
            return f"it is computed inside {where}, out of reach"
        return _NO_LOSS_LOOP if self.watched.subject.by_hand else _NO_LOSS


class LoggedTap(Tap, selector=signals.Logged):
    """What the step gives to ``watch.log``."""

    phases = PHASES
    absent = "the step does not give it to watch.log"

    def __init__(self, selector: Any, watched: Watched) -> None:
        self._names: list[str] = []
        super().__init__(selector, watched)

    def paths(self) -> list[str]:
        return self._names

    def pick(self, capture: StepCapture) -> Iterator[PickedSignal]:
        self._names = [*capture.logged, *capture.logged_elsewhere]
        # A step that gives something asks for it. Where nobody asks, nothing is missing.
        self.request.asked |= bool(self._names)
        if self.request.asked:
            yield from super().pick(capture)

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        for name, where in capture.logged_elsewhere.items():
            self.skip(f"log/{name}", f"given to watch.log inside {where}, out of reach")
        for name, numbers in self.chosen_among(capture.logged, "logged number").items():
            for path, number in leaves(name, numbers):
                yield PickedSignal(f"log/{path}", number)


_HIDDEN = (
    "under {} Keras adds up the replicas' gradients inside a condition, where they cannot be "
    "seen; the local ones, distwatch.gradients(applied=False), can, and their mean over "
    "replicas is what is applied"
)
_OWN_RATE = (
    "the optimizer has no learning rate, or gets it from a function or a schedule of your own, "
    "which is not called once more to look; the schedules of keras.optimizers.schedules can be "
    "watched"
)
_NO_DATA = "the step is not given a batch as Keras's own is: x, (x, y) or (x, y, weight)"
_NO_LOSS = (
    "the step does not call compute_loss of the model; have it call self.compute_loss(...)"
)
_NO_LOSS_LOOP = (
    "the step does not call compute_loss of the model; hand the loss over by watch.loss(...)"
)
_EMPTY = "it has no elements"
_VARIES = (
    "the size of its features varies ({}), so it has no place in one array; watch it by "
    "distwatch.activations, or give it a fixed size"
)


def _scaled(capture: StepCapture, value: Tensor) -> str | None:
    return "unknown" if id(value) in capture.unknown_scale else None


def _of_some_rows(loss: Tensor, data: Any) -> Tensor:
    """The loss of a batch; none (shape (0,)) where the replica has no rows."""
    batched = [
        leaf
        for leaf in keras.tree.flatten(data)
        if isinstance(leaf, tf.Tensor) and leaf.shape.rank
    ]
    if loss.shape.rank != 0 or not batched or batched[0].shape[0]:
        return loss
    return tf.reshape(loss, [1])[: tf.minimum(tf.shape(batched[0])[0], 1)]


def _name(optimizer: Any) -> str:
    if getattr(optimizer, "gradient_accumulation_steps", None):
        return "gradient accumulation"
    return type(optimizer).__name__


def _clips(optimizer: Any) -> bool:
    limits = ("clipnorm", "global_clipnorm", "clipvalue")
    return any(getattr(optimizer, name, None) is not None for name in limits)


def _on_first_replica(x: Tensor) -> Tensor:
    """Keep on the first replica alone what is equal on all of them."""
    flat = tf.reshape(x, [-1]) if not x.shape.rank else x
    return x if replica_id() == 0 else flat[:0]
