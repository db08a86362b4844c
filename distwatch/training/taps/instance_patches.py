"""Patching methods of single objects while a step is traced.

A patch lies in the instance's own ``__dict__``, only while a step is traced, so at any
other moment, and so in every saved file and after any error, the objects are as their
owner made them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf


class InstancePatch(NamedTuple):
    """A method of one object, and what makes its replacement from the original."""

    target: Any
    name: str
    make: Callable[[Any], Any]


class InstancePatches:
    """Patches that the first thread to enter applies, and the last to leave removes."""

    def __init__(self, patches: list[InstancePatch]) -> None:
        self._patches = patches
        self._lock = threading.Lock()
        self._threads = 0
        #: What instances had in place of their class's method before.
        self._own: list[Any] = []

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Keep the patches applied inside a ``with`` block."""
        with self._lock:
            self._threads += 1
            if self._threads == 1:
                self._own = [p.target.__dict__.get(p.name) for p in self._patches]
                for patch in self._patches:
                    made = patch.make(getattr(patch.target, patch.name))
                    # A user's loop may call it in code that AutoGraph rewrites.
                    unconverted = tf.autograph.experimental.do_not_convert(made)
                    patch.target.__dict__[patch.name] = unconverted
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                for patch, own in zip(self._patches, self._own, strict=True):
                    restore(patch.target, patch.name, own)


def restore(target: Any, name: str, own: Any) -> None:
    """Remove a patch from an instance; ``own`` is what its owner had put there, if anything."""
    if own is None:
        del target.__dict__[name]
    else:
        target.__dict__[name] = own
