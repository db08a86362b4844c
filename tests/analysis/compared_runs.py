"""Values of two runs that are compared: the same ones, or almost."""

import numpy as np
from chosen_runs import ordinary

STEPS = 90


def of_format(values, digits):
    """The same values with so many significant binary digits."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.round(fraction * 2.0**digits), exponent - digits)


def values(replicas=2, signals=3, steps=STEPS, seed=0):
    """Deltas as a model of float32 has them: shape (step, replica, signal, 6)."""
    return of_format(ordinary(steps, replicas, signals, seed), 24)


def rounded_otherwise(deltas, sizes, seed=1):
    """The same values, each step of them changed by noise of a relative size."""
    noise = np.random.default_rng(seed).normal(size=deltas.shape)
    return of_format(deltas * (1 + np.reshape(sizes, (-1, 1, 1, 1)) * noise), 24)
