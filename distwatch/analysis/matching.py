"""The signals of two runs: which both have, and which can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distwatch.signals import Signal


@dataclass(frozen=True)
class Matched:
    """The signals of two runs."""

    first: Sequence[Signal]
    second: Sequence[Signal]

    @property
    def common(self) -> list[Signal]:
        """The signals of both, as the first describes them, in its order."""
        names = {signal.name for signal in self.second}
        return [signal for signal in self.first if signal.name in names]

    @property
    def only(self) -> tuple[list[str], list[str]]:
        """The names of the signals that only the first has, and that only the second has."""
        common = {signal.name for signal in self.common}
        first, second = (
            [signal.name for signal in run if signal.name not in common]
            for run in (self.first, self.second)
        )
        return first, second

    @property
    def otherwise_measured(self) -> list[str]:
        """Common signals whose references, or places in the step, differ between the runs."""
        first, second = (
            {s.name: (s.reference, s.after) for s in run} for run in (self.first, self.second)
        )
        names = [signal.name for signal in self.common]
        return [name for name in names if first[name] != second[name]]
