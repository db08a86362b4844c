"""What is watched: signals, their names, and the selectors that choose them.

    dw.Watch("run.zarr", signals=[
        dw.activations("dense_*"),
        dw.gradients(every=10),
        dw.updates("encoder/*", statistics=[dw.histogram()]),
    ])

A selector says what kind of signal, which of them (glob or regular expression over
paths), against what reference, by which further statistics and at which steps.
``selectors`` has one class per kind, ``patterns``, ``references`` and ``schedules`` what
they are made of, ``adjustable`` what becomes of schedules while training runs, ``signal``
what they find, ``signal_lists`` what a Watch may be given as ``signals``, ``validation`` how
arguments are checked.
"""

from distwatch.signals import selectors
from distwatch.signals.adjustable import Adjustable, Measuring
from distwatch.signals.patterns import (
    ExactPath,
    LayerName,
    Pattern,
    is_name,
    matches,
    matching,
    name_of,
    names_matching,
    no_such_signal,
    written,
)
from distwatch.signals.references import REFERENCES, check_reference, ema
from distwatch.signals.selector import histogram, selector_hint
from distwatch.signals.selectors import *  # noqa: F403 - so that a kind is named there alone
from distwatch.signals.signal import Signal

__all__ = [
    "REFERENCES",
    "Adjustable",
    "ExactPath",
    "LayerName",
    "Measuring",
    "Pattern",
    "Signal",
    "check_reference",
    "ema",
    "histogram",
    "is_name",
    "matches",
    "matching",
    "name_of",
    "names_matching",
    "no_such_signal",
    "selector_hint",
    "written",
]
__all__ += selectors.__all__
