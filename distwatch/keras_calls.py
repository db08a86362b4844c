"""Calling a Watch when its fit starts, and when it ends by an error.

Keras tells callbacks that training ended, but not that it was interrupted: an error in a
batch, in another callback or in validation, or Ctrl-C, leaves ``Model.fit`` without a call to
them. Nor does it call them before it looks at the data, where what it cannot do ends in a
stack trace; nor does it pass on for which of its methods it sets them up. So the class
attributes ``keras.Model.fit``, ``evaluate`` and ``predict`` are wrapped, by a function that
does nothing but pass the call on as long as no Watch lives.

In ``model.fit(..., callbacks=[Watch(...)])`` Python looks ``model.fit`` up before it makes the
Watch, so the wrappers are placed as soon as both distwatch and Keras are imported. Other
tools wrap the same attributes, before or after; each then calls the other. Nothing is
imported here: Keras may never be.

Rejected: reaching into the closure in which Keras keeps the function itself, which is not
there once another tool has wrapped it; a weak reference to Keras's callback list alone (a held
traceback keeps it alive); and wrapping the train function alone (errors in callbacks and in
validation do not pass through it).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from typing import Any

METHODS = ("fit", "evaluate", "predict")

_lock = threading.RLock()
#: The wrappers that were placed last.
_placed: dict[str, Any] = {}
_observers: dict[int, weakref.ref[Any]] = {}
#: Observers of a running call: the evaluation inside a fit is a part of the fit.
_engaged: set[int] = set()


def watch_fit_calls(observer: Any) -> None:
    """Call ``observer`` around each call that has it among its callbacks, while it lives.

    Args:
        observer: a callback of Keras. Before the method,
            ``on_called(method, model, arguments)`` is called, which may raise to refuse the
            call, and may replace the callbacks among ``arguments``; and if the method raises,
            ``on_raised(model, error)``, before the error goes on.
    """
    with _lock:
        _observers[id(observer)] = weakref.ref(observer)
        weakref.finalize(observer, _observers.pop, id(observer), None)
    place()


def place() -> None:
    """Wrap the methods of Keras's models, where they are not wrapped yet."""
    model = getattr(sys.modules.get("keras"), "Model", None)
    for method in METHODS if hasattr(model, "fit") else ():
        with _lock:
            if _placed.get(method) not in (None, *_layers(getattr(model, method))):
                del _placed[method]
            if method not in _placed:
                _placed[method] = wrap_method(model, method, _call_observers)


def place_with_keras() -> None:
    """The same, now or as soon as Keras is imported."""
    if "keras" in sys.modules:
        place()
    else:
        sys.meta_path.insert(0, _WhenKerasIsImported())


class _WhenKerasIsImported:
    """Finds Keras as the other finders do, and places the wrappers when it is loaded.

    It stays until then: TensorFlow looks for Keras without loading what it finds.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "keras":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        # Python, too, passes over finders of the old kind, which have no such method.
        search = [finder.find_spec for finder in others if hasattr(finder, "find_spec")]
        found = (find_spec(name, path, target) for find_spec in search)
        spec = next(filter(None, found), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            with contextlib.suppress(ValueError):
                sys.meta_path.remove(self)
            execute(module)
            place()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def wrap_method(model: Any, method: str, around: Callable[..., Any]) -> Any:
    """Have ``around`` called in place of a method of a class of models.

    Args:
        model: the class.
        method: "fit", "evaluate" or "predict".
        around: takes the name of the method, a function of the model that does what it did,
            the model, and the arguments by name, of which it may replace the callbacks.

    Returns:
        What takes the place of the method.
    """
    original = getattr(model, method)
    signature = _signature(model, method)

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return original(self, *args, **kwargs)  # which raises in Keras's own words
        before = bound.arguments.get("callbacks")

        def go() -> Any:
            if bound.arguments.get("callbacks") is before:
                return original(self, *args, **kwargs)
            return original(*bound.args, **bound.kwargs)

        return around(method, go, self, bound.arguments)

    placed = _filtered(wrapper)
    setattr(model, method, placed)
    return placed


def is_observed(observer: Any) -> bool:
    """Whether the call that is under way came through a wrapper."""
    return id(observer) in _engaged


def running_call(model: Any) -> tuple[str, dict[str, Any]] | None:
    """The method of a model that Keras is in, and its arguments as they are by now."""
    frame = inspect.currentframe()
    while frame is not None:
        name, known = frame.f_code.co_name, frame.f_locals
        theirs = str(frame.f_globals.get("__name__")).startswith("keras.")
        if theirs and name in METHODS and known.get("self") is model:
            return name, dict(known)
        frame = frame.f_back
    return None


def _call_observers(
    method: str, go: Callable[[], Any], model: Any, arguments: dict[str, Any]
) -> Any:
    observers = _engage(arguments.get("callbacks")) if _observers else []
    try:
        for observer in observers:
            observer.on_called(method, model, arguments)
        try:
            return go()
        except BaseException as error:
            for observer in observers:
                observer.on_raised(model, error)
            raise
    finally:
        _engaged.difference_update(map(id, observers))


def _engage(callbacks: Any) -> list[Any]:
    """Mark and return the observers among the callbacks that no other call has marked."""
    listed = sys.modules["keras"].tree.flatten(getattr(callbacks, "callbacks", callbacks))
    with _lock:
        living = {id(each()) for each in _observers.values()} - {id(None)}
        engaged = [each for each in listed if id(each) in living - _engaged]
        _engaged.update(map(id, engaged))
    return engaged


def _signature(model: Any, method: str) -> inspect.Signature:
    """Keras's own, also where another tool has put a function of any arguments before it."""
    found = [
        inspect.signature(vars(owner)[method])
        for owner in model.__mro__
        if method in vars(owner)
    ]
    return next((each for each in found if "callbacks" in each.parameters), found[0])


def _filtered(wrapper: Any) -> Any:
    """The wrapper within the filter that Keras has around its own methods.

    So that tracebacks begin as they do without it; `watched_fits` takes frames of ours out.
    """
    # Private; where Keras keeps it elsewhere, tracebacks have a few frames more.
    filtering = sys.modules.get("keras.src.utils.traceback_utils")
    around = getattr(filtering, "filter_traceback", None)
    return wrapper if around is None else around(wrapper)


def _layers(function: Any) -> Iterator[Any]:
    """A function, and those that it says it wraps."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)
