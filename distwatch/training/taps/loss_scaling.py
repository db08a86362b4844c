"""How a loss was divided by the number of replicas, as far as the traced step tells.

Optimizers add up the replicas' gradients, so the loss of a replica has to be divided by their
number. Keras does so in its loss objects, and ``tf.nn.compute_average_loss`` does; a mean that
is taken by hand is not divided, a sum need not be. What these calls put out in a step is
noted, and followed through the graph to the loss: a sum of divided terms is divided, a sum of a
divided and another term is neither. Nothing is guessed.

Rejected: multiplying by the number of replicas always (wrong for every loss that is not
Keras's own), and counting the calls alone (a metric may make one, too).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.losses import loss as keras_loss

Tensor = Any

#: What divides its result by the number of replicas: (module, name). The first is private; a
#: test fails where Keras calls it otherwise.
DIVIDING = (
    (keras_loss, "scale_loss_for_distribution"),
    (tf.nn, "compute_average_loss"),
    (tf.nn, "scale_regularization_loss"),
)

#: Operations whose result is as many times divided as their first input.
_LIKE_FIRST = frozenset(
    ("Identity", "Cast", "Neg", "Sum", "Mean", "Reshape", "Squeeze", "ExpandDims", "Snapshot",
     "StopGradient", "PreventGradient", "CheckNumerics", "EnsureShape", "StridedSlice",
     "GatherV2", "Transpose")
)  # fmt: skip
#: Operations whose inputs have to be divided as often as each other.
_SUMS = frozenset(("Add", "AddV2", "AddN", "Sub", "Pack"))
_PRODUCTS = frozenset(("Mul", "MulNoNan"))
_QUOTIENTS = frozenset(("RealDiv", "Div", "DivNoNan"))

#: A constant zero may be added to anything.
_ANY = -1


class LossScaling:
    """What a step on one replica did with losses.

    Args:
        graph: the graph that the step is traced in; None in eager mode.
        replicas: how many train together.
    """

    def __init__(self, graph: Any, replicas: int) -> None:
        self._graph = graph
        self._replicas = replicas
        #: Results of dividing calls, and others that are known: id -> tensor, how often
        #: they are divided. The tensors are kept, so that no id is given twice.
        self._known: dict[int, tuple[Tensor, int]] = {}
        #: Whether there was a dividing call whose result cannot be followed.
        self._hidden = False
        self._divided_any = False
        #: id of a gradient -> it, and what it is the gradient of.
        self._gradients: dict[int, tuple[Tensor, Tensor]] = {}
        self._targets: list[Tensor] = []

    def add_divided(self, result: Tensor) -> None:
        """Note what a dividing call put out."""
        if isinstance(result, keras.KerasTensor):
            return
        self._divided_any = True
        if self._graph is not None and getattr(result, "graph", None) is not self._graph:
            self._hidden = True
        self._known[id(result)] = (result, 1)

    def add_loss(self, loss: Tensor, keras_divides: bool) -> None:
        """Note what ``compute_loss`` put out.

        Args:
            loss: its result.
            keras_divides: whether all of its terms are of loss objects that divide.
        """
        if self._graph is None and keras_divides:
            self._known[id(loss)] = (loss, 1)

    def add_gradients(self, target: Any, sources: Any, gradients: Any) -> None:
        """Note a call of a tape's ``gradient``, unless it is of other things than variables."""
        if not any(_is_variable(each) for each in keras.tree.flatten(sources)):
            return
        (first, *others) = keras.tree.flatten(target)
        if others:
            self._hidden = self._hidden or self._divided_any
            return
        self._targets.append(first)
        for gradient in keras.tree.flatten(gradients):
            if gradient is not None:
                self._gradients[id(gradient)] = (gradient, first)

    def times_divided(self, loss: Tensor) -> int | None:
        """How often a loss is divided by the number of replicas; None if that is unknown."""
        if self._replicas == 1:
            return 0
        if self._graph is None:
            return self._known.get(id(loss), (loss, None))[1] if self._divided_any else 0
        times = None if self._hidden else self._followed(loss)
        known = frozenset(tensor.ref() for tensor, _ in self._known.values())
        by_hand = times == 0 and _may_be_divided_by_hand(loss, self._replicas, known)
        return None if by_hand else times

    def _followed(self, loss: Tensor) -> int | None:
        try:
            return _Walk(self._known).times_divided(loss)
        except RecursionError:  # a sum of very many terms, added one by one
            return None

    def times_divided_gradient(self, gradient: Tensor) -> int | None:
        """The same of a gradient that an optimizer is given."""
        if self._replicas == 1:
            return 0
        known = self._gradients.get(id(gradient))
        targets = [known[1]] if known else self._targets
        if not targets and not self._divided_any:
            return 0
        found = {self.times_divided(target) for target in targets}
        return found.pop() if len(found) == 1 else None

    def is_undivided_mean(self, gradients: Sequence[Any]) -> bool:
        """Whether gradients are those of an undivided mean over the replica's own rows.

        False where that cannot be known.
        """
        if self._replicas == 1 or self._graph is None:
            return False
        known = [self._gradients.get(id(each)) for each in gradients if each is not None]
        targets = {id(pair[1]): pair[1] for pair in known if pair is not None}
        if not targets or None in known:
            return False
        return all(
            self.times_divided(each) == 0 and _is_mean_of_rows(each, self._replicas)
            for each in targets.values()
        )


