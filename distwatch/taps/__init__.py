"""Where signals are picked up: the only room that knows Keras's train step.

``activation`` finds layers and listens to them, ``train_step`` puts the listening
into a model's train function, ``fit_end`` tells a Watch when its fit has ended.
"""

from distwatch.taps.activation import ActivationTaps, Heard
from distwatch.taps.fit_end import tell_when_fit_ends
from distwatch.taps.train_step import WatchedTraining

__all__ = ["ActivationTaps", "Heard", "WatchedTraining", "tell_when_fit_ends"]
