"""Arguments that are validated when an object is made, by pydantic, in distwatch's words.

A class that is decorated by `validated` is declared once: its fields are the arguments of
its constructor, the keys of its mapping in a YAML file, and the properties of its JSON
Schema. What is wrong is always a `ConfigError`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from dataclasses import field, fields
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from distwatch.errors import ConfigError, nearest
from distwatch.text import shortened

Class = TypeVar("Class", bound=type)

#: What is wrong with an argument, by pydantic's name of the mistake.
_MESSAGES = {
    "extra_forbidden": "unknown key {key!r}; nearest: {close}",
    "missing": "{key} is missing",
    "unexpected_keyword_argument": "unknown key {key!r}; nearest: {close}",
    "unexpected_positional_argument": "{given} has no place here: give options by name",
    "value_error": "{error}",
}

#: What a field expects, by pydantic's name of the mistake.
_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "byte_size": "a number of bytes, such as 2GB",
    "byte_size_unit": "a number of bytes, such as 2GB",
    "dict_type": "keys and their values",
    "finite_number": "a number that is not infinite",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "a whole number from {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "model_type": "keys and their values",
    "list_type": "a list",
    "literal_error": "{expected}",
    "string_type": "a string",
    "too_long": "at most {max_length} items",
    "too_short": "at least {min_length} items",
    "tuple_type": "a list",
}


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field, field))
def validated(cls: Class) -> Class:
    """Make a frozen dataclass whose constructor validates its keyword arguments.

    Messages begin with the class's ``kind``, which is what people call it.
    """
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=True)
    made: Any = dataclass(frozen=True, kw_only=True, config=config)(cls)
    validate = made.__init__

    @functools.wraps(validate)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            validate(self, *args, **kwargs)
        except ValidationError as error:
            raise ConfigError(f"{made.kind}: {describe_all(error, cls)}") from None

    made.__init__ = init
    signature = inspect.signature(made)
    # Annotations hold validators, which nobody wants to see in help().
    bare = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    made.__signature__ = signature.replace(parameters=bare)
    return made  # type: ignore[no-any-return]


def argument_names(cls: Any) -> list[str]:
    """The arguments of a validated class, or of a pydantic model."""
    if hasattr(cls, "model_fields"):
        return list(cls.model_fields)
    return [field.name for field in fields(cls) if field.init]


def describe_all(error: ValidationError, cls: Any) -> str:
    """Describe everything that pydantic found wrong in the arguments of a class."""
    return "; ".join(describe(detail, argument_names(cls)) for detail in error.errors())


def describe(detail: Any, known: Iterable[str]) -> str:
    """Describe one mistake that pydantic found.

    Args:
        detail: one of ``ValidationError.errors()``.
        known: the keys that there are.
    """
    mistake, key = detail["type"], detail["loc"][0] if detail["loc"] else ""
    close = nearest(str(key), list(known), most=1)
    expected = f"{{key}}={{given}}: expected {expected_of(detail)}"
    return _MESSAGES.get(mistake, expected).format(
        key=key, given=shortened(detail["input"]), close=close, **detail.get("ctx", {})
    )


def expected_of(detail: Any) -> str:
    """What was expected in the place of a mistake that pydantic found, in words."""
    expected = _EXPECTED.get(detail["type"], "another value")
    return expected.format(**detail.get("ctx", {}))
