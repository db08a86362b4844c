"""Where signals are picked up: the only room that knows Keras's train step.

``tree`` names layers and weights, ``listening`` hears a step (with ``covers`` and
``notes``), ``selecting`` picks signals out of what was heard, ``probing`` runs a fixed
batch, ``plan`` puts signals in tables, ``train_step`` puts the listening into a model's
train function, ``fit_calls`` tells a Watch of the fits it is in.
"""

from distwatch.taps.fit_calls import tell_of_fit
from distwatch.taps.plan import Heard, Taps
from distwatch.taps.train_step import WatchedTraining

__all__ = ["Heard", "Taps", "WatchedTraining", "tell_of_fit"]