class _Walk:
    """Follows a tensor back through the graph to results that are known."""

    def __init__(self, known: dict[int, tuple[Tensor, int]]) -> None:
        self._known = {tensor.ref(): times for tensor, times in known.values()}
        self._depends: dict[Any, bool] = {}
        self._found: dict[Any, int | None] = {}

    def times_divided(self, tensor: Tensor) -> int | None:
        found = self._times(tensor)
        return 0 if found == _ANY else found

    def _times(self, tensor: Tensor) -> int | None:
        if tensor.ref() not in self._found:
            self._found[tensor.ref()] = self._derived(tensor)
        return self._found[tensor.ref()]

    def _derived(self, tensor: Tensor) -> int | None:
        if (known := self._known.get(tensor.ref())) is not None:
            return known
        if not self._depends_on_known(tensor):
            return _ANY if _constant(tensor) == 0.0 else 0
        inputs, kind = list(tensor.op.inputs), tensor.op.type
        if kind in _LIKE_FIRST and not any(map(self._depends_on_known, inputs[1:])):
            return self._times(inputs[0])
        if kind in _SUMS | _PRODUCTS | _QUOTIENTS:
            return _joined(kind, [self._times(each) for each in inputs])
        return None

    def _depends_on_known(self, tensor: Tensor) -> bool:
        """Whether a known result is among the ancestors; there may be too many to recurse."""
        waiting = [tensor]
        while waiting:
            each = waiting[-1]
            if each.ref() in self._depends:
                waiting.pop()
                continue
            inputs = [] if each.ref() in self._known else list(each.op.inputs)
            open_ones = [x for x in inputs if x.ref() not in self._depends]
            if open_ones:
                waiting += open_ones
                continue
            known = each.ref() in self._known
            self._depends[each.ref()] = known or any(self._depends[x.ref()] for x in inputs)
            waiting.pop()
        return self._depends[tensor.ref()]


def _joined(kind: str, times: list[int | None]) -> int | None:
    """How often the sum, product or quotient of some terms is divided."""
    numbers = [each for each in times if each is not None]
    if len(numbers) < len(times):
        return None
    if kind in _SUMS:
        different = set(numbers) - {_ANY}
        return different.pop() if len(different) == 1 else None
    first, second = (max(each, 0) for each in numbers)
    return first + second if kind in _PRODUCTS else first - second


