"""Where signals are picked up: the only room that knows Keras's train step.

``subject`` is what is trained, ``layer_paths`` names its layers and weights, ``capturing``
captures a step (by ``instance_patches``, in a ``step_capture``), ``kinds`` has a ``tap`` per
kind of signal, which picks signals out of the capture, ``probing`` runs a fixed batch, ``plan``
puts signals in tables, ``learning_rates`` reads those of optimizers, ``steps`` captures and
records one step, ``train_function`` puts that into a model's train function, ``tracing`` traces
a step without running it, ``callbacks`` is about the order in which Keras calls them.
"""

from distwatch.training.taps.callbacks import list_of, moved_to_front
from distwatch.training.taps.learning_rates import current_number
from distwatch.training.taps.plan import Taps, TracedPlan
from distwatch.training.taps.steps import Steps
from distwatch.training.taps.subject import Subject, of_loop, of_model
from distwatch.training.taps.tracing import trace_step
from distwatch.training.taps.train_function import WatchedFunction

__all__ = [
    "Steps",
    "Subject",
    "Taps",
    "TracedPlan",
    "WatchedFunction",
    "current_number",
    "list_of",
    "moved_to_front",
    "of_loop",
    "of_model",
    "trace_step",
]
