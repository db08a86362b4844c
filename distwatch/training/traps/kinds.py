"""What a trap is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trap:
    """A known fault that a model runs into under a strategy.

    ``str(trap)`` is one sentence or two: what happens, and what to do about it.
    """

    #: A short name, e.g. ``batch_norm``.
    name: str
    #: What happens.
    what: str
    #: How it is known: what was measured, and with which versions.
    evidence: str
    #: What to do.
    remedy: str
    #: Whether the training fails at it, so that it is refused before the first step.
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}."
