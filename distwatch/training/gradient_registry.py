"""Letting go of traced graphs that TensorFlow's registry of gradients would keep for ever.

Each call of a ``tf.custom_gradient`` function in a graph registers its gradient under a
name of its own, process-wide, and TensorFlow never removes it. What is registered refers
to the tensors of the call, and so keeps the whole graph. Every optimizer of Keras makes
such a call (its all-reduce), so each traced train function stays in memory: 4 MB for a
small model, 13 MB or more with the watching in it. An unwatched model is traced once; a
watched one is traced anew for each fit, whose function is of no use afterwards.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator
from typing import Any

from tensorflow.python.framework import ops

#: What TensorFlow puts before the names of gradients of ``tf.custom_gradient``.
_PREFIX = "CustomGradient-"


def forget_gradients(graphs: Collection[Any]) -> None:
    """Take those gradients out of TensorFlow's registry that belong to some graphs.

    Nothing can be differentiated through these graphs any more; those of others, also of
    functions that are traced at the same time on other threads, stay.

    Args:
        graphs: graphs of functions that are not called again; gradients of the bodies of
            their conditions and loops belong to them, too.
    """
    # Private; where TensorFlow keeps them elsewhere, they stay as they do unwatched.
    registered = getattr(ops.gradient_registry, "_registry", {})
    wanted = set(map(id, graphs))
    for name, entry in list(registered.items()) if wanted else ():
        if name.startswith(_PREFIX) and not wanted.isdisjoint(_graphs_of(entry["type"])):
            registered.pop(name, None)


def _graphs_of(function: Any) -> Iterator[int]:
    """Ids of the graphs of all tensors that a gradient function's closure holds."""
    waiting, seen = [function], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, types.FunctionType):
            waiting += [cell.cell_contents for cell in each.__closure__ or () if _is_set(cell)]
        elif isinstance(each, (list, tuple)):
            waiting += each
        else:
            graph = getattr(each, "graph", None)
            while graph is not None:
                yield id(graph)
                graph = getattr(graph, "outer_graph", None)


def _is_set(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # The variable has no value yet.
        return False
