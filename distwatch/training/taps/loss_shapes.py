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

#: So many operations of a loss are looked at, at most.
_MOST = 4_000


def compares_each_with_each(losses: list[Tensor], targets: Any, said: Any) -> bool:
    """Whether a difference in the graph of a loss is taken over all pairs of a batch.

    Args:
        losses: what a step minimizes; none in eager mode, where nothing is known of them.
        targets: what the step was given as targets, of any structure.
        said: what the model puts out, likewise.
    """
    given, put_out = _keys(targets), _keys(said)
    known: dict[Any, frozenset[str]] = {
        **dict.fromkeys(given, frozenset({"targets"})),
        **dict.fromkeys(put_out, frozenset({"said"})),
    }
    return any(
        _is_of_pairs(operation) and _of_both(operation, known)
        for loss in losses
        if hasattr(loss, "graph")
        for operation in _behind(loss, known)
    )


def _keys(tensors: Any) -> list[Any]:
    leaves = keras.tree.flatten(tensors)
    return [leaf.ref() for leaf in leaves if hasattr(leaf, "graph") and hasattr(leaf, "ref")]


def _behind(loss: Tensor, known: dict[Any, frozenset[str]]) -> Iterator[Any]:
    """The operations between what is known and a loss, each after those that it needs.

    ``known`` is added to: of each tensor, which of the known ones it is made of.
    """
    waiting = [loss.op]
    for _ in range(_MOST):
        if not waiting:
            return
        operation = waiting[-1]
        if missing := [x.op for x in operation.inputs if x.ref() not in known]:
            waiting.extend(missing)
            continue
        waiting.pop()
        made_of = frozenset[str]().union(*(known.get(x.ref(), ()) for x in operation.inputs))
        known.update((x.ref(), made_of) for x in operation.outputs if x.ref() not in known)
        yield operation


def _is_of_pairs(operation: Any) -> bool:
    """Whether it takes (batch, 1) and (batch,), or the reverse."""
    if operation.type not in _DIFFERENCES:
        return False
    low, high = sorted((x.shape for x in operation.inputs), key=lambda shape: shape.rank or 0)
    return (low.rank, high.rank) == (1, 2) and high[1] == 1 and low[0] != 1


def _of_both(operation: Any, known: dict[Any, frozenset[str]]) -> bool:
    """Whether one side is made of the targets alone, and the other of what the model says.

    What compares each with each on purpose, as a ranking does, has one of them on both sides.
    """
    sides = [known.get(x.ref(), frozenset()) for x in operation.inputs]
    return sorted(map(sorted, sides)) == [["said"], ["targets"]]
