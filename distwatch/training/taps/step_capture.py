"""What was captured of one train step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from distwatch.errors import ConfigError

Tensor = Any

#: What `StepCapture.elsewhere` calls what is no layer; no path ends so.
OPTIMIZER, LOSS = "the optimizer/", "the loss/"

#: What ``watch.log`` may be given as a name.
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")


class Call(NamedTuple):
    """One call of a layer."""

    inputs: Any
    outputs: Any


class Applied(NamedTuple):
    """One call of an optimizer's ``apply``."""

    optimizer: Any
    #: Its learning rate as it was then; None where it is not known without side effects.
    learning_rate: Tensor | None
    #: Keras variables, and one entry each in the other lists.
    variables: list[Any]
    #: Gradients of this replica's own loss, or None.
    local: list[Any]
    before: list[Tensor]
    after: list[Tensor]
    #: id of a TensorFlow variable -> its gradient after the reduction.
    reduced: dict[int, Tensor]


@dataclass
class StepCapture:
    """What was captured of one train step, on one replica."""

    #: The graph that the step is traced in; None in eager mode.
    graph: Any
    #: What ``train_step`` is given.
    data: Any = None
    #: A layer's path -> its calls, in order.
    calls: dict[str, list[Call]] = field(default_factory=dict)
    applied: list[Applied] = field(default_factory=list)
    #: An optimizer for each call of its ``apply``, whether or not more is captured of it.
    optimizers: list[Any] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    #: What the step gives to ``watch.log``: name -> its values, call by call.
    logged: dict[str, list[Tensor]] = field(default_factory=dict)
    #: What it gives to it out of reach: name -> where.
    logged_elsewhere: dict[str, str] = field(default_factory=dict)
    #: ids of losses and local gradients as they were handed over: it is not known whether
    #: they are divided by the number of replicas.
    unknown_scale: set[int] = field(default_factory=set)
    #: Whether a mean over each replica's own rows was differentiated as it is.
    undivided: bool = False
    #: Gradients after a reduction, until the optimizer is done with them.
    reduced: dict[int, Tensor] = field(default_factory=dict)
    #: What gradients consist of, as optimizers are given them and as they reduce them.
    handed: list[Tensor] = field(default_factory=list)
    #: What went wrong while it was captured, if anything.
    error: Exception | None = None
    #: What happened out of reach -> where: layers' paths, `OPTIMIZER` and `LOSS`.
    elsewhere: dict[str, str] = field(default_factory=dict)

    #: Whether an optimizer was given a gradient: id of a Keras variable -> that.
    has_gradient: dict[int, bool] = field(default_factory=dict)
    #: Tensor, by its id -> its place among all that layers put out.
    _order: dict[int, int] = field(default_factory=dict)
    #: A layer's path -> the place of what it put out first.
    _layer_order: dict[str, int] = field(default_factory=dict)

    def in_reach(self, what: str) -> bool:
        """Whether what happens now does so in the step's own graph; if not, note where."""
        graph = current_graph()
        if graph is not self.graph:
            self.elsewhere.setdefault(what, _describe(graph, self.graph))
        return graph is self.graph

    def add_call(self, path: str, inputs: Any, outputs: Any) -> None:
        """Store a layer's call, unless it belongs to another graph."""
        if any(self.belongs(leaf) for leaf in keras.tree.flatten(outputs)):
            self.calls.setdefault(path, []).append(Call(inputs, outputs))
            for leaf in keras.tree.flatten(outputs):
                # A layer that hands on what an inner one put out is not its origin.
                self._order.setdefault(id(leaf), len(self._order))
            self._layer_order.setdefault(path, len(self._order) - 1)
        else:
            self.in_reach(path)

    def log(self, name: str, value: Any) -> None:
        """Store a number that the step names; what cannot be one is an error of the capture."""
        try:
            number = _number(name, value)
        except ConfigError as error:
            self.error = self.error or error
            return
        graph = current_graph()
        if graph is self.graph:
            self.logged.setdefault(name, []).append(number)
        else:
            self.logged_elsewhere.setdefault(name, _describe(graph, self.graph))

    def note_gradients(self, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        """Note which variables an optimizer is given a gradient of, and which with None."""
        for gradient, variable in zip(gradients, variables, strict=False):
            before = self.has_gradient.get(id(variable), False)
            self.has_gradient[id(variable)] = before or gradient is not None

    def order_of(self, name: str, tensor: Tensor) -> int | None:
        """The place of a signal among all that layers put out, in the order of their calls.

        That of a variable is that of its layer. None if no layer put it out.
        """
        path = name.partition("/")[2].rpartition("/")[0]
        return self._order.get(id(tensor), self._layer_order.get(path))

    def belongs(self, leaf: Any) -> bool:
        """Whether a tensor is of the step's own graph.

        Layers are also called in graphs of other purposes: Keras infers shapes in
        scratch graphs, loops and conditions have bodies of their own. Their tensors
        cannot be used out here.
        """
        if isinstance(leaf, keras.KerasTensor):
            return False
        component = getattr(leaf, "flat_values", getattr(leaf, "values", leaf))
        return getattr(component, "graph", None) is self.graph


def _number(name: str, value: Any) -> Tensor:
    """What ``watch.log`` is given, as a tensor.

    Raises:
        ConfigError: the name cannot be part of a signal's, or the value is not one number.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"watch.log({name!r}, ...): a name has letters, digits and any of _ . -, and may "
            'have parts, as in "generator/loss".'
        )
    try:
        number = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"watch.log({name!r}, ...) was given {value!r}, of which TensorFlow "
            "makes no tensor; give one number."
        ) from error
    if number.shape.rank != 0:
        raise ConfigError(
            f"watch.log({name!r}, ...) was given a tensor of shape {number.shape}, not one "
            "number; give its mean, or watch the layer that puts it out."
        )
    return number


def current_graph() -> Any:
    """The graph that is being traced; None in eager mode."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _describe(graph: Any, outermost: Any) -> str:
    """What a graph inside a step's own is of, in words."""
    if graph is None:
        return "a function that runs outside of the graph, such as tf.py_function"
    while (outer := getattr(graph, "outer_graph", None)) is not outermost and hasattr(
        outer, "outer_graph"
    ):
        graph = outer
    # Of TensorFlow's private classes only the names are looked at.
    kind = type(graph).__name__
    if kind.startswith("Cond"):
        return "a condition (tf.cond, or an if that AutoGraph rewrote)"
    if kind.startswith("While"):
        return "a loop (tf.while_loop, or a loop that AutoGraph rewrote)"
    if outermost is None:
        return (
            "a tf.function within a step that runs eagerly (take @tf.function off it, or put "
            "it around the whole watched step)"
        )
    return "a tf.function of its own (take @tf.function off it: the step is compiled anyway)"


def compiled_by_xla() -> bool:
    """Whether what is traced now is going to be compiled by XLA as a whole."""
    graph = current_graph()
    while graph is not None:
        context = graph._get_control_flow_context()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False
