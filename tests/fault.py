"""What a fault is that ``make faults`` plants; see `planted_faults`.

It is a textual replacement, and its text has to be found exactly once in the room that it
names.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One change that breaks a law.

    Args:
        what: the fault, in words.
        room: the folder or file of the package, below ``distwatch``, that holds ``old``.
        old: text that is found there exactly once.
        new: what takes its place.
        tests: files or ids of tests, below ``tests``, one of which has to fail. All of them
            belong to ``make test``.
    """

    what: str
    room: str
    old: str
    new: str
    tests: tuple[str, ...]
