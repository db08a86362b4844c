"""Opt-in fixes for faults in Keras, under the name that programs use."""

from distwatch.training.multiworker import multiworker_fit

__all__ = ["multiworker_fit"]
