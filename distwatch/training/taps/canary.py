"""One small batch computed by every replica from the same numbers: a canary.

A wrong gradient is added up into the weights of all replicas alike, so equal weights do not
show it. Here each replica is given the same weights, those of the first, the same seeds and
the same batch, runs the model forward and backward as a training does, and hands over
checksums. Nothing that the model would write is written: what Keras knows of is kept apart, and
a model that writes anything else is refused.

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
from distwatch.training.strategies import StrategyFacts, copies_of, facts_of, has_copies
from distwatch.training.taps.beside import without_a_trace
from distwatch.training.taps.between_steps import BetweenStepsTap
from distwatch.training.taps.layer_paths import weight_paths
from distwatch.training.taps.step_capture import StepCapture
from distwatch.training.taps.tap import PickedSignal

Tensor = Any

OUTPUT = "canary/output"

#: Where bits cannot be compared, replicas may differ by so many times what one differs from
#: itself, since two samples of one spread are of one size, and by so many roundings.
_NOISE, _ROUNDINGS = 10.0, 8.0

#: The relative error of one rounding.
_ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}

_WORKERS = "on several workers each process would have to call the model at the same step"


class CanaryTap(BetweenStepsTap, selector=signals.Canary):
    """Checksums of what the replicas compute of one batch: outputs and gradients."""

    one_replica = "there is one replica, so there is no other to compare it with"
    not_mirrored = "under {} a batch is not computed by every replica"
    absent = "the model has no weight that is trained"

    def why_not(self, facts: StrategyFacts) -> str | None:
        return super().why_not(facts) or (_WORKERS if facts.workers > 1 else None)

    def find(self, capture: StepCapture) -> Iterator[PickedSignal]:
        if self.hopeless:
            return
        yield self.signal(OUTPUT)
        model = self.watched.model
        trained = set(map(id, model.trainable_variables))
        for path, variable in weight_paths(model).items():
            if id(variable) in trained:
                yield self.signal(f"canary/{path}", variable)

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
        weights: whose gradients are compared, in this order, after what the model puts out.
        strategy: under which it trains.
    """

    heavy = True

    def __init__(
        self, model: keras.Model, batch: Any, weights: Sequence[Any], strategy: Any
    ) -> None:
        self._model, self._strategy = model, strategy
        self._weights = list(map(id, weights))
        with tf.init_scope():
            self._batch = keras.tree.map_structure(tf.convert_to_tensor, batch)
        self._checksums = self._compiled(_checksums)
        self._summaries = self._compiled(_summaries)
        #: Whether what is computed twice should have the same bits, on whatever replica.
        self._exact = facts_of(strategy).on_cpus or is_op_determinism_enabled()
        types = {tf.as_dtype(layer.compute_dtype) for layer in model._flatten_layers()}
        self._rounding = max(_ROUNDING.get(each.name, 0.0) for each in types)

    def try_once(self) -> None:
        try:
            self._on_replicas(self._checksums, self._given())
        except UnwatchableError:
            raise
        except Exception as error:
            raise UnwatchableError(
                "canary: the model cannot be run forward and backward on the batch that was "
                f"given: {error}"
            ) from error

    def checksums(self) -> list[Any]:
        given = self._given()
        first, again = self._twice(self._checksums, given)
        unsteady = first != again
        replicas = unsteady.any(axis=1)
        if self._exact and np.count_nonzero(replicas) == 1:
            # The others get the same bits twice, so it is the device.
            return [*np.where(unsteady & (first == first[~replicas][0]), again, first)]
        if (self._exact and not unsteady.any()) or (first == first[:1]).all():
            return [*first]
        one, two = self._twice(self._summaries, given)
        odd = beyond_noise(one, two, self._rounding)
        usual = first[np.argmin(odd, axis=0), np.arange(first.shape[1])]
        return [*np.where(odd, first, usual)]

    def values(self, i: int) -> list[Floats]:
        def chosen(outputs: list[Tensor], gradients: list[Tensor]) -> Tensor:
            parts = outputs if i == 0 else [gradients[i - 1]]
            return tf.concat([tf.reshape(tf.cast(x, tf.float64), [-1]) for x in parts], axis=0)

        return self._on_replicas(self._compiled(chosen), self._given())

    def _given(self) -> list[list[Tensor]]:
        """What all replicas are given: the first one's weights, and what else it keeps."""
        model = self._model
        return [
            [_of_first_replica(variable) for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        ]

    def _twice(self, compute: Callable[..., Any], given: list[list[Tensor]]) -> list[Floats]:
        """What the replicas compute, and compute again: shape (replica, signal, ...) each."""
        return [np.stack(self._on_replicas(compute, given)) for _ in range(2)]

    def _on_replicas(self, compute: Callable[..., Any], given: list[list[Tensor]]) -> list[Any]:
        found = self._strategy.experimental_local_results(compute(*given))
        return [np.asarray(each) for each in found]

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
        variables = (*model.trainable_variables, *model.non_trainable_variables)
        given = [*zip(variables, (*trained, *others), strict=True)]
        stateless = keras.StatelessScope(state_mapping=given)
        with without_a_trace(model, "canary"), tf.GradientTape() as tape, stateless:
            tape.watch(trained)
            outputs = model(self._batch, training=True)
            numbers = [x for x in keras.tree.flatten(outputs) if x.dtype.is_floating]
            total = tf.add_n([tf.reduce_mean(tf.square(_float32(x))) for x in numbers])
        zero = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(total, trained, unconnected_gradients=zero)
        of = dict(zip(map(id, model.trainable_variables), gradients, strict=True))
        return numbers, [tf.convert_to_tensor(of[weight]) for weight in self._weights]


def _checksums(outputs: list[Tensor], gradients: list[Tensor]) -> Tensor:
    totals = [_total(x) for x in gradients]
    # Odd factors, so that outputs which change places are told.
    of_outputs = tf.add_n([(2 * k + 1) * _total(x) for k, x in enumerate(outputs)])
    return checksum_of(tf.stack([of_outputs, *totals]))


def _summaries(outputs: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """What is compared where bits are not: shape (signal, 4)."""
    parts = [_summary(x) for x in outputs]
    totals = tf.reduce_sum(tf.stack([each[:3] for each in parts]), axis=0)
    largest = tf.reduce_max(tf.stack([each[3:] for each in parts]), axis=0)
    return tf.stack([tf.concat([totals, largest], 0), *map(_summary, gradients)])


def _summary(x: Tensor) -> Tensor:
    """How many elements are not finite; of the others the sum, that of sizes, the largest."""
    finite = tf.math.is_finite(x)
    some = tf.where(finite, tf.cast(x, tf.float64), 0.0)
    size = tf.abs(some)
    missing = tf.reduce_sum(tf.cast(~finite, tf.float64))
    return tf.stack([missing, tf.reduce_sum(some), tf.reduce_sum(size), tf.reduce_max(size)])


def beyond_noise(one: Floats, two: Floats, rounding: float) -> Any:
    """Which replicas differ from most by more than noise and rounding explain.

    Args:
        one, two: summaries of two computations, of shape (replica, signal, 4).
        rounding: the relative error of one rounding.

    Returns:
        Of shape (replica, signal).
    """
    noise = np.abs(two - one).max(axis=0)
    usual = np.median(one, axis=0)
    scale = usual[..., [0, 2, 2, 3]]
    explained = _NOISE * noise + _ROUNDINGS * rounding * scale
    # That some are not finite is no matter of rounding.
    explained[..., 0] = noise[..., 0]
    return (np.abs(one - usual) > explained).any(axis=-1)


def _total(x: Tensor) -> Tensor:
    return total_of_terms(tf.reshape(x, [-1]))


def _float32(x: Tensor) -> Tensor:
    return tf.cast(x, tf.float32)


def _of_first_replica(variable: Any) -> Tensor:
    value = variable.value
    return (
        copies_of(value)[0].read_value() if has_copies(value) else tf.convert_to_tensor(value)
    )
