"""Where signals are picked up: the only room that knows Keras's train step.

``subject`` is what is trained, ``tree`` names its layers and weights, ``listening`` hears
a step (with ``covers`` and ``notes``), ``selecting`` picks signals out of what was heard,
``probing`` runs a fixed batch, ``plan`` puts signals in tables, ``steps`` hears and records
one step, ``functions`` puts that into a model's train function, ``rehearsing`` hears a step
without doing it, ``fit_calls`` tells a Watch of the fits it is in.
"""

from distwatch.taps.fit_calls import cell_of, led_by, tell_of_fit
from distwatch.taps.functions import HeardFunction
from distwatch.taps.plan import Heard, Taps
from distwatch.taps.rehearsing import rehearse
from distwatch.taps.steps import Steps
from distwatch.taps.subject import Subject, of_loop, of_model

__all__ = [
    "Heard",
    "HeardFunction",
    "Steps",
    "Subject",
    "Taps",
    "cell_of",
    "led_by",
    "of_loop",
    "of_model",
    "rehearse",
    "tell_of_fit",
]
