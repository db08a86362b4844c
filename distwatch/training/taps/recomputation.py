"""Reading a tensor without changing the training that computes it.

TensorFlow decides by who consumes a tensor what it fuses into one kernel, how it reorders
sums, and in whose buffer it works. So a consumer of ours, even an identity, may change the
last bits of what is learned. One kind of tensor is safe: one that the training's own
gradient keeps until the backward pass, be it in another shape. All others are computed
again from such tensors, by copies of the operations that made them, inside the branch of
the steps that are looked at: outside of it, or under a condition that is constant,
TensorFlow would merge the copies with the originals.

What is private in TensorFlow here is that a tape names the operations of a gradient
``gradient_tape/...``; ``tests/training/test_recomputation.py`` fails if that changes. The
copies then are merely more than is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distwatch.training.device.cadence import Making
from distwatch.training.taps.step_capture import compiled_by_xla, current_graph

Tensor = Any

#: Before the names of all operations of a gradient that a tape computes.
_TAPE = "gradient_tape/"

#: Operations that consume a tensor but need its shape only.
_OF_SHAPES = frozenset({"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"})

#: Operations whose result has the elements of their first input, in the same order.
_VIEWS = frozenset({"Reshape", "Identity", "ExpandDims", "Squeeze", "StopGradient"})

#: Sources that are there whether or not anybody looks; copies of constants cost nothing.
_SOURCES = frozenset({"Placeholder", "PlaceholderWithDefault"})


class KeptTensors:
    """What may be read directly, in the graph of a step that has been traced.

    Args:
        given: tensors that are safe for another reason: the gradients that an optimizer
            was given.
    """

    def __init__(self, given: Sequence[Tensor] = ()) -> None:
        # What XLA compiles is no part of the graph that records.
        self._graph: Any = None if compiled_by_xla() else current_graph()
        #: Tensors, by their names, that were asked about: whether they are kept.
        self._known: dict[str, bool] = {}
        if self._graph is not None:
            own = [each for each in given if getattr(each, "graph", None) is self._graph]
            self._known = {each.name: True for each in own}
        self._live: set[Any] = _live_operations(self._graph) if self._graph else set()

    def __contains__(self, tensor: Tensor) -> bool:
        if self._graph is None or tensor.graph is not self._graph:
            return True
        if tensor.name not in self._known:
            kept = _is_source(tensor.op) or self._by_gradient(tensor)
            self._known[tensor.name] = kept
        return self._known[tensor.name]

    def _by_gradient(self, tensor: Tensor) -> bool:
        return any(
            op.name.startswith(_TAPE) and op.type not in _OF_SHAPES and op in self._live
            for op in tensor.consumers()
        )

    def making(self, tensors: Sequence[Tensor]) -> Making | None:
        """How those of some tensors that may not be read directly are made, if any are."""
        again = [i for i, each in enumerate(tensors) if each not in self]
        if not again:
            return None
        return Making(again, lambda: self.compute_again([tensors[i] for i in again]))

    def count_again(self, tensor: Tensor) -> int:
        """How many operations compute this tensor again; 0 if its elements are kept."""
        return 0 if tensor in self else len(self._makers([tensor])[0])

    def compute_again(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies of tensors, computed in the current graph from tensors that are kept."""
        makers, sources = self._makers(tensors)
        definition = tf.compat.v1.GraphDef()
        # Operations are made in the order of their inputs.
        for operation in self._graph.get_operations():
            if operation in makers:
                definition.node.append(_definition(operation))
        made = {each.name: _read(kept, each) for each, kept in sources.values()}
        taken = {each.name for operation in makers for each in operation.inputs}
        computed = [each for each in tensors if each.name not in made]
        copies = tf.graph_util.import_graph_def(
            definition,
            input_map={name: each for name, each in made.items() if name in taken},
            return_elements=[each.name for each in computed],
            name="distwatch",
        )
        for copy, tensor in zip(copies, computed, strict=True):
            # Where somebody told TensorFlow the shape, it is not part of the operation.
            copy.set_shape(tensor.shape)
        made |= {each.name: copy for each, copy in zip(computed, copies, strict=True)}
        return [made[each.name] for each in tensors]

    def _makers(
        self, tensors: Sequence[Tensor]
    ) -> tuple[set[Any], dict[str, tuple[Tensor, Tensor]]]:
        """The operations to copy, and what they start from.

        The latter by their names: tensors, and what is kept of their elements.
        """
        wanted: set[Any] = set()
        sources: dict[str, tuple[Tensor, Tensor]] = {}
        waiting = list(tensors)
        while waiting:
            tensor = waiting.pop()
            if (kept := self._kept(tensor)) is not None:
                sources[tensor.name] = tensor, kept
            elif tensor.op not in wanted:
                wanted.add(tensor.op)
                waiting += tensor.op.inputs
        return wanted, sources

    def _kept(self, tensor: Tensor) -> Tensor | None:
        """What is kept of a tensor's elements: itself, or a view of it.

        Layers that multiply matrices reshape what has more dims, and keep that.
        """
        if tensor in self:
            return tensor
        if not _has_known_features(tensor):
            return None  # Its shape could be had from itself only.
        waiting = _views(tensor)
        while waiting:
            view = waiting.pop()
            if view in self:
                return view
            waiting += _views(view)
        return None


def _views(tensor: Tensor) -> list[Tensor]:
    """Tensors that have its elements in their order."""
    return [
        operation.outputs[0]
        for operation in tensor.consumers()
        if operation.type in _VIEWS and operation.inputs[0].name == tensor.name
    ]


def _has_known_features(tensor: Tensor) -> bool:
    return bool(tensor.shape.rank and tensor.shape[1:].num_elements())


def _read(kept: Tensor, tensor: Tensor) -> Tensor:
    """What is kept of a tensor's elements, in that tensor's shape and in the current graph."""
    read = tf.compat.v1.get_default_graph().capture(kept)
    if kept.name == tensor.name:
        return read
    # To ask the tensor itself for its shape would be to consume it.
    read = tf.reshape(read, [-1, *tensor.shape[1:]])
    read.set_shape(tensor.shape)
    return read


def _is_source(operation: Any) -> bool:
    """Whether an operation's results cannot be had a second time."""
    return operation.type in _SOURCES or operation.op_def.is_stateful


def _live_operations(graph: Any) -> set[Any]:
    """The operations that something with an effect, such as an assignment, depends on."""
    waiting = [each for each in graph.get_operations() if each.op_def.is_stateful]
    live: set[Any] = set()
    while waiting:
        operation = waiting.pop()
        if operation not in live:
            live.add(operation)
            waiting += [each.op for each in operation.inputs]
            waiting += operation.control_inputs
    return live


def _definition(operation: Any) -> Any:
    """An operation's definition, free of the order that it was given among others."""
    node = tf.compat.v1.NodeDef()
    node.CopyFrom(operation.node_def)
    data = [each for each in node.input if not each.startswith("^")]
    node.ClearField("input")
    node.input.extend(data)
    node.attr.pop("_class", None)
    return node
