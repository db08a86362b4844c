"""The names of phases: those that every run may have, and those of validation sets.

A validation set that a fit evaluates under a name of its own (`Watch.validate`) is a phase with
that name. Names are parts of folders' names on any system, so they are strict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from distwatch.records import PHASES, TEST

#: What Keras's own metrics begin with, and what would be taken for the usual validation.
_RESERVED = {*PHASES, "val", "validation", "evaluate", "fit"}

_NAME = r"[a-z][a-z0-9_]{0,39}"

#: What the phases' names in files look like, see `in_files`.
IN_FILES = rf"{'|'.join(PHASES)}|{TEST}-{_NAME}"


def is_validation(name: object) -> bool:
    """Whether a validation set may have this name."""
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        return False
    # Keras calls metrics of the usual validation so.
    return name not in _RESERVED and not name.startswith("val_")


def is_phase(name: object) -> bool:
    """Whether a phase of a run may have this name."""
    return name in PHASES or is_validation(name)


def checked(name: str) -> str:
    """The name of a phase, as pydantic asks for it.

    Raises:
        ValueError: there can be no such phase.
    """
    if not is_phase(name):
        raise ValueError(f"expected one of {', '.join(PHASES)}, or a validation set's name")
    return name


def in_order(phases: Iterable[str]) -> list[str]:
    """Each phase once: the usual ones first, then the validation sets by their names."""
    found = set(phases)
    usual = [phase for phase in PHASES if phase in found]
    return usual + sorted(found.difference(PHASES))


def in_files(phase: str) -> str:
    """A phase as it is written in names of files: ``test-hard`` for the validation set hard."""
    return phase if phase in PHASES else f"{TEST}-{phase}"
