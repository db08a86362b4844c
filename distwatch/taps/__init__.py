"""Where signals are picked up: the only room that knows Keras's train step.

``activation`` finds layers and listens to them, ``train_step`` puts the listening
into a model's train function, ``fit_calls`` tells a Watch of the fits it is in.
"""

from distwatch.taps.activation import ActivationTaps, Heard
from distwatch.taps.fit_calls import tell_of_fit
from distwatch.taps.train_step import WatchedTraining

__all__ = ["ActivationTaps", "Heard", "WatchedTraining", "tell_of_fit"]
