"""Telling a Watch that its fit begins, and that it has ended, however it ended.

Keras tells callbacks that training ended, but not that it was interrupted: an
error in a batch, in another callback or in validation, or Ctrl-C, leaves
``Model.fit`` without a word to them. Nor does it ask them before it looks at the
data, where what it cannot do ends in a stack trace; nor does it say for which of its
methods it sets them up. So as long as any Watch lives, what ``Model.fit``, ``evaluate`` and
``predict`` run is wrapped; with the last Watch the wrappers go.

In ``model.fit(..., callbacks=[Watch(...)])`` Python looks ``model.fit`` up before it makes the
Watch, so a wrapper in the class would come too late. Keras keeps the function itself in a cell
of the filter that it puts around it for its tracebacks; the wrapper goes in there.

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

    def on_called(self, method: str, model: Any, arguments: dict[str, Any]) -> None:
        """A method that has it among its callbacks was called.

        It may refuse by raising, and change the arguments.
        """

    def on_raised(self, model: Any, error: BaseException) -> None:
        """That method raised."""


_METHODS = ("fit", "evaluate", "predict")

_lock = threading.RLock()
#: Keras's own functions, while wrappers are in their places.
_kept: dict[str, Any] = {}
_listeners: dict[int, weakref.ref[Any]] = {}
#: Those that a call is going on for: the evaluation inside a fit is a part of the fit.
_engaged: set[int] = set()


def tell_of_fit(listener: FitListener) -> None:
    """Tell ``listener`` of calls that have it among their callbacks."""
    with _lock:
        _listeners[id(listener)] = weakref.ref(listener)
        weakref.finalize(listener, _forget, id(listener))
        if not _kept:
            for method in _METHODS:
                cell = cell_of(method)
                _kept[method] = cell.cell_contents
                cell.cell_contents = _covered(cell.cell_contents, method)


def cell_of(method: str) -> Any:
    """Where Keras keeps what runs when a method is called."""
    function = getattr(keras.Model, method)
    place = function.__code__.co_freevars.index("fn")
    return function.__closure__[place]


def _covered(original: Any, method: str) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def call_and_tell(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return original(self, *args, **kwargs)  # which says it in its own words
        listeners = _engage(bound.arguments.get("callbacks"))
        try:
            for listener in listeners:
                listener.on_called(method, self, bound.arguments)
            try:
                return original(*bound.args, **bound.kwargs)
            except BaseException as error:
                for listener in listeners:
                    listener.on_raised(self, error)
                raise
        finally:
            _engaged.difference_update(map(id, listeners))

    return call_and_tell


def _engage(callbacks: Any) -> list[Any]:
    """The listeners among the callbacks that no call is going on for, from now on taken."""
    listed = keras.tree.flatten(getattr(callbacks, "callbacks", callbacks))
    with _lock:
        living = {id(each()) for each in _listeners.values()} - {id(None)}
        engaged = [each for each in listed if id(each) in living - _engaged]
        _engaged.update(map(id, engaged))
    return engaged


def moved_to_front(listener: Any, callbacks: Any) -> Any:
    """The callbacks of a call, ``listener`` before all others: its logs are for them."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks = moved_to_front(listener, callbacks.callbacks)
        return callbacks
    others = [each for each in keras.tree.flatten(callbacks) if each is not listener]
    return [listener, *others]


def _forget(listener: int) -> None:
    with _lock:
        _listeners.pop(listener, None)
        if _listeners:
            return
        for method, original in _kept.items():
            cell_of(method).cell_contents = original
        _kept.clear()
