"""Whether a loss compares each prediction with each target, by how their shapes broadcast.

Predictions of shape (batch, 1) minus targets of shape (batch,) are (batch, batch): a mistake
that raises nothing, and by which a model learns to say the targets' mean. Keras's own losses
bring both to one rank; a loss of the user's own may not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

Tensor = Any

#: Operations that take differences.
_DIFFERENCES = ("Sub", "SquaredDifference")

#: What computes by a function of its own, which is not looked into.
_FUNCTIONS = ("Case", "If", "PartitionedCall", "StatefulPartitionedCall", "StatelessCase",
              "StatelessIf", "StatelessWhile", "While")  # fmt: skip

#: So many operations of a loss are looked at, at most.
_MOST = 4_000

#: What tensors are made of, as far as it is known.
Origins = dict[Any, frozenset[str]]

TARGETS, SAID = frozenset({"targets"}), frozenset({"said"})


def compares_all_pairs(losses: list[Tensor], targets: Any, said: Any) -> bool | None:
    """Whether a difference in the graph of a loss is taken over all pairs of a batch.

    Args:
        losses: what a step minimizes.
        targets: what the step was given as targets, of any structure and shapes.
        said: what the model puts out, likewise.

    Returns:
        Whether one has the shape (batch, 1) and is subtracted from one of shape (batch,), or
        the reverse. None where that is not known: in eager mode, in functions of the loss's
        own, and where it is not made of these targets and outputs.
    """
    origins = dict.fromkeys(_keys(targets), TARGETS) | dict.fromkeys(_keys(said), SAID)
    found = [_has_pairs(loss, origins) for loss in losses if hasattr(loss, "graph")]
    if True in found:
        return True
    return False if found and None not in found else None


def _has_pairs(loss: Tensor, origins: Origins) -> bool | None:
    operations = list(_behind(loss, origins))
    if any(_is_of_pairs(operation, origins) for operation in operations):
        return True
    whole = origins.get(loss.ref()) == TARGETS | SAID
    hidden = any(operation.type in _FUNCTIONS for operation in operations)
    return False if whole and not hidden else None


def _keys(tensors: Any) -> list[Any]:
    leaves = keras.tree.flatten(tensors)
    return [leaf.ref() for leaf in leaves if hasattr(leaf, "graph") and hasattr(leaf, "ref")]


def _behind(loss: Tensor, origins: Origins) -> Iterator[Any]:
    """The operations between what is known and a loss, each after those that it needs.

    The origins of what they put out are added.
    """
    waiting = [loss.op]
    for _ in range(_MOST):
        if not waiting:
            return
        operation = waiting[-1]
        if missing := [x.op for x in operation.inputs if x.ref() not in origins]:
            waiting.extend(missing)
            continue
        waiting.pop()
        made_of = frozenset[str]().union(*(origins[x.ref()] for x in operation.inputs))
        for x in operation.outputs:
            origins.setdefault(x.ref(), made_of)
        yield operation


def _is_of_pairs(operation: Any, origins: Origins) -> bool:
    """Whether it takes targets of shape (batch, 1) and outputs of shape (batch,), or so.

    What compares each with each on purpose, as a ranking does, has one of them on both sides.
    """
    if operation.type not in _DIFFERENCES:
        return False
    low, high = sorted((x.shape for x in operation.inputs), key=lambda shape: shape.rank or 0)
    if (low.rank, high.rank) != (1, 2) or high[1] != 1 or not low[0] == high[0] != 1:
        return False
    return {origins[x.ref()] for x in operation.inputs} == {TARGETS, SAID}
