"""Patching methods of single objects while a step is traced.

A patch lies in the instance's own ``__dict__``, only while a step is traced, so at any
other moment, and so in every saved file and after any error, the objects are as their
owner made them.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf


class InstancePatch(NamedTuple):
    """A method of one object (or a function of a module), and what is called in its place.

    ``around`` gets the original method before the arguments of each call.
    """

    target: Any
    name: str
    around: Callable[..., Any]

    def replacement(self) -> Any:
        """What takes the place of the method."""
        original = getattr(self.target, self.name)

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return self.around(original, *args, **kwargs)

        # A user's loop may call it in code that AutoGraph rewrites.
        return tf.autograph.experimental.do_not_convert(replacement)


class InstancePatches:
    """Patches that the first thread to enter applies, and the last to leave removes."""

    def __init__(self, patches: list[InstancePatch]) -> None:
        self._patches = patches
        self._lock = threading.Lock()
        self._threads = 0
        self._undo = contextlib.ExitStack()

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Keep the patches applied inside a ``with`` block."""
        with self._lock:
            self._threads += 1
            if self._threads == 1:
                for patch in self._patches:
                    own = patch.target.__dict__.get(patch.name)
                    self._undo.callback(restore, patch.target, patch.name, own)
                    _put(patch.target, patch.name, patch.replacement())
        try:
            yield
        finally:
            with self._lock:
                self._threads -= 1
                if self._threads == 0:
                    self._undo.close()


def restore(target: Any, name: str, own: Any) -> None:
    """Remove a patch from an instance; ``own`` is what its owner had put there, if anything."""
    if own is None:
        del target.__dict__[name]
    else:
        _put(target, name, own)


def _put(target: Any, name: str, value: Any) -> None:
    if isinstance(target, type):
        setattr(target, name, value)
    else:
        # Not setattr: Keras would look for variables in it.
        target.__dict__[name] = value
