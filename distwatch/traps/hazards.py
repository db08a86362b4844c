"""What goes wrong quietly when Keras 3 trains on several replicas.

Each entry was measured with Keras 3.15 on TensorFlow 2.21 and is reproduced, unwatched,
by ``tests/test_hazards.py``, so that the list stays true.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras

from distwatch.traps.kinds import Trap


def of_layers(layers: Iterable[keras.layers.Layer]) -> Iterator[Trap]:
    """What layers do on several replicas."""
    layers = list(layers)
    if normalizing := [layer.name for layer in layers if _normalizes_alone(layer)]:
        yield Trap(
            "batch_norm",
            f"the moving statistics of BatchNormalization ({_some(normalizing)}) differ "
            "between the replicas, and what is saved are those of the first one",
            "after a fit on two replicas the copies of moving_mean differ, and predict gives "
            "other results on each replica",
            "pass synchronized=True to the layer",
        )
    if drawing := [layer.name for layer in layers if _draws(layer)]:
        yield Trap(
            "dropout",
            f"every replica draws the same random numbers ({_some(drawing)})",
            "the seed of a layer is one mirrored variable; on equal rows the masks of two "
            "replicas are equal, batch after batch",
            "mostly harmless, since the rows differ; else add the replica's number to a "
            "stateless seed in a layer of your own",
        )


def of_optimizers(optimizers: Iterable[Any]) -> Iterator[Trap]:
    """What optimizers do on several replicas."""
    for optimizer in optimizers:
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            yield Trap(
                "loss_scale",
                "LossScaleOptimizer looks at the gradients of one replica only, so inf or "
                "NaN on another one reaches the weights",
                "inf in the gradient of replica 1 makes the weights non-finite, on replica 0 "
                "the step is skipped",
                "use mixed_bfloat16, which needs no loss scale",
            )
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if limit := _limit(inner):
            yield Trap(
                "clipping",
                f"{limit} clips the gradient of each replica, divided by the number of "
                "replicas, before they are added up, so the limit is another one than on "
                "one device",
                "one SGD step on two unlike halves differs from the step on the whole batch, "
                "and without clipping they are equal",
                "clip in a train_step of your own, after all_reduce",
            )


def _normalizes_alone(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized


def _draws(layer: Any) -> bool:
    return isinstance(
        getattr(layer, "seed_generator", None), keras.random.SeedGenerator
    ) and bool(getattr(layer, "rate", 1.0))


def _limit(optimizer: Any) -> str | None:
    for name in ("clipnorm", "global_clipnorm", "clipvalue"):
        if (limit := getattr(optimizer, name, None)) is not None:
            return f"{name}={limit}"
    return None


def _some(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