def _is_mean_of_rows(loss: Tensor, replicas: int) -> bool:
    """Whether a tensor is a mean over a first axis or a sum of such, not divided by hand."""
    waiting, seen = [loss], set()
    while waiting:
        tensor = waiting.pop()
        if tensor.ref() in seen:
            continue
        seen.add(tensor.ref())
        terms = _terms_of_mean(tensor, replicas)
        if terms is None:
            return False
        waiting += terms
    return True


def _terms_of_mean(tensor: Tensor, replicas: int) -> list[Tensor] | None:
    """The tensors that are to be means if this is one: none if it is; None if it is not."""
    op, inputs = tensor.op, list(tensor.op.inputs)
    if op.type in ("Mean", "Sum"):
        return _reduced_of_mean(op)
    if op.type in ("Identity", "Cast", "Neg"):
        return inputs[:1]
    if op.type in _SUMS - {"Pack"}:
        return [each for each in inputs if _constant(each) is None] or None
    if op.type in _PRODUCTS | _QUOTIENTS:
        weighted, times = _weighted(op)
        # A constant may stand for the number of replicas.
        by_hand = math.isclose(times, 1.0 / replicas, rel_tol=1e-5)
        return [weighted] if times and not by_hand else None
    return None


def _reduced_of_mean(op: Any) -> list[Tensor] | None:
    reduced, axes = op.inputs[0], tf.get_static_value(op.inputs[1])
    rank = reduced.shape.rank
    if axes is None or not rank:
        return None
    if 0 in {int(axis) % rank for axis in axes.ravel()}:
        return [] if op.type == "Mean" else None
    return [reduced]


def _weighted(op: Any) -> tuple[Tensor, float]:
    """What a product or quotient multiplies, and by what constant, without sign; 0 for none."""
    first, second = op.inputs
    factor = _constant(second)
    if factor is None and op.type in _PRODUCTS:
        first, factor = second, _constant(first)
    if not factor:
        return first, 0.0
    return first, abs(1.0 / factor if op.type in _QUOTIENTS else factor)


def _may_be_divided_by_hand(loss: Tensor, replicas: int, known: Collection[Any]) -> bool:
    """Whether a loss is multiplied by what may stand for the number of replicas.

    That is one over this number, or, for a sum over rows, any constant: one over the size of
    the whole batch, for instance. How ``known`` results are divided is known.
    """
    waiting, seen = [loss], set(known)
    while waiting:
        tensor = waiting.pop()
        if tensor.ref() in seen:
            continue
        seen.add(tensor.ref())
        op, inputs = tensor.op, list(tensor.op.inputs)
        if op.type in _PRODUCTS | _QUOTIENTS:
            weighted, times = _weighted(op)
            if times:
                if math.isclose(times, 1.0 / replicas, rel_tol=1e-5) or _sums_rows(weighted):
                    return True
                inputs = [weighted]
            waiting += inputs
        elif op.type in _SUMS or op.type in ("Identity", "Cast", "Neg"):
            waiting += inputs
    return False


def _sums_rows(tensor: Tensor) -> bool:
    if tensor.op.type != "Sum":
        return False
    axes = tf.get_static_value(tensor.op.inputs[1])
    return axes is None or 0 in axes


def _constant(tensor: Tensor) -> float | None:
    """The value of a constant scalar; None for everything else."""
    value = tf.get_static_value(tensor)
    return float(value) if value is not None and value.size == 1 else None


def _is_variable(source: Any) -> bool:
    return isinstance(source, (tf.Variable, keras.Variable)) or hasattr(source, "handle")


def all_terms_divide(model: Any) -> bool:
    """Whether Keras's own ``compute_loss`` of a model divides all of its terms."""
    if type(model).compute_loss is not keras.Model.compute_loss:
        return False
    losses = keras.tree.flatten(getattr(model, "loss", None))
    return not any(
        getattr(each, "reduction", "mean") in ("sum", "none", None) for each in losses
    )
