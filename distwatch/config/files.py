"""YAML files that hold the arguments of a Watch, and where they are wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from distwatch.config.watch import WatchConfig
from distwatch.errors import ConfigError, nearest
from distwatch.signals.validation import argument_names, describe

#: The files for each use: in the wheel next to this module, in a checkout at its top.
_SHIPPED = Path(__file__).parent / "uses"
_USES = _SHIPPED if _SHIPPED.is_dir() else Path(__file__).parents[2] / "configs"


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
    raise _error(path, found)


def read_arguments(path: str | Path) -> dict[str, Any]:
    """Read what a YAML file says, not validated.

    Raises:
        ConfigError: the file cannot be read, or is no mapping.
    """
    loaded = _load(path)
    if isinstance(loaded, Mistake):
        raise _error(path, [loaded])
    return loaded[0]


def examine(path: str | Path) -> WatchConfig | list[Mistake]:
    """Read a YAML file, or list all that is wrong in it, in the order of its lines.

    Raises:
        ConfigError: the file cannot be read as text.
    """
    loaded = _load(path)
    if isinstance(loaded, Mistake):
        return [loaded]
    arguments, root = loaded
    mistakes = list(_repeated_keys(root))
    try:
        config = WatchConfig(**arguments)
    except ValidationError as error:
        for detail in error.errors():
            text = describe(detail, argument_names(WatchConfig))
            mistakes.append(Mistake(_line_of(root, detail["loc"]), text))
    return sorted(mistakes, key=lambda mistake: mistake.line or 0) if mistakes else config


def _error(path: str | Path, mistakes: list[Mistake]) -> ConfigError:
    listed = [f"line {each.line}: {each.text}" if each.line else each.text for each in mistakes]
    return ConfigError(f"{path}: {'; '.join(listed)}")


def _load(path: str | Path) -> tuple[dict[str, Any], Any] | Mistake:
    """The arguments in a file and the node of their mapping, or why there are none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        written, root = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} cannot be read: it is not text in UTF-8.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        return Mistake(None if mark is None else mark.line + 1, f"this is not YAML: {reason}")
    if not isinstance(written, dict):
        return Mistake(None, "expected keys such as 'store: run.zarr', found none.")
    return {str(key): value for key, value in written.items()}, root


def json_schema() -> dict[str, Any]:
    """What a file may hold, as JSON Schema (2020-12), for editors."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    written = json.dumps({**dialect, **WatchConfig.model_json_schema()})
    # Before pydantic 2.9, a reference with other keys next to it stood in an `allOf`.
    plain: dict[str, Any] = json.loads(
        written, object_hook=lambda form: {**form.pop("allOf", [{}])[0], **form}
    )
    return plain


def templates() -> list[str]:
    """The uses that there is a commented file for."""
    return sorted(path.stem for path in _USES.glob("*.yaml"))


def template(use: str) -> str:
    """The commented file for a use.

    Raises:
        ConfigError: there is none.
    """
    known = templates()
    if use not in known:
        raise ConfigError(f"there is no file for {use!r}; nearest: {nearest(use, known)}.")
    return (_USES / f"{use}.yaml").read_text(encoding="utf-8")


def _repeated_keys(root: Any) -> Iterator[Mistake]:
    """Keys that occur twice, of which YAML silently takes the last."""
    seen = set()
    for key, _ in root.value:
        if key.value in seen:
            yield Mistake(_line(key), f"the key {key.value!r} stands here a second time")
        seen.add(key.value)


def _line_of(root: Any, location: Sequence[str | int]) -> int | None:
    """The line of a key, or of one signal in a list of them."""
    key, value = {key.value: (key, value) for key, value in root.value}.get(
        str((*location, "")[0]), (None, None)
    )
    if len(location) > 1 and location[0] == "signals" and isinstance(value, yaml.SequenceNode):
        return _line(value.value[int(location[1])])
    return key and _line(key)


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
