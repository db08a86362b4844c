"""All rules, in the order in which findings of equal severity are listed.

A new one is a function that takes what is `Recorded` and returns its findings, listed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from distwatch.findings.changes import largest_change, spikes
from distwatch.findings.extent import extent, losses, sound
from distwatch.findings.faults import dead, no_gradient, not_finite, update_ratios
from distwatch.findings.findings import Finding
from distwatch.findings.replicas import apart, odd_replicas, same_inputs
from distwatch.findings.tables import Recorded

Rule = Callable[[Recorded], Iterable[Finding]]

#: Those that hold for a run without rows, too.
ALWAYS: tuple[Rule, ...] = (extent, losses, sound)

RULES: tuple[Rule, ...] = (
    extent,
    not_finite,
    losses,
    same_inputs,
    odd_replicas,
    dead,
    no_gradient,
    update_ratios,
    spikes,
    largest_change,
    apart,
    sound,
)
