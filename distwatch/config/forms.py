"""How files write signals and schedules, as JSON Schema: for editors.

What a selector takes is read off its maker, so that a new argument is here by itself. A
schema says less than the makers check: a glob that matches nothing, for instance.
"""

from __future__ import annotations

import inspect
from typing import Any

from distwatch.event_files.options import KNOWN
from distwatch.signals import REFERENCES
from distwatch.signals.reading import MAKERS
from distwatch.signals.references import OF_BATCHES
from distwatch.statistics import REQUESTABLE

Form = dict[str, Any]

_NOTHING: Form = {"type": "null"}
_COUNT: Form = {"type": "integer", "minimum": 1}
_STEP: Form = {"type": "integer", "minimum": 0}

#: A decay between 0 and 1, written as a decimal or with a negative exponent.
_EMA: Form = {
    "type": "string",
    "pattern": r"^ema\((0?\.[0-9]*[1-9][0-9]*|[1-9](\.[0-9]+)?[eE]-0*[1-9][0-9]*)\)$",
}


def _either(*forms: Form) -> Form:
    return {"anyOf": list(forms)}


def _mapping(properties: dict[str, Form], *required: str) -> Form:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _one_key(name: str, form: Form) -> Form:
    return _mapping({name: form}, name)


def _reference(names: list[str]) -> Form:
    return _either({"enum": [name for name in names if name != "ema"]}, _EMA)


def _shared(name: str, form: Form) -> Form:
    """A form that stands in several places, by its name."""
    _SHARED[name] = form
    return {_NAME: name}


def linked(form: Any) -> Any:
    """A form whose names of others have become the references of JSON Schema."""
    if isinstance(form, list):
        return [linked(each) for each in form]
    if not isinstance(form, dict):
        return form
    if _NAME in form:
        further = {key: linked(value) for key, value in form.items() if key != _NAME}
        return {"$ref": f"#/$defs/{form[_NAME]}", **further}
    return {key: linked(value) for key, value in form.items()}


def shared() -> Form:
    """The forms that others name."""
    return dict(_SHARED)


_SHARED: dict[str, Form] = {}

#: Pydantic would look for a ``$ref`` among forms of its own.
_NAME = "distwatch-form"

#: What a delta is measured against.
REFERENCE = _shared("reference", _reference(list(REFERENCES)))
_OF_WEIGHTS = _shared(
    "reference_of_weights",
    _reference([name for name in REFERENCES if name not in OF_BATCHES]),
)

_TIMES = [
    _one_key("every", _COUNT),
    _one_key("first", _COUNT),
    _one_key("at", _either(_STEP, {"type": "array", "items": _STEP, "minItems": 1})),
    _one_key("logarithmic", _COUNT),
]

#: At which steps to look.
SCHEDULE = _either(_NOTHING, *_TIMES)

_GLOB: Form = {"type": "string"}
_GLOBS: Form = {"type": "array", "items": _GLOB, "minItems": 1}
_ALL = [_NOTHING, {"const": True}]

_STATISTICS = _shared(
    "statistics",
    {
        "type": "array",
        "items": _either(
            *({"const": each.name} for each in REQUESTABLE),
            *(
                _one_key(each.name, _either(_NOTHING, _mapping(each.parameters)))
                for each in REQUESTABLE
            ),
        ),
        "maxItems": len(REQUESTABLE),
    },
)

#: Arguments of makers that are the same for all of them.
_ARGUMENTS: dict[str, Form] = {
    "every": _shared("every", _either(_NOTHING, _COUNT, *_TIMES)),
    "statistics": _STATISTICS,
    "reduce": {"enum": [None, "mean", "sum"]},
    "dtype": {"enum": ["float32", "float16"]},
}


def _selector(kind: str, maker: Any) -> Form:
    taken = dict(inspect.signature(maker).parameters)
    patterns = taken.pop("patterns", None)
    chosen = _either(*_ALL, _GLOB, _GLOBS) if patterns else _either(*_ALL)
    required = [name for name, argument in taken.items() if argument.default is argument.empty]
    properties = {name: _argument(kind, name) for name in taken}
    return _mapping({kind: chosen, **properties}, kind, *required)


def _argument(kind: str, name: str) -> Form:
    if name == "reference":
        names = REFERENCE if MAKERS[kind].of_batches else _OF_WEIGHTS
        return _either(_NOTHING, names) if kind == "activations" else names
    return _ARGUMENTS.get(name, {"type": "boolean"})


_SELECTORS = [_shared(kind, _selector(kind, maker.make)) for kind, maker in MAKERS.items()]

#: What is watched.
SIGNALS = _either(
    _NOTHING,
    _GLOB,
    *_SELECTORS,
    {"type": "array", "items": _either(_GLOB, *_SELECTORS), "minItems": 1},
)

#: A number of bytes, such as 2GB.
BYTES = _either(
    _NOTHING,
    {"type": "integer", "exclusiveMinimum": 0},
    {"type": "string", "pattern": r"^\s*[0-9]*\.?[0-9]+\s*([kKmMgGtTpPeE][iI]?)?[bB]?\s*$"},
)

_NAMES: Form = {"type": "array", "items": {"type": "string"}}

#: A folder for event files, or what of a run goes into them.
TENSORBOARD = _either(
    _NOTHING,
    {"type": "string", "minLength": 1},
    _mapping(
        {
            "folder": {"type": "string", "minLength": 1},
            "statistics": _either(
                {"enum": list(KNOWN)}, {"type": "array", "items": {"enum": list(KNOWN)}}
            ),
            "signals": _either(_GLOB, _NAMES),
            "every": _COUNT,
            "replicas": {"type": "boolean"},
            "merged": {"type": "boolean"},
        },
        "folder",
    ),
)

_LOG: Form = {"type": "string", "pattern": r"^[\s\S]+:[^:]+$"}

#: Signals and a statistic each, for Keras's logs.
LOGS = _either(_NOTHING, _LOG, {"type": "array", "items": _LOG})
