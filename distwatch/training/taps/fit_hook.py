"""Calling a Watch when its fit starts, and when it ends by an error.

Keras tells callbacks that training ended, but not that it was interrupted: an
error in a batch, in another callback or in validation, or Ctrl-C, leaves
``Model.fit`` without a call to them. Nor does it call them before it looks at the
data, where what it cannot do ends in a stack trace; nor does it pass on for which of its
methods it sets them up. So as long as any Watch lives, what ``Model.fit``, ``evaluate`` and
``predict`` run is wrapped; with the last Watch the wrappers go.

In ``model.fit(..., callbacks=[Watch(...)])`` Python looks ``model.fit`` up before it makes the
Watch, so a wrapper in the class would come too late. Keras keeps the function itself in a cell
of the filter that it puts around it for its tracebacks; the wrapper goes in there.

Rejected: a weak reference to Keras's callback list (a held traceback keeps it
alive), and wrapping the train function alone (errors in callbacks and in
validation do not pass through it).
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable
from typing import Any

import keras

_METHODS = ("fit", "evaluate", "predict")

_lock = threading.RLock()
#: Keras's own functions, while wrappers are in their places.
_kept: dict[str, Any] = {}
_observers: dict[int, weakref.ref[Any]] = {}
#: Observers of a running call: the evaluation inside a fit is a part of the fit.
_engaged: set[int] = set()


def watch_fit_calls(observer: Any) -> None:
    """Call ``observer`` around each call that has it among its callbacks, while it lives.

    Args:
        observer: a callback of Keras. Before the method,
            ``on_called(method, model, arguments)`` is called, which may raise to refuse the
            call, and may change ``arguments`` in place; and if the method raises,
            ``on_raised(model, error)``, before the error goes on.
    """
    with _lock:
        _observers[id(observer)] = weakref.ref(observer)
        weakref.finalize(observer, _forget, id(observer))
        if not _kept:
            for method in _METHODS:
                _kept[method] = wrap_method(method, _call_observers)


def cell_of(method: str) -> Any:
    """Where Keras keeps what runs when a method is called."""
    function = getattr(keras.Model, method)
    place = function.__code__.co_freevars.index("fn")
    return function.__closure__[place]


def wrap_method(method: str, around: Callable[..., Any]) -> Any:
    """Have ``around`` called in place of what runs when a method of a model is called.

    Args:
        method: "fit", "evaluate" or "predict".
        around: takes the name of the method, what runs in it otherwise, the model, and
            the arguments (`inspect.BoundArguments`, with the model).

    Returns:
        What ran in it before.
    """
    cell = cell_of(method)
    original = cell.cell_contents
    signature = inspect.signature(original)

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return original(self, *args, **kwargs)  # which raises in Keras's own words
        return around(method, original, self, bound)

    cell.cell_contents = wrapper
    return original


def _call_observers(
    method: str, original: Any, model: Any, bound: inspect.BoundArguments
) -> Any:
    observers = _engage(bound.arguments.get("callbacks"))
    try:
        for observer in observers:
            observer.on_called(method, model, bound.arguments)
        try:
            return original(*bound.args, **bound.kwargs)
        except BaseException as error:
            for observer in observers:
                observer.on_raised(model, error)
            raise
    finally:
        _engaged.difference_update(map(id, observers))


def _engage(callbacks: Any) -> list[Any]:
    """Mark and return the observers among the callbacks that no other call has marked."""
    listed = keras.tree.flatten(getattr(callbacks, "callbacks", callbacks))
    with _lock:
        living = {id(each()) for each in _observers.values()} - {id(None)}
        engaged = [each for each in listed if id(each) in living - _engaged]
        _engaged.update(map(id, engaged))
    return engaged


def moved_to_front(observer: Any, callbacks: Any) -> Any:
    """A call's callbacks with ``observer`` first, so that the others find its logs."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks = moved_to_front(observer, callbacks.callbacks)
        return callbacks
    others = [each for each in keras.tree.flatten(callbacks) if each is not observer]
    return [observer, *others]


def _forget(observer: int) -> None:
    with _lock:
        _observers.pop(observer, None)
        if _observers:
            return
        for method, original in _kept.items():
            cell_of(method).cell_contents = original
        _kept.clear()
