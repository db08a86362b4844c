"""For tests: many replicas on one machine, the laws of statistics, and made-up runs.

``virtual_devices`` and ``mirrored`` split this machine's CPU for scripts; under
pytest, ``--replicas 4`` does so before TensorFlow starts, and the fixtures
``replicas`` and ``strategy`` say how many there are and train on all of them
(``distwatch.testing.plugin``). These need TensorFlow and Keras, and raise
`distwatch.errors.BackendError` without them.

``distwatch.testing.laws`` holds the laws of a mergeable summary against any
statistic, and ``distwatch.testing.fake`` writes made-up runs whose every number is
known; neither needs TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distwatch.training.strategies import mirrored
    from distwatch.training.virtual_devices import virtual_devices

__all__ = ["mirrored", "virtual_devices"]


def __getattr__(name: str) -> Any:
    # Lazy, since the pytest plugin lives here and must not load TensorFlow.
    if name not in __all__:
        raise AttributeError(f"module 'distwatch.testing' has no attribute {name!r}")
    from distwatch.errors import training_imports

    with training_imports(f"distwatch.testing.{name}"):
        from distwatch.training import strategies

    return getattr(strategies, name)
