"""What rows have to hold, in NumPy: written from FORMAT.md and the guides, not from kernels."""

from __future__ import annotations

import re

import numpy as np


def is_due(schedule: str, step: int) -> bool:
    """Whether a step is one of ``every(k)``, ``first(n)`` or ``at(...)``."""
    name, numbers = schedule.rstrip(")").split("(")
    numbers = [int(each) for each in numbers.split(",")]
    return {
        "every": lambda: step % numbers[0] == 0,
        "first": lambda: step < numbers[0],
        "at": lambda: step in numbers,
    }[name]()


def comparable(x):
    """Half precision as float32, whole numbers as float64."""
    if x.dtype.kind in "iub":
        return x.astype(np.float64)
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)


def deltas(reference: str, signals: list) -> list:
    """The delta of each step of one replica; None where nothing was there to compare with.

    Args:
        reference: such as "previous" or "ema(0.9)".
        signals: what the signal was at each step, from the first on; None where it was not.
    """
    signals = [None if x is None else comparable(np.atleast_1d(x)) for x in signals]
    with np.errstate(all="ignore"):
        if reference == "none":
            return signals
        if reference == "neighbour":
            return [None if x is None else x[:-1] - x[1:] for x in signals]
        if reference == "previous":
            return list(map(_leading, signals, [None, *signals[:-1]]))
        if reference == "batch_mean":
            means = [_mean(x) for x in signals]
            return list(map(_leading, means, [None, *means[:-1]]))
        if reference == "first":
            first = next((i for i, x in enumerate(signals) if x is not None and len(x)), 0)
            return [_leading(x, signals[first] if i > first else None)
                    for i, x in enumerate(signals)]  # fmt: skip
        return _from_average(float(re.fullmatch(r"ema\((.+)\)", reference)[1]), signals)


def _leading(now, before):
    """The leading rows that both have; sequences of another length have none."""
    if now is None or before is None or now.shape[1:] != before.shape[1:]:
        return None
    rows = min(len(now), len(before))
    return now[:rows] - before[:rows]


def _mean(x):
    if x is None or not len(x):
        return None
    return x.mean(axis=0, dtype=np.float64, keepdims=True).astype(x.dtype)


def _from_average(decay, signals):
    average, found = None, []
    for x in signals:
        found.append(_leading(x, average))
        if x is not None:
            average = _averaged(decay, average, x)
    return found


def _averaged(decay, average, x):
    """Row by row; rows of one of both alone stay. NaN and Inf are left out."""
    if average is None or average.shape[1:] != x.shape[1:]:
        return x
    longer = x if len(x) > len(average) else average
    result, rows = longer.copy(), min(len(x), len(average))
    now, before = x[:rows], average[:rows]
    mixed = (decay * before.astype(np.float64) + (1 - decay) * now).astype(x.dtype)
    mixed = np.where(np.isfinite(before), mixed, now)
    result[:rows] = np.where(np.isfinite(now), mixed, before)
    return result


def moments(values) -> dict[str, float]:
    """The fields that every row has, of some elements."""
    values = np.asarray(values, np.float64).ravel()
    finite = values[np.isfinite(values)]
    mean = finite.mean() if finite.size else 0.0
    return {
        "count": values.size,
        "zeros": np.count_nonzero(values == 0),
        "nans": np.count_nonzero(np.isnan(values)),
        "infs": np.count_nonzero(np.isinf(values)),
        "n": finite.size,
        "mean": mean,
        "m2": ((finite - mean) ** 2).sum(),
        "min": finite.min(initial=np.inf),
        "max": finite.max(initial=-np.inf),
        "l1": np.abs(finite).sum(),
        "l2sq": (finite**2).sum(),
    }


def special_values(signals: list) -> dict[str, float]:
    """NaN and Inf of the signal itself, on all replicas that are given."""
    parts = [np.asarray(x, np.float64) for x in signals if x is not None]
    return {
        "signal_nan_count": sum(np.count_nonzero(np.isnan(x)) for x in parts),
        "signal_inf_count": sum(np.count_nonzero(np.isinf(x)) for x in parts),
    }


def units(signals: list) -> dict[str, float]:
    """Units that are zero, and constant, for the whole batch of each replica."""
    number, zero, constant = 0.0, np.inf, np.inf
    for x in signals:
        if x is None or x.size <= x.shape[-1]:
            continue  # a single value a unit tells nothing
        places = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
        same = (places == places[:1]).all(axis=0)
        number = max(number, x.shape[-1])
        constant = min(constant, np.count_nonzero(same))
        zero = min(zero, np.count_nonzero(same & (places[0] == 0)))
    return {"units": number, "zero_units": zero, "constant_units": constant}


def histogram(values, accuracy=0.05, smallest=1e-12, largest=1e9):
    """How many elements are in each bucket."""
    values = np.asarray(values, np.float64).ravel()
    values = values[~np.isnan(values)]
    m = next(m for m in range(30) if 1 / (2 ** (m + 1) + 1) <= accuracy)
    octaves = 2.0 ** np.arange(np.floor(np.log2(smallest)), np.ceil(np.log2(largest)))
    edges = np.outer(octaves, 1 + np.arange(2**m) / 2**m).ravel()
    edges = np.append(edges, 2.0 ** np.ceil(np.log2(largest)))
    # The place of an absolute value: below the first octave, a bucket, beyond, infinite.
    place = np.searchsorted(edges, np.abs(values), side="right") + np.isinf(values)
    middle = len(edges) + 1
    return np.bincount(middle + np.where(values < 0, -place, place), minlength=2 * middle + 1)
