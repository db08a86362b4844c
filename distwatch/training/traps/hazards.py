"""What goes wrong silently when Keras 3 trains on several replicas.

Each entry was measured with Keras 3.15 on TensorFlow 2.21 and is reproduced, unwatched,
by ``tests/training/test_hazards.py``, so that the list stays true.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras

from distwatch.training.traps.kinds import Trap

_STATISTICS = (
    "after four steps on two replicas of unlike rows the two copies of a moving mean differ by "
    "1.7; predict gives other results on the second replica than the saved model gives"
)


def of_layers(layers: Iterable[keras.layers.Layer]) -> Iterator[Trap]:
    """What layers do on several replicas."""
    layers = list(layers)
    if found := _named(layers, _normalizes_alone):
        yield Trap(
            "batch_norm",
            f"the moving statistics of BatchNormalization ({found}) differ between the "
            "replicas, and those of the first one are saved",
            f"{_STATISTICS}; a last batch of one row (1 and 0 on two replicas) makes gamma NaN",
            "pass synchronized=True to the layer",
        )
    masking = any(_masks(layer) for layer in layers)
    if masking and (found := _named(layers, _normalizes_together)):
        yield Trap(
            "masked_batch_norm",
            f"the moving statistics of BatchNormalization ({found}) differ between the "
            "replicas where its input carries a mask, though it is synchronized",
            "under a mask Keras does not synchronize: on two replicas the copies of a moving "
            "mean differ by 0.9",
            "normalize before the mask, or use LayerNormalization",
        )
    if found := _named(layers, _keeps_state):
        yield Trap(
            "layer_state",
            f"weights that are not trained ({found}) differ between the replicas if the layer "
            "writes them, and those of the first one are saved",
            _STATISTICS,
            'make them by add_weight(..., aggregation="mean")',
        )
    if found := _named(layers, _draws):
        yield Trap(
            "seeds",
            f"every replica draws the same random numbers ({found})",
            "the seed of a layer has equal copies on all replicas; on equal rows what two "
            "replicas put out is equal bit by bit, batch after batch",
            "mostly harmless, since the rows differ; else use a keras.random.SeedGenerator "
            "whose next() adds the replica's number",
        )


def of_optimizers(optimizers: Iterable[Any]) -> Iterator[Trap]:
    """What optimizers do on several replicas."""
    for optimizer in optimizers:
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if _looks_at_one_replica(optimizer):
            yield Trap(
                "loss_scale",
                "LossScaleOptimizer looks at the gradients of the first replica only, so inf "
                "or NaN on another one reaches the weights",
                "inf in the gradients of replica 0 is passed over, on replica 1 it makes the "
                "weights non-finite",
                "use mixed_bfloat16, which needs no loss scale, or override apply so that it "
                "all-reduces the gradients (MEAN) first",
            )
        if (limit := _limit(inner)) and not _overrides(optimizer, "apply"):
            yield Trap(
                "clipping",
                f"{limit} clips the gradients of each replica, divided by the number of "
                "replicas, before they are added up, so it lets through more than on one "
                "device",
                "one SGD step on two unlike halves is up to half as long again as that on the "
                "whole batch with the same limit, and equal to it without",
                "override the optimizer's apply so that it all-reduces the gradients (MEAN) "
                "first, and divide the limit by the number of replicas",
            )


def of_losses(losses: Iterable[Any]) -> Iterator[Trap]:
    """What the reduction of a loss does on several replicas."""
    for loss in losses:
        if getattr(loss, "reduction", None) == "mean_with_sample_weight":
            yield Trap(
                "weighted_mean",
                'a loss of reduction "mean_with_sample_weight" is averaged by the weights of '
                "each replica's own rows, so the step is not that of the whole batch",
                "one SGD step on two replicas differs from that on one device by a third; with "
                '"sum_over_batch_size" they are equal',
                'use reduction="sum_over_batch_size"',
            )
        if getattr(loss, "ignore_class", None) is not None:
            yield Trap(
                "ignored_class",
                "a loss with ignore_class is averaged over the rows that each replica has "
                "left, so the step is not that of the whole batch",
                "one SGD step on two replicas with unequally many ignored elements differs "
                "from that on one device",
                'use reduction="sum" and divide by a constant number of elements',
            )


def of_scopes(optimizers: Iterable[Any], is_mirrored: Callable[[Any], bool]) -> Iterator[Trap]:
    """What was made outside the strategy's scope."""
    for optimizer in optimizers:
        if optimizer.built and not is_mirrored(optimizer.iterations.value):
            yield Trap(
                "optimizer_scope",
                "the optimizer was made outside the strategy's scope, so every replica counts "
                "its iterations, and schedules run as many times as fast",
                "after 3 steps of SGD on two replicas its iterations are 6",
                "compile the model, or make the optimizer, under strategy.scope()",
            )


