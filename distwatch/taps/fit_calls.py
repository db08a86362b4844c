"""Telling a Watch that its fit begins, and that it has ended, however it ended.

Keras tells callbacks that training ended, but not that it was interrupted: an
error in a batch, in another callback or in validation, or Ctrl-C, leaves
``Model.fit`` without a word to them. Nor does it ask them before it looks at the
data, where what it cannot do ends in a stack trace. So as long as any Watch lives,
``Model.fit`` is wrapped; with the last Watch the wrapper goes.

Rejected: a weak reference to Keras's callback list (a held traceback keeps it
alive), and covering the train function alone (errors in callbacks and in
validation do not pass through it).
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from typing import Any, Protocol

import keras


class FitListener(Protocol):
    """What a Watch offers to be told."""

    def on_fit_called(self, model: Any, arguments: dict[str, Any]) -> None:
        """A fit that has it among its callbacks was called; it may refuse by raising."""

    def on_fit_raised(self, model: Any, error: BaseException) -> None:
        """That fit raised."""


_lock = threading.RLock()
_listeners: dict[int, weakref.ref[Any]] = {}


def tell_of_fit(listener: FitListener) -> None:
    """Tell ``listener`` of fits that have it among their callbacks."""
    with _lock:
        _listeners[id(listener)] = weakref.ref(listener)
        weakref.finalize(listener, _forget, id(listener))
        if "fit" not in keras.Model.__dict__:
            keras.Model.fit = _covered(keras.Model.fit)


def _covered(fit: Any) -> Any:
    signature = inspect.signature(fit)

    @functools.wraps(fit)
    def fit_and_tell(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(self, *args, **kwargs).arguments
        listeners = _among(arguments.get("callbacks"))
        for listener in listeners:
            listener.on_fit_called(self, arguments)
        try:
            return fit(self, *args, **kwargs)
        except BaseException as error:
            for listener in listeners:
                listener.on_fit_raised(self, error)
            raise

    fit_and_tell.__distwatch__ = True  # type: ignore[attr-defined]
    return fit_and_tell


def _among(callbacks: Any) -> list[Any]:
    listed = keras.tree.flatten(getattr(callbacks, "callbacks", callbacks))
    living = [reference() for reference in list(_listeners.values())]
    return [each for each in listed if any(each is listener for listener in living)]


def _forget(listener: int) -> None:
    with _lock:
        _listeners.pop(listener, None)
        ours = hasattr(keras.Model.__dict__.get("fit"), "__distwatch__")
        if ours and not _listeners:
            del keras.Model.fit
