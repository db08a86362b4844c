"""For tests: many replicas on one machine, the laws of statistics, and made-up runs.

``virtual_devices`` and ``mirrored`` split this machine's CPU for scripts; under
pytest, ``--replicas 4`` does so before TensorFlow starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distwatch.replicas import mirrored, virtual_devices

__all__ = ["mirrored", "virtual_devices"]


def __getattr__(name: str) -> Any:
    # Lazy, since the pytest plugin lives here and must not load TensorFlow.
    if name not in __all__:
        raise AttributeError(f"module 'distwatch.testing' has no attribute {name!r}")
    from distwatch import replicas

    return getattr(replicas, name)
