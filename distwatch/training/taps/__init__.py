"""Where signals are picked up: the only room that knows Keras's train step.

``subject`` is what is trained, ``tree`` names its layers and weights, ``listening`` hears
a step (with ``covers`` and ``notes``), ``kinds`` has a ``tap`` per kind of signal,
``probing`` runs a fixed batch, ``plan`` puts signals in tables, ``steps`` hears and records
one step, ``functions`` puts that into a model's train function, ``rehearsing`` hears a step
without doing it, ``fit_calls`` tells a Watch of the fits it is in.
"""

from distwatch.training.taps.fit_hook import cell_of, moved_to_front, tell_of_fit
from distwatch.training.taps.plan import Taps, TracedPlan
from distwatch.training.taps.steps import Steps
from distwatch.training.taps.subject import Subject, of_loop, of_model
from distwatch.training.taps.tracing import rehearse
from distwatch.training.taps.train_function import WatchedFunction

__all__ = [
    "Steps",
    "Subject",
    "Taps",
    "TracedPlan",
    "WatchedFunction",
    "cell_of",
    "moved_to_front",
    "of_loop",
    "of_model",
    "rehearse",
    "tell_of_fit",
]
