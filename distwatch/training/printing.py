"""Printing what stands out in a run, which ends no training."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from distwatch.errors import DistwatchWarning


def print_sentences(sentences: Callable[[], list[str]]) -> None:
    """Print what stands out in a run; that it cannot be made or printed ends no training."""
    try:
        said = "\n".join(sentences())
    except Exception as error:
        warnings.warn(
            f"what stands out in this run cannot be said ({type(error).__name__}: {error}); "
            "what was recorded is not touched by that.",
            DistwatchWarning,
            stacklevel=2,
        )
        return
    try:
        print(said)
    except UnicodeError:
        print(said.encode("ascii", "replace").decode())
    except (OSError, ValueError, AttributeError):
        return  # stdout is closed, or is what takes no text: there is nobody to say it to
