"""What is watched: signals, their names, and the selectors that choose them.

    dw.Watch("run.zarr", signals=[
        dw.activations("dense_*"),
        dw.gradients(every=10),
        dw.updates("encoder/*", statistics=[dw.histogram()]),
    ])

A selector says what kind of signal, which of them (glob or regular expression over
paths), against what reference, by which further statistics and at which steps.
"""

from distwatch.signals.kinds import (
    Activations,
    Gradients,
    Inputs,
    Loss,
    Probe,
    Selector,
    Signal,
    Tensors,
    Updates,
    Weights,
)
from distwatch.signals.patterns import (
    Pattern,
    matching,
    names_matching,
)
from distwatch.signals.reading import (
    check_selectors,
)
from distwatch.signals.references import (
    REFERENCES,
    check_reference,
    ema,
)
from distwatch.signals.selectors import (
    activations,
    gradients,
    histogram,
    inputs,
    loss,
    probe,
    tensors,
    updates,
    weights,
)

__all__ = [
    "REFERENCES",
    "Activations",
    "Gradients",
    "Inputs",
    "Loss",
    "Pattern",
    "Probe",
    "Selector",
    "Signal",
    "Tensors",
    "Updates",
    "Weights",
    "activations",
    "check_reference",
    "check_selectors",
    "ema",
    "gradients",
    "histogram",
    "inputs",
    "loss",
    "matching",
    "names_matching",
    "probe",
    "tensors",
    "updates",
    "weights",
]
