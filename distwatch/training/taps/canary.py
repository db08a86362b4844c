"""One small batch computed by every replica from the same numbers: a canary.

A wrong gradient is added up into the weights of all replicas alike, so equal weights do not
show it. Here each replica is given the same weights, those of the first, the same seeds and
the same batch, runs the model forward and backward as a training does, and hands over
checksums. Nothing that the model would write is written, since Keras calls it without state.

As the checksums of copies, this happens between two steps; the training's own graph has no
operation of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

from distwatch import signals
from distwatch.errors import UnwatchableError
from distwatch.records import Floats
from distwatch.statistics import checksum_of
from distwatch.training.device.copies import Compared, total_of_terms
from distwatch.training.strategies import copies_of, facts_of, has_copies
from distwatch.training.taps.layer_paths import weight_paths
from distwatch.training.taps.probing import losses_kept
from distwatch.training.taps.step_capture import StepCapture
from distwatch.training.taps.tap import PickedSignal, Tap

Tensor = Any

OUTPUT = "canary/output"

#: Two computations of one replica that differ at all may differ by this factor more from those
#: of another replica. Of two samples of one spread the largest deviations over many elements
#: are about equal, so a factor of ten is not reached by chance.
_NOISE = 10.0

_ONE_REPLICA = "there is one replica, so there is no other to compare it with"
_NOT_MIRRORED = "under {} a batch is not computed by every replica"
_WORKERS = "on several workers each process would have to call the model at the same step"


class CanaryTap(Tap, selector=signals.Canary):
    """Checksums of what the replicas compute of one batch: outputs and gradients."""

    of_copies = True
    computes = True
    absent = "the model has no weight that is trained"

    def check(self) -> None:
        facts = self.watched.facts
        why = None
        if not facts.has_copies:
            one = facts.total_replicas == 1
            why = _ONE_REPLICA if one else _NOT_MIRRORED.format(facts.kind)
        elif facts.workers > 1:
            why = _WORKERS
        if why is not None:
            self.hopeless = True
            self.request.give_up(why)

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        if self.hopeless:
            return
        with tf.init_scope():
            nothing = tf.constant(0.0)
        yield PickedSignal(OUTPUT, nothing, copied=True)
        for path, variable in weight_paths(self.watched.model).items():
            if variable.trainable:
                yield PickedSignal(f"canary/{path}", nothing, copied=True, variable=variable)

    def table_key(self, name: str) -> Any:
        return id(self.selector)

    def compared(self, picked: Sequence[PickedSignal]) -> Compared:
        weights = [each.variable for each in picked if each.variable is not None]
        strategy = tf.distribute.get_strategy()
        return Canary(self.watched.model, self.selector.batch, weights, strategy)


class Canary(Compared):
    """What every replica computes from the same batch, weights and seeds.

    Args:
        model: of which nothing is changed.
        batch: what it takes.
        weights: whose gradients are compared, after what the model puts out.
        strategy: under which it trains.
    """

    def __init__(
        self, model: keras.Model, batch: Any, weights: Sequence[Any], strategy: Any
    ) -> None:
        self._model, self._strategy = model, strategy
        self._weights = {id(weight) for weight in weights}
        with tf.init_scope():
            self._batch = keras.tree.map_structure(tf.convert_to_tensor, batch)
        self._checksums = self._compiled(_checksums)
        self._numbers = self._compiled(_numbers)
        #: Whether what is computed twice should have the same bits.
        self._exact = facts_of(strategy).on_cpus or is_op_determinism_enabled()

    def try_once(self) -> None:
        try:
            self._on_replicas(self._checksums)
        except Exception as error:
            raise UnwatchableError(
                "canary: the model cannot be run forward and backward on the batch that was "
                f"given: {error}"
            ) from error

    def checksums(self) -> list[Any]:
        first, again = (np.stack(self._on_replicas(self._checksums)) for _ in range(2))
        unsteady = first != again
        replicas = unsteady.any(axis=1)
        if self._exact and np.count_nonzero(replicas) == 1:
            # The others get the same bits twice, so it is the device.
            return [*np.where(unsteady & (first == first[~replicas][0]), again, first)]
        if unsteady.any():
            one, two = self._on_replicas(self._numbers), self._on_replicas(self._numbers)
            for i in map(int, np.flatnonzero(unsteady.any(axis=0))):
                odd = _beyond_noise([each[i] for each in one], [each[i] for each in two])
                first[~odd, i] = first[np.argmin(odd), i]
        return [*first]

    def values(self, i: int) -> list[Floats]:
        return [each[i] for each in self._on_replicas(self._numbers)]

    def _on_replicas(self, compute: Callable[..., Any]) -> list[Any]:
        model = self._model
        given = [
            [_of_first_replica(variable) for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        ]
        found = self._strategy.experimental_local_results(compute(*given))
        return [keras.tree.map_structure(np.asarray, each) for each in found]

    def _compiled(self, of: Callable[[list[Tensor], list[Tensor]], Any]) -> Callable[..., Any]:
        """Compile what every replica computes of outputs and gradients."""

        def on_replica(trained: list[Tensor], others: list[Tensor]) -> Any:
            return of(*self._forward_and_backward(trained, others))

        return tf.function(  # type: ignore[no-any-return]
            lambda *given: self._strategy.run(on_replica, args=given), autograph=False
        )

    def _forward_and_backward(
        self, trained: list[Tensor], others: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs, and the gradients of their mean square."""
        model = self._model
        with losses_kept(model), tf.GradientTape() as tape:
            tape.watch(trained)
            outputs, _ = model.stateless_call(trained, others, self._batch, training=True)
            numbers = [x for x in keras.tree.flatten(outputs) if x.dtype.is_floating]
            total = tf.add_n([tf.reduce_mean(tf.square(_float32(x))) for x in numbers])
        zero = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(total, trained, unconnected_gradients=zero)
        chosen = [
            tf.convert_to_tensor(gradient)
            for gradient, variable in zip(gradients, model.trainable_variables, strict=True)
            if id(variable) in self._weights
        ]
        return numbers, chosen


def _checksums(outputs: list[Tensor], gradients: list[Tensor]) -> Tensor:
    totals = [_total(x) for x in gradients]
    # Odd factors, so that outputs which change places are told.
    of_outputs = tf.add_n([(2 * k + 1) * _total(x) for k, x in enumerate(outputs)])
    return checksum_of(tf.stack([of_outputs, *totals]))


def _numbers(outputs: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    flat = [tf.reshape(tf.cast(x, tf.float64), [-1]) for x in (*outputs, *gradients)]
    return [tf.concat(flat[: len(outputs)], axis=0), *flat[len(outputs) :]]


def _beyond_noise(one: Sequence[Floats], two: Sequence[Floats]) -> Any:
    """Which replicas differ from most by more than one differs from itself."""
    noise = max(_largest(a - b) for a, b in zip(one, two, strict=True))
    usual = np.median(np.stack(one), axis=0)
    return np.array([_largest(each - usual) > _NOISE * noise for each in one])


def _total(x: Tensor) -> Tensor:
    return total_of_terms(tf.reshape(x, [-1]))


def _float32(x: Tensor) -> Tensor:
    return tf.cast(x, tf.float32)


def _largest(x: Floats) -> float:
    return float(np.max(np.abs(x), initial=0.0))


def _of_first_replica(variable: Any) -> Tensor:
    value = variable.value
    return (
        copies_of(value)[0].read_value() if has_copies(value) else tf.convert_to_tensor(value)
    )