def of_data(x: Any, rows: int | None, batch: int, replicas: int) -> Iterator[Trap]:
    """What data does that ``fit`` is given; ``rows`` are those of arrays."""
    if inspect.isgenerator(x):
        yield Trap(
            "generator",
            "Keras draws batches from a generator that it never trains on",
            "of 12 batches 3 or 4 are lost under MirroredStrategy, none on one device",
            "use tf.data.Dataset.from_generator, which can be started anew",
        )
    if rows is not None and rows % batch % replicas:
        yield Trap(
            "uneven_shards",
            f"the last batch of {rows % batch} rows is split unevenly over {replicas} "
            "replicas, whose means count alike, so its step is not that of the whole batch",
            "one SGD step on 4 + 3 rows differs from that on 7 by a quarter, on 1 + 0 it is "
            "half as long",
            f"give it a number of rows that {replicas} divides, or leave it out",
        )


def of_undivided_loss(replicas: int) -> Trap:
    """What a mean does that is not divided by the number of replicas."""
    return Trap(
        "undivided_loss",
        f"the loss is a mean over each replica's own rows, and the gradients of {replicas} "
        f"replicas are added up, so the gradient that is applied is {replicas} times that of "
        "the whole batch",
        "one SGD step on two replicas is twice as long as that on one device",
        "divide the loss by strategy.num_replicas_in_sync, or use a loss object of Keras or "
        "tf.nn.compute_average_loss, which do",
    )


def of_train_on_batch() -> Trap:
    """What ``train_on_batch`` does on several replicas."""
    return Trap(
        "train_on_batch",
        "train_on_batch gives every replica the whole batch, so all of them do the same work",
        "of a batch of 16 rows each of two replicas sees 16",
        "use fit, or a strategy.run loop with distwatch.watching",
    )


def _named(
    layers: Sequence[Any], condition: Callable[[Any], bool], most: int = 3
) -> str | None:
    names = [layer.name for layer in layers if condition(layer)]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or None


def _normalizes(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization) and layer.trainable


def _normalizes_alone(layer: Any) -> bool:
    return _normalizes(layer) and not layer.synchronized


def _normalizes_together(layer: Any) -> bool:
    return _normalizes(layer) and layer.synchronized


def _masks(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Masking) or bool(getattr(layer, "mask_zero", False))


def _keeps_state(layer: Any) -> bool:
    """Whether a layer of the user's own has weights that no optimizer writes.

    Keras's own layers that have such do not write them in training, but for
    BatchNormalization.
    """
    own = not type(layer).__module__.startswith("keras.")
    return own and any(v.aggregation == "none" for v in layer._non_trainable_variables)


def _draws(layer: Any) -> bool:
    generators = getattr(layer, "_seed_generators", ())
    rates = ("rate", "dropout", "recurrent_dropout", "stddev")
    asked = [getattr(layer, name) for name in rates if hasattr(layer, name)]
    numbers = [rate for rate in asked if isinstance(rate, (int, float))]
    # A layer that has a generator and a rate of 0 never asks for a number.
    return bool(generators) and (not numbers or any(numbers))


def _looks_at_one_replica(optimizer: Any) -> bool:
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer) and not (
        _overrides(optimizer, "apply") or _overrides(optimizer, "check_finite")
    )


def _overrides(optimizer: Any, method: str) -> bool:
    """Whether a class of the user's own stands in the way of Keras's method."""
    return not getattr(type(optimizer), method).__module__.startswith("keras.")


def _limit(optimizer: Any) -> str | None:
    for name in ("clipnorm", "global_clipnorm", "clipvalue"):
        if (limit := getattr(optimizer, name, None)) is not None:
            return f"{name}={limit}"
    return None
