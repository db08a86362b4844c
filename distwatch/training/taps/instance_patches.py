"""Covering methods of single objects for as long as somebody listens.

The cover stands in the instance's own ``__dict__``, only while a step is traced, so at
any other moment, and so in every saved file and after any error, the objects are as
their owner made them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf


class InstancePatch(NamedTuple):
    """A method to be covered, and what makes the cover out of the original."""

    target: Any
    name: str
    make: Callable[[Any], Any]


class InstancePatches:
    """Covers that are put on by the first thread that listens and taken off by the last."""

    def __init__(self, covered: list[InstancePatch]) -> None:
        self._covered = covered
        self._lock = threading.Lock()
        self._listeners = 0
        #: What instances had in place of their class's method before.
        self._own: list[Any] = []

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Have the covers on."""
        with self._lock:
            self._listeners += 1
            if self._listeners == 1:
                self._own = [c.target.__dict__.get(c.name) for c in self._covered]
                for each in self._covered:
                    cover = each.make(getattr(each.target, each.name))
                    # A loop of one's own may call it in code that AutoGraph rewrites.
                    unconverted = tf.autograph.experimental.do_not_convert(cover)
                    each.target.__dict__[each.name] = unconverted
        try:
            yield
        finally:
            self._take_off()

    def _take_off(self) -> None:
        with self._lock:
            self._listeners -= 1
            if self._listeners == 0:
                for each, own in zip(self._covered, self._own, strict=True):
                    restore(each.target, each.name, own)


def restore(covered: Any, name: str, own: Any) -> None:
    """Take a cover off an instance; ``own`` is what its owner had put there, if anything."""
    if own is None:
        del covered.__dict__[name]
    else:
        covered.__dict__[name] = own
