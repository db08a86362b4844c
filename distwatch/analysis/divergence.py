"""How far the replicas lie apart, since when, and by what."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from distwatch.analysis.signal_view import SignalView
from distwatch.findings import Digest
from distwatch.findings.broken import NEVER
from distwatch.findings.copies import is_copied
from distwatch.findings.origins import GIVEN, kind_of
from distwatch.findings.replicas import SKEW, TO_SIGMA, WIDER
from distwatch.records import Floats
from distwatch.store.reader import StoredRun

if TYPE_CHECKING:
    import xarray as xr

#: A change of level is certain if its cumulative sum is this many times the noise: of
#: independent values it stays below 4.2 in 999 of 1,000 series.
_CERTAIN = 6.0

#: Of fewer steps, or of what tells no more than so many independent ones, nothing is said.
_FEWEST, _INDEPENDENT = 32, 16

#: How many steps a level lasts at least.
_A_FEW = 8

#: By what a replica lies apart.
DATA, WEIGHTS, COMPUTING, UNKNOWN = "data", "weights", "computing", "unknown"


class _Apart(NamedTuple):
    """Of one signal, each of shape (replica,) but for the first two."""

    between: float
    within: float
    score: Floats
    left: Floats
    offset: Floats


def divergence_of(stored: StoredRun, digest: Digest) -> xr.Dataset:
    """See `distwatch.Run.divergence`."""
    import xarray as xr

    replicas = list(stored.info.replicas)
    compared = [
        signal.name
        for signal in stored.info.signals
        if not is_copied(signal) and kind_of(signal.name) not in _ONCE
    ]
    found = [_apart(SignalView(stored, name)) for name in compared]
    shape = (len(compared), len(replicas))
    sizes: dict[str, tuple[int, ...]] = {"between": shape[:1], "within": shape[:1]}
    sizes |= {"score": shape, "left": shape, "offset": shape}
    values = {
        key: np.reshape([getattr(each, key) for each in found], size)
        for key, size in sizes.items()
    }
    dims = ("signal", "replica")
    variables = {key: (dims[: each.ndim], each) for key, each in values.items()}
    given = np.array([kind_of(name) in GIVEN for name in compared], bool)
    apart = np.isfinite(values["left"])
    cause = np.array(
        [_by_copies(digest, i) or _by_data(apart[:, i], given) for i in range(len(replicas))],
        object,
    )
    coords = {"signal": compared, "replica": replicas}
    return xr.Dataset({**variables, "cause": ("replica", cause)}, coords)


#: What the first replica has for all.
_ONCE = ("gradient", "gradient_clipped", "update", "weight")


def _apart(signal: SignalView) -> _Apart:
    rows = signal.per_replica
    mean, std = rows("mean").values, rows("std").values
    step, epoch = rows("mean")["step"].values, rows("mean")["epoch"].values
    within = _of_replicas(np.nanmean, std**2)
    # What is one number, as the loss is, is measured by how it varies from step to step.
    one_number = not (within > 0).any()
    unit = np.full(len(within), _variance(mean)) if one_number else within
    scale = np.sqrt(np.where(unit > 0, unit, np.nan))[:, None]
    shifted = _from_others(mean) / scale
    wider = _from_others(np.log(np.where(std > 0, std, np.nan)))
    longest = int(np.bincount(epoch - epoch.min()).max()) if len(epoch) else 0
    by_mean = [_leaving(x, step, longest, SKEW) for x in shifted.T]
    by_width = [_leaving(x, step, longest, float(np.log(WIDER))) for x in wider.T]
    left = np.fmin([at for at, _ in by_mean], [at for at, _ in by_width])
    return _Apart(
        between=_mean(_of_replicas(np.nanvar, mean)),
        within=_mean(within),
        score=_scores(np.array([_mean(x) for x in shifted.T])),
        left=left,
        offset=np.array([by for _, by in by_mean]),
    )


def _from_others(values: Floats) -> Floats:
    """Each replica minus the median of the others: shape (step, replica)."""
    found = np.full_like(values, np.nan)
    for i in range(values.shape[1] * (values.shape[1] > 1)):
        others = np.delete(values, i, axis=1)
        found[:, i] = values[:, i] - _of_replicas(np.nanmedian, others)
    return found


def _of_replicas(function: Callable[..., Floats], values: Floats) -> Floats:
    """At each step of the finite values: (step, replica) -> (step,); NaN if there are none."""
    finite = np.where(np.isfinite(values), values, np.nan)
    known = ~np.isnan(finite).all(axis=1)
    found = np.full(len(values), np.nan)
    found[known] = function(finite[known], axis=1)
    return found


def _scores(offsets: Floats) -> Floats:
    """Modified z-scores over replicas; NaN of fewer than three."""
    if np.isfinite(offsets).sum() < 3:
        return np.full(len(offsets), np.nan)
    off = offsets - np.nanmedian(offsets)
    usual = np.nanmedian(np.abs(off))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(off == 0, 0.0, TO_SIGMA * off / usual)


def _leaving(offsets: Floats, step: Floats, longest: int, least: float) -> tuple[float, float]:
    """From which step on a replica lies apart, and by how much then; NaN if it does not.

    The change point of the cumulative sum of deviations (E. S. Page, "Continuous inspection
    schemes", 1954); without one, whether it lay apart from the
    beginning, of which only the different batches of one epoch are evidence.
    """
    known = np.flatnonzero(np.isfinite(offsets))
    if len(known) < _FEWEST:
        return np.nan, np.nan
    values = offsets[known]
    at, size = _largest_cusum(values)
    before, after = float(values[:at].mean()), float(values[at:].mean())
    rest = np.concatenate([values[:at] - before, values[at:] - after])
    noise, independent = _noise(rest)
    if independent < _INDEPENDENT:
        return np.nan, np.nan
    changed = size > _CERTAIN * noise and abs(after - before) > least
    if changed and abs(after) > max(least, abs(before)) and abs(before) <= least:
        return float(step[known[at]]), after
    whole = float(values.mean())
    different = max(min(len(values), longest), 1)
    if abs(whole) > max(least, _CERTAIN * noise / np.sqrt(different)):
        return float(step[known[0]]), whole
    return np.nan, np.nan


def _noise(rest: Floats) -> tuple[float, float]:
    """The deviation of independent values whose mean is as uncertain, and how many they are.

    Neighbours that are alike, as in an autoregressive process of first order, tell less.
    """
    n, variance = len(rest), float((rest**2).mean())
    if variance == 0:
        return 0.0, n
    alike = float((rest[1:] * rest[:-1]).mean()) / variance
    # It is estimated too low, the more so from few (M. G. Kendall, 1954).
    alike = min(max(alike + (1 + 4 * alike) / n, 0.0), 1 - 2 / n)
    more = (1 + alike) / (1 - alike)
    return float(np.sqrt(variance * more)), n / more


def _largest_cusum(values: Floats) -> tuple[int, float]:
    """Where the level of a series changes most, and by how much of the noise of one value."""
    n = len(values)
    # A few values, such as those of a smaller last batch, are no other level.
    k = np.arange(_A_FEW, n - _A_FEW + 1)
    sums = np.cumsum(values - values.mean())[k - 1]
    sizes = np.abs(sums) / np.sqrt(k * (n - k) / n)
    at = int(np.argmax(sizes))
    return int(k[at]), float(sizes[at])


def _by_copies(digest: Digest, replica: int) -> str:
    """Whether a replica, by its position, holds or computes something else; "" if not."""
    for of_canary, cause in ((False, WEIGHTS), (True, COMPUTING)):
        for copies in digest.copies.values():
            differ = np.flatnonzero(copies.first < NEVER)
            # Without a majority it may be any of them.
            odd = any(not copies.odd[i] or replica in copies.odd[i] for i in differ)
            if copies.table.of_canary == of_canary and odd:
                return cause
    return ""


def _by_data(apart: npt.NDArray[np.bool_], given: npt.NDArray[np.bool_]) -> str:
    """By what else it lies apart; "" if it does not. Shapes: (signal,) both."""
    if not apart.any():
        return ""
    return DATA if apart[given].any() else UNKNOWN


def _variance(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.var()) if len(known) else np.nan


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan
