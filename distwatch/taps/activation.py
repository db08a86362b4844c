"""Listening to what layers put out, without changing the model.

While a train step is traced, the ``call`` of each layer is covered on the
*instance*; the cover notes the output and passes it on. The covers are there
only during the trace, so at any other moment, and so in every saved file and
after any error, the model is as its owner made it.

Rejected: covering ``Layer.__call__`` on the class (replica threads of a mirrored
trace interleave and leave it covered; every other model is heard too), and a
second functional model (computes twice and moves BatchNorm twice).
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from distwatch.errors import NothingToWatchError, UnwatchableError
from distwatch.signals import Signal, matching

Tensor = Any

#: Layers that run their inner layer inside a loop, out of reach: they stand for it.
_STAND_FOR_INNER = (keras.layers.RNN, keras.layers.TimeDistributed)

#: The path under which the model's own output is known.
OUTPUT = "output"


@dataclass(frozen=True)
class Tap:
    """One layer and how it is heard."""

    layer: keras.layers.Layer
    path: str
    #: A layer that wants its *inputs* watched (a Tracker) says against what.
    inputs_reference: str | None

    @property
    def hears_inputs(self) -> bool:
        return self.inputs_reference is not None


@dataclass
class _Collector:
    """What one train step was heard to put out: path -> outputs of each call."""

    graph: Any
    outputs: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, path: str, outputs: Any) -> None:
        if any(self._belongs(leaf) for leaf in keras.tree.flatten(outputs)):
            self.outputs.setdefault(path, []).append(outputs)

    def _belongs(self, leaf: Any) -> bool:
        # Layers are also called in graphs of other purposes: Keras infers shapes
        # in scratch graphs, loops have bodies of their own. Their tensors cannot
        # be used out here.
        if isinstance(leaf, keras.KerasTensor):
            return False
        component = getattr(leaf, "flat_values", getattr(leaf, "values", leaf))
        return getattr(component, "graph", None) is self.graph


@dataclass(frozen=True)
class Heard:
    """The signals of one train step, and the tensors that carry them.

    A tensor that is two signals (a last layer's output is also the model's) stands
    in ``tensors`` once; ``carrier[i]`` is the position of signal i's tensor.
    """

    signals: tuple[Signal, ...]
    carrier: tuple[int, ...]
    references: tuple[str, ...]
    unwatched: dict[str, str]


class ActivationTaps:
    """The layers of a model that are heard while it trains."""

    def __init__(
        self, model: keras.Model, patterns: tuple[str, ...] | None, reference: str
    ) -> None:
        self._model = model
        self._patterns = patterns
        self._reference = reference
        self._taps = _find(model)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._listeners = 0
        #: What instances had in place of their class's ``call`` before they were covered.
        self._own: list[Any] = []
        if patterns is not None:
            matching(patterns, [tap.path for tap in self._taps])

    @contextlib.contextmanager
    def listening(self) -> Iterator[_Collector]:
        """Hear every layer that this thread calls; replica threads each hear their own."""
        collector = _Collector(_current_graph())
        self._local.collector = collector
        self._cover()
        try:
            yield collector
        finally:
            self._uncover()
            self._local.collector = None

    def choose(self, collector: _Collector) -> tuple[Heard, list[Tensor]]:
        """Name the signals among what was heard.

        This comes after the step was traced, when every layer is built and it is
        known which of them own weights.

        Raises:
            NothingToWatchError: nothing that is to be watched was heard.
            UnwatchableError: a layer that a pattern names cannot be watched.
        """
        missed = [tap.path for tap in _find(self._model) if tap.path not in self._paths]
        signals: list[Signal] = []
        carriers: dict[tuple[int, str], int] = {}
        carrier: list[int] = []
        tensors: list[Tensor] = []
        unwatched = dict.fromkeys(missed, _LATE)
        for tap in self._chosen():
            reference = tap.inputs_reference or self._reference
            calls = collector.outputs.get(tap.path, [])
            if not calls:
                unwatched[tap.path] = "not called in the train step's own graph"
            for name, leaf in _leaves(tap.path, calls):
                if why := _unwatchable(leaf):
                    self._refuse_if_named(name, why)
                    unwatched[name] = why
                    continue
                key = (id(leaf), reference)
                if key not in carriers:
                    carriers[key] = len(tensors)
                    tensors.append(leaf)
                carrier.append(carriers[key])
                signals.append(Signal(f"activation/{name}", reference))
        if not signals:
            raise NothingToWatchError(_nothing(self._model, unwatched))
        references = tuple(reference for _, reference in carriers)
        return Heard(tuple(signals), tuple(carrier), references, unwatched), tensors

    @property
    def _paths(self) -> list[str]:
        return [tap.path for tap in self._taps]

    def _chosen(self) -> list[Tap]:
        if self._patterns is None:
            usual = set(_usual(self._model))
            return [tap for tap in self._taps if id(tap.layer) in usual]
        paths = set(matching(self._patterns, self._paths))
        return [tap for tap in self._taps if tap.path in paths]

    def _refuse_if_named(self, name: str, why: str) -> None:
        if self._patterns is not None:
            raise UnwatchableError(
                f"{name!r} was asked for but cannot be watched: {why}. "
                "Choose other layers, or leave signals=None to pass over it."
            )

    def _cover(self) -> None:
        with self._lock:
            self._listeners += 1
            if self._listeners == 1:
                self._own = [tap.layer.__dict__.get("call") for tap in self._taps]
                for tap in self._taps:
                    tap.layer.__dict__["call"] = self._covered(tap)

    def _uncover(self) -> None:
        with self._lock:
            self._listeners -= 1
            if self._listeners == 0:
                for tap, own in zip(self._taps, self._own, strict=True):
                    restore(tap.layer, "call", own)

    def _covered(self, tap: Tap) -> Callable[..., Any]:
        original = tap.layer.call

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            outputs = original(*args, **kwargs)
            collector = getattr(self._local, "collector", None)
            if collector is not None:
                heard = (args or tuple(kwargs.values()))[0] if tap.hears_inputs else outputs
                collector.add(tap.path, heard)
            return outputs

        return call


def restore(covered: Any, name: str, own: Any) -> None:
    """Take a cover off an instance; ``own`` is what its owner had put there, if anything."""
    if own is None:
        del covered.__dict__[name]
    else:
        covered.__dict__[name] = own


_LATE = (
    "made while the first step was traced; build the model (call it once on a batch) "
    "before fit to watch it"
)


def _find(model: keras.Model) -> list[Tap]:
    """All layers below a model in its own order, and last the model itself."""
    taps: list[Tap] = []
    seen = {id(model)}

    def descend(layer: keras.layers.Layer, prefix: str) -> None:
        for inner in layer._layers:
            if id(inner) in seen or isinstance(inner, keras.layers.InputLayer):
                continue
            seen.add(id(inner))
            path = _free(prefix + inner.name, taps)
            taps.append(Tap(inner, path, getattr(inner, "watched_reference", None)))
            if not isinstance(inner, _STAND_FOR_INNER):
                descend(inner, path + "/")

    descend(model, "")
    taps.append(Tap(model, _free(OUTPUT, taps), None))
    return taps


def _free(path: str, taps: list[Tap]) -> str:
    """Two layers of one name in one place become ``name`` and ``name~2``."""
    taken = {tap.path for tap in taps}
    candidates = [path] + [f"{path}~{n}" for n in range(2, len(taken) + 3)]
    return next(candidate for candidate in candidates if candidate not in taken)


def _usual(model: keras.Model) -> Iterator[int]:
    """Ids of what is watched by default.

    The outermost layers that own weights directly (one that runs its inner layer
    in a loop stands for it), every Tracker, and the model.
    """
    yield id(model)

    def descend(layer: keras.layers.Layer) -> Iterator[int]:
        for inner in layer._layers:
            wanted = (
                bool(inner._trainable_variables or inner._non_trainable_variables)
                or (isinstance(inner, _STAND_FOR_INNER) and bool(inner.weights))
                or hasattr(inner, "watched_reference")
            )
            if wanted:
                yield id(inner)
            else:
                yield from descend(inner)

    yield from descend(model)


def _leaves(path: str, calls: list[Any]) -> Iterator[tuple[str, Any]]:
    """Name each tensor of each call: ``lstm``, ``lstm#1`` (second call), ``lstm:0``."""
    for number, outputs in enumerate(calls):
        name = f"{path}#{number}" if number else path
        if not keras.tree.is_nested(outputs):
            yield name, outputs
            continue
        for keys, leaf in keras.tree.flatten_with_path(outputs):
            yield f"{name}:{'.'.join(map(str, keys))}", leaf


def _unwatchable(leaf: Any) -> str | None:
    """Say why a layer's output cannot be watched, or None if it can."""
    if not isinstance(leaf, tf.Tensor):
        return f"its output is a {type(leaf).__name__}, only dense tensors can be compared"
    if not (leaf.dtype.is_floating or leaf.dtype.is_integer):
        return f"its output is of dtype {leaf.dtype.name}, not of numbers"
    if leaf.shape.rank is None:
        return "the number of dims of its output is unknown"
    return None


def _nothing(model: keras.Model, unwatched: dict[str, str]) -> str:
    reasons = "".join(f"; {path}: {why}" for path, why in unwatched.items())
    return (
        f"model {model.name!r} has nothing to watch{reasons}. Give it a layer with "
        "weights or a distwatch.Tracker, or name layers in signals=[...]."
    )


def _current_graph() -> Any:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
