"""YAML files that hold the arguments of a Watch, and where they are wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from distwatch.config.watch import WatchConfig
from distwatch.errors import ConfigError, nearest
from distwatch.signals.validation import argument_names, describe

#: The files for each use: in the wheel beside this module, in a checkout at its top.
_SHIPPED = Path(__file__).parent / "uses"
_IN_CHECKOUT = Path(__file__).parents[2] / "configs"

_NO_KEYS = "expected keys such as 'store: run.zarr', found none."


class Mistake(NamedTuple):
    """What is wrong in a file, and in which line of it (from 1), if that is known."""

    line: int | None
    text: str


def read_config(path: str | Path) -> WatchConfig:
    """Read a YAML file as the arguments of a Watch.

    Raises:
        ConfigError: the file cannot be read, is no mapping, or a key is wrong; all
            mistakes are named, each with its line.
    """
    found = examine(path)
    if isinstance(found, WatchConfig):
        return found
    raise _refusal(path, found)


def read_arguments(path: str | Path) -> dict[str, Any]:
    """Read what a YAML file says, not validated.

    Raises:
        ConfigError: the file cannot be read, or is no mapping.
    """
    text = _text(path)
    try:
        written = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _refusal(path, [_no_yaml(error)]) from error
    if not isinstance(written, dict):
        raise _refusal(path, [Mistake(None, _NO_KEYS)])
    return {str(key): value for key, value in written.items()}


def examine(path: str | Path) -> WatchConfig | list[Mistake]:
    """Read a YAML file, or list all that is wrong in it, in the order of its lines.

    Raises:
        ConfigError: the file cannot be read as text.
    """
    text = _text(path)
    try:
        written, root = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        return [_no_yaml(error)]
    if not isinstance(written, dict):
        return [Mistake(None, _NO_KEYS)]
    mistakes = [*_twice(root), *_wrong(written, root)]
    if mistakes:
        return sorted(mistakes, key=lambda mistake: mistake.line or 0)
    return WatchConfig(**{str(key): value for key, value in written.items()})


def _refusal(path: str | Path, mistakes: list[Mistake]) -> ConfigError:
    listed = [f"line {each.line}: {each.text}" if each.line else each.text for each in mistakes]
    return ConfigError(f"{path}: {'; '.join(listed)}")


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} cannot be read: it is no text in UTF-8.") from error


def json_schema() -> dict[str, Any]:
    """What a file may hold, as JSON Schema (2020-12), for editors."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**dialect, **WatchConfig.model_json_schema()}


def templates() -> list[str]:
    """The uses that there is a commented file for."""
    return sorted(path.stem for path in _uses().glob("*.yaml"))


def template(use: str) -> str:
    """The commented file for a use.

    Raises:
        ConfigError: there is none.
    """
    known = templates()
    if use not in known:
        raise ConfigError(f"there is no file for {use!r}; nearest: {nearest(use, known)}.")
    return (_uses() / f"{use}.yaml").read_text(encoding="utf-8")


def _uses() -> Path:
    return _SHIPPED if _SHIPPED.is_dir() else _IN_CHECKOUT


def _no_yaml(error: yaml.YAMLError) -> Mistake:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or str(error)
    return Mistake(None if mark is None else mark.line + 1, f"this is no YAML: {reason}")


def _twice(root: Any) -> Iterator[Mistake]:
    """Keys that stand there twice, of which YAML silently takes the last."""
    seen = set()
    for key, _ in root.value:
        if key.value in seen:
            yield Mistake(_line(key), f"the key {key.value!r} stands here a second time")
        seen.add(key.value)


def _wrong(written: dict[Any, Any], root: Any) -> Iterator[Mistake]:
    try:
        WatchConfig(**{str(key): value for key, value in written.items()})
    except ValidationError as error:
        for detail in error.errors():
            text = describe(detail, argument_names(WatchConfig))
            yield Mistake(_line_of(root, detail["loc"]), text)


def _line_of(root: Any, location: Sequence[str | int]) -> int | None:
    """The line of a mistake: that of a key, or of one of a list of signals."""
    entries = {key.value: (key, value) for key, value in root.value}
    if not location or str(location[0]) not in entries:
        return None
    key, value = entries[str(location[0])]
    if location[0] == "signals" and isinstance(value, yaml.SequenceNode):
        return _line(value.value[int(location[1])]) if len(location) > 1 else _line(key)
    return _line(key)


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
