"""Opt-in fixes for faults in Keras, under the name that programs use.

Raises on import:
    BackendError: TensorFlow or Keras is not installed.
"""

from distwatch.errors import training_imports

with training_imports("distwatch.compat"):
    from distwatch.training.multiworker import multiworker_fit

__all__ = ["multiworker_fit"]
