"""The order in which Keras calls callbacks."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import keras


def moved_to_front(observer: Any, callbacks: Any) -> Any:
    """A call's callbacks with ``observer`` first, so that the others find its logs."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks = moved_to_front(observer, callbacks.callbacks)
        return callbacks
    others = [each for each in keras.tree.flatten(callbacks) if each is not observer]
    return [observer, *others]


def list_of(observer: Any) -> Any:
    """The list of callbacks that is calling one of them just now, or None."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, keras.callbacks.CallbackList) and observer in found.callbacks:
            return found
        frame = frame.f_back
    return None
