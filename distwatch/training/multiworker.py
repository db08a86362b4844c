"""Opt-in fixes of faults in Keras's trainer, for the versions that they were tried on."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import keras

from distwatch.errors import UnsupportedTrainingError
from distwatch.training.strategies import facts_of, local_part

#: Of the source of the two faulty functions, which is the same from Keras 3.12.0 to
#: 3.15.1. Where it is another, the faults may be gone, or be other ones.
_KNOWN_SOURCE = "37e34fef0c24cc5dfe500dd5dc6f1d72e346b0f6b24de294cb6614eae896783f"


class _Fixes:
    """What is replaced while any `multiworker_fit` block is open."""

    def __init__(self) -> None:
        self.open = 0
        self._lock = threading.Lock()
        self._undo = contextlib.ExitStack()

    @contextlib.contextmanager
    def on(self, replacements: dict[tuple[Any, str], Any]) -> Iterator[None]:
        """Have them in place; the last block that is left takes them out."""
        with self._lock:
            self.open += 1
            if self.open == 1:
                for (owner, name), fixed in replacements.items():
                    self._undo.callback(setattr, owner, name, vars(owner)[name])
                    setattr(owner, name, fixed)
        try:
            yield
        finally:
            with self._lock:
                self.open -= 1
                if not self.open:
                    self._undo.close()


_fixes = _Fixes()


@contextlib.contextmanager
def multiworker_fit() -> Iterator[None]:
    """Let ``fit``, ``evaluate`` and ``predict`` work on several workers.

    Keras's own trainer fails under ``MultiWorkerMirroredStrategy`` with more than one
    worker (https://github.com/keras-team/keras/issues/20585), for two reasons. Both are
    fixed for the length of the ``with`` block, in this process, and restored after it:

    - before the first step it builds the model on a batch that it averages over the
      workers, as if their rows were one and the same; here each worker builds on the
      rows of its own first replica;
    - it averages metrics, which are single numbers, along axis 0, which they do not
      have; here they are averaged as they are.

    >>> with distwatch.training.multiworker.multiworker_fit():          # doctest: +SKIP
    ...     model.fit(dataset, callbacks=[distwatch.Watch("run.zarr")])

    Every worker has to open the block. Trainings of other strategies are not touched.

    Raises:
        UnsupportedTrainingError: this version of Keras was not tried with the fixes.
    """
    module = importlib.import_module("keras.src.backend.tensorflow.trainer")
    build, reduce = module.TensorFlowTrainer._maybe_symbolic_build, module.reduce_per_replica
    if not multiworker_fit_is_fixed():
        _check_known(build, reduce)
    replacements = {
        (module.TensorFlowTrainer, "_maybe_symbolic_build"): _builds_on_own_rows(build),
        (module, "reduce_per_replica"): _averages_numbers(reduce),
    }
    with _fixes.on(replacements):
        yield


def multiworker_fit_is_fixed() -> bool:
    """Whether a `multiworker_fit` block is open."""
    return _fixes.open > 0


def _builds_on_own_rows(original: Any) -> Any:
    def _maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
        strategy = self.distribute_strategy
        if iterator is None or facts_of(strategy).workers == 1:
            original(self, iterator=iterator, data_batch=data_batch)
            return
        _, _, batches = next(iter(iterator))
        own = keras.tree.map_structure(lambda x: local_part(strategy, x), next(batches))
        original(self, data_batch=own)

    return _maybe_symbolic_build


def _averages_numbers(original: Any) -> Any:
    def reduce_per_replica(values: Any, strategy: Any, reduction: str) -> Any:
        if facts_of(strategy).workers == 1 or reduction not in ("auto", "mean"):
            return original(values, strategy, reduction)
        return keras.tree.map_structure(
            lambda value: strategy.reduce("MEAN", value, axis=None), values
        )

    return reduce_per_replica


def _check_known(*functions: Any) -> None:
    source = "".join(inspect.getsource(function) for function in functions)
    if hashlib.sha256(source.encode()).hexdigest() != _KNOWN_SOURCE:
        raise UnsupportedTrainingError(
            f"compat.multiworker_fit knows the trainer of Keras 3.12 to 3.15, and that of "
            f"Keras {keras.__version__} is another one: try fit without it, or write a loop "
            "of your own with distwatch.watching."
        )
