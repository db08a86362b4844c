"""In which order a step computes its signals: what went wrong went wrong there first."""

from __future__ import annotations

import math

from distwatch.signals import Signal

#: What the names of signals begin with, in the order in which a step computes them.
_KINDS = (
    ("input", "data/input", "data/target"),
    ("activation_input", "activation", "tensor", "sample", "state", "data/prediction"),
    ("loss", "log"),
    ("gradient_local",),
    ("gradient", "gradient_clipped"),
    ("learning_rate",),
    ("update",),
    ("weight",),
    ("probe",),
)

#: Those of variables, which gradients reach from the last layer to the first.
BACKWARDS = ("gradient_local", "gradient", "gradient_clipped", "update", "weight")


#: What the model is given.
GIVEN = ("input", "data/input", "data/target")


def kind_of(name: str) -> str:
    """What a signal's name begins with; of the data, whether they are given or said."""
    kind, _, rest = name.partition("/")
    if kind == "data":
        kind = f"data/{rest}"
    for mark in ":#@":
        kind = kind.partition(mark)[0]
    return kind


def origin(signal: Signal) -> tuple[int, float, bool]:
    """What is smaller of two signals is computed first, as far as that is known.

    The model's own output, which some layer put out, comes after that layer's.
    """
    kind = kind_of(signal.name)
    place = next((n for n, kinds in enumerate(_KINDS) if kind in kinds), len(_KINDS))
    order = math.inf if signal.order is None else float(signal.order)
    if kind in BACKWARDS:
        order = -order
    return place, order, signal.name in ("activation/output", "data/prediction")
