"""What changed most, and what jumped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from distwatch.findings.findings import NOTE, WARNING, Finding
from distwatch.findings.origins import kind_of, origin
from distwatch.findings.rules import rule
from distwatch.findings.tables import Recorded, TableDigest
from distwatch.records import Floats
from distwatch.text import counted

#: A step is a spike where it is this many times its typical size around that step, and more
#: than this many times the logarithm of the number of steps: the largest of n values with
#: as heavy a tail as an exponential distribution is ln(n) times their mean by chance.
_SPIKE = 10.0
_TAIL = 2.0

#: The typical size around a step is the median over this many stretches on either side.
_AROUND = 4

#: In the first tenth of a run sizes fall in any case: nothing there is called a spike.
_BEGINNING = 0.1

#: Less than this part of what a signal was at its largest is no jump: after a training has
#: converged, all that is left is noise, which is many times as large at one step as at others.
_MATTERS = 0.01

#: A change is worth naming relative to its own median from this many times on.
_UNUSUAL = 2.0


class Peak(NamedTuple):
    """The largest mean absolute delta of a signal."""

    signal: str
    #: "change", or "value" where the delta is the value itself.
    what: str
    value: float
    step: int
    #: Its median over all steps, or around this one.
    usual: float

    @property
    def times(self) -> float:
        """How many times its usual size it is; 0 where that is 0."""
        return self.value / self.usual if self.usual > 0 else 0.0

    def size(self) -> str:
        """Its size, also relative to its median."""
        if not self.usual > 0:
            return f"{self.value:.4g} (its median is 0)"
        return f"{self.value:.4g}, {self.times:.2g} times its median"


@rule("LargestChange", unusual=_UNUSUAL)
def largest_change(run: Recorded) -> list[Finding]:
    """Which signal changes most, and which one most relative to its own median.

    Signals have different scales, so the largest of them says little about the others.
    """
    # Changes if there are any; values are another thing.
    main = [table for table in run.tables if table.of_changes] or run.tables
    of_changes = any(table.of_changes for table in main)
    peaks = [
        peak
        for table in main
        for peak in _peaks(table)
        if (not of_changes or peak.what == "change") and kind_of(peak.signal) != _SCHEDULED
    ]
    if not peaks:
        return []
    most = max(peaks, key=lambda peak: peak.value)
    odd = max(peaks, key=lambda peak: peak.times)
    text = (
        f"The largest mean absolute {most.what} is {most.size()}, in {most.signal} at "
        f"step {most.step}."
    )
    if odd.times > max(_UNUSUAL, most.times):
        text += (
            f" Relative to its own median, the largest is that of {odd.signal} at step "
            f"{odd.step}: {odd.size()}."
        )
    return [Finding("largest_change", NOTE, text, most.signal, most.step)]


#: What is seen at every tenth step only is not known around a step; a schedule may jump, and of
#: a number that the step names nobody knows whether it may.
_SCHEDULED = "learning_rate"
_MAY_JUMP = ("data/", _SCHEDULED, "log/")


@rule(
    "Spike",
    "the largest of n values with an exponential tail is ln(n) times their mean by chance",
    times=_SPIKE,
    times_log_steps=_TAIL,
    part_of_largest=_MATTERS,
)
def spikes(run: Recorded) -> list[Finding]:
    """The largest of the sudden jumps, and which other signals jumped.

    Of the signals that jump at that step the one that is computed first is named.
    """
    found = [
        spike
        for table in run.tables
        for spike in _spikes(table)
        if not spike.signal.startswith(_MAY_JUMP)
    ]
    if not found:
        return []
    origins = {signal.name: origin(signal) for signal in run.info.signals}
    largest = max(found, key=lambda each: (each.times, each.signal))
    found.sort(key=lambda each: (each.step != largest.step, origins[each.signal], -each.times))
    first, others = found[0], tuple(spike.signal for spike in found[1:])
    brief = (
        f"{first.signal} jumps at step {first.step}: its mean absolute {first.what} is "
        f"{first.value:.4g}, {first.times:.3g} times its typical size around that step"
    )
    if others:
        brief += f"; {counted(len(others), 'more signal')} jumped, at that step or at others"
    # A single hard batch has a large loss, and nothing is wrong with the training.
    severity = NOTE if kind_of(first.signal) == "loss" and not others else WARNING
    text = f"{brief}. Inspect the batch of that step, or clip gradients."
    spike = Finding("spike", severity, text, first.signal, first.step, None, others, brief)
    return [replace(spike, value=first.times, threshold=_SPIKE)]


def _spikes(table: TableDigest) -> Iterator[Peak]:
    """The largest spike of each signal that has one; usual is its size around that step."""
    line = table.timeline
    peak = line.peak.copy()
    peak[: -(-int(line.rows * _BEGINNING) // line.width)] = -np.inf
    # Where a signal is zero at most steps, another step is no jump for that.
    usual = np.fmax(_typical_around(table), table.usual_but_zero())
    at_least = max(_SPIKE, _TAIL * np.log(max(line.rows, 1)))
    matters = peak >= _floor(table) * _largest_stretch(table)
    comparable = (usual > 0) & np.isfinite(usual) & (peak > 0) & matters
    times = np.divide(peak, usual, where=comparable, out=np.zeros(peak.shape))
    for signal in np.flatnonzero(times.max(axis=0, initial=0.0) > at_least):
        at = int(np.argmax(times[:, signal]))
        yield _peak(table, int(signal), at, usual[at, signal])


def _floor(table: TableDigest) -> Floats:
    """The part of its largest stretch that a peak of each signal must reach: (signal,).

    The loss of a batch that has one wrong answer is many times that of one that has none, so a
    loss that is smaller than what it was on average in some stretch is no jump.
    """
    of_loss = [kind_of(name) == "loss" for name in table.table.names]
    return np.where(of_loss, 1.0, _MATTERS)


def _largest_stretch(table: TableDigest) -> Floats:
    """The mean of the stretch, without its own peak, where it is largest: shape (signal,)."""
    return np.asarray(np.nan_to_num(_without_peaks(table)).max(axis=0))


def _without_peaks(table: TableDigest) -> Floats:
    """The mean of each stretch without its peak; NaN where nothing is left."""
    line = table.timeline
    change, steps = line.sums["change"], line.sums["changes"]
    rest = np.where(steps > 1, change - line.peak, np.where(steps == 1, change, np.nan))
    return np.asarray(rest / np.maximum(steps - (steps > 1), 1))


def _typical_around(table: TableDigest) -> Floats:
    """The median of the nearby stretches' means, each without its own peak.

    Shape (stretch, signal); NaN where too few stretches are near.
    """
    mean = _without_peaks(table)
    padded = np.pad(mean, ((_AROUND, _AROUND), (0, 0)), constant_values=np.nan)
    near = np.lib.stride_tricks.sliding_window_view(padded, 2 * _AROUND + 1, axis=0)
    enough = np.isfinite(near).sum(axis=-1) > _AROUND
    return np.where(
        enough, np.nanmedian(np.where(enough[..., None], near, 0.0), axis=-1), np.inf
    )


def _peaks(table: TableDigest) -> Iterator[Peak]:
    usual = table.usual()
    for signal in np.flatnonzero(np.isfinite(usual)):
        at = int(np.argmax(table.timeline.peak[:, signal]))
        yield _peak(table, int(signal), at, usual[signal])


def _peak(table: TableDigest, signal: int, stretch: int, usual: float) -> Peak:
    of_value = table.table.signals[signal].reference == "none"
    return Peak(
        table.table.names[signal],
        "value" if of_value else "change",
        float(table.timeline.peak[stretch, signal]),
        int(table.timeline.peak_step[stretch, signal]),
        float(usual),
    )
