"""YAML files that hold the arguments of a Watch, and where they are wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from distwatch.actions import RuleChoice, rule_choices
from distwatch.config.watch import WatchConfig
from distwatch.errors import ConfigError, nearest
from distwatch.signals.validation import argument_names, describe
from distwatch.text import shortened

#: The files for each use: in the wheel next to this module, in a checkout at its top.
_SHIPPED = Path(__file__).parent / "uses"
_USES = _SHIPPED if _SHIPPED.is_dir() else Path(__file__).parents[2] / "configs"

#: Files that had another name in earlier versions.
_RENAMED = {"sampled": "every_10th_step"}

#: Bytes of a file, and values in it where every alias is written out.
MOST_BYTES = 2**17
MOST_NODES = 20_000

#: How many mistakes of a file are named.
_MOST_MISTAKES = 30

#: What making values of a node raises: an impossible date, or a number of too many digits.
_IMPOSSIBLE = (
    yaml.YAMLError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RecursionError,
    OverflowError,
)

#: Characters of a number.
_MOST_DIGITS = 1_000

#: What a file is: keys and their values.
_MAPPING = "tag:yaml.org,2002:map"


class Mistake(NamedTuple):
    """What is wrong in a file, and in which line of it (from 1), if that is known."""

    line: int | None
    text: str


def read_config(path: str | Path, **instead: Any) -> WatchConfig:
    """Read a YAML file as the arguments of a Watch.

    Args:
        path: the file's.
        instead: arguments that take the place of those in the file.

    Raises:
        ConfigError: the file cannot be read, is no mapping, or a key is wrong; all
            mistakes are named, each with its line.
    """
    found = examine(path, **instead)
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


def read_rules(path: str | Path) -> tuple[RuleChoice, ...]:
    """Read the ``rules`` of a YAML file, which may be all arguments of a Watch.

    Raises:
        ConfigError: the file cannot be read, has no rules, or a key is wrong.
    """
    arguments = read_arguments(path)
    if "rules" not in arguments:
        raise ConfigError(f"{path}: it has no 'rules: [...]'.")
    known = [*WatchConfig.model_fields]
    for key in arguments:
        if key not in known:
            raise ConfigError(
                f"{path}: unknown key {key!r}; nearest: {nearest(key, known, most=1)}."
            )
    try:
        return rule_choices(arguments["rules"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def examine(path: str | Path, **instead: Any) -> WatchConfig | list[Mistake]:
    """Read a YAML file, or list all that is wrong in it, in the order of its lines.

    Arguments are those of `read_config`.

    Raises:
        ConfigError: the file cannot be read as text.
    """
    loaded = _load(path)
    if isinstance(loaded, Mistake):
        return [loaded]
    arguments, root = loaded
    mistakes = list(_repeated_keys(root))
    try:
        config = WatchConfig(**{**arguments, **instead})
    except ValidationError as error:
        for detail in error.errors()[:_MOST_MISTAKES]:
            text = shortened(describe(detail, argument_names(WatchConfig)), 2_000, quoted=False)
            mistakes.append(Mistake(_line_of(root, detail["loc"]), text))
    return sorted(mistakes, key=lambda mistake: mistake.line or 0) if mistakes else config


def _error(path: str | Path, mistakes: list[Mistake]) -> ConfigError:
    listed = [f"line {each.line}: {each.text}" if each.line else each.text for each in mistakes]
    if len(listed) == 1:
        return ConfigError(f"{path}: {listed[0]}")
    return ConfigError("\n  ".join([f"{path}: {len(listed)} mistakes", *listed]))


def _load(path: str | Path) -> tuple[dict[str, Any], Any] | Mistake:
    """The arguments in a file and the node of their mapping, or why there are none."""
    text = _text_of(path)
    if isinstance(text, Mistake):
        return text
    try:
        root = yaml.compose(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        return Mistake(None if mark is None else mark.line + 1, f"this is not YAML: {reason}")
    except RecursionError:
        return Mistake(None, "this is not YAML for people: brackets within brackets.")
    written = _constructed(root)
    if isinstance(written, Mistake):
        return written
    return {str(key): value for key, value in written.items()}, root


def _text_of(path: str | Path) -> str | Mistake:
    """What a file holds. It may be a pipe, or one that never ends."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            return Mistake(None, f"it has more than {MOST_BYTES:,} bytes, too many for a file.")
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} cannot be read: it is not text in UTF-8.") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        said = f"{shortened(str(path))} cannot be read: {why}.{_new_name(Path(path).stem)}"
        raise ConfigError(said) from error


def _expanded(node: Any, known: dict[int, float]) -> float:
    """How many values there are in a node where each alias is written out.

    Args:
        node: the node.
        known: the same of the nodes that were counted; those under way are infinite.
    """
    if id(node) not in known:
        # A node that is within itself.
        known[id(node)] = float("inf")
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        inner = [x for part in parts for x in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_expanded(each, known) for each in inner)
    return known[id(node)]


def _constructed(root: Any) -> dict[Any, Any] | Mistake:
    """The values of a file's mapping, or in which line one is impossible."""
    if not isinstance(root, yaml.MappingNode) or root.tag != _MAPPING:
        return Mistake(None, "expected keys such as 'store: run.zarr', found none.")
    if _expanded(root, {}) > MOST_NODES:
        return Mistake(
            None, f"its aliases make more than {MOST_NODES:,} values of it; write fewer."
        )
    try:
        return _value_of(root)  # type: ignore[no-any-return]
    except _IMPOSSIBLE as error:
        for key, value in root.value:
            try:
                _value_of(yaml.MappingNode(root.tag, [(key, value)]))
            except _IMPOSSIBLE as wrong:
                reason = getattr(wrong, "problem", None) or str(wrong)
                return Mistake(_line(key), f"this is not YAML: {reason}")
        return Mistake(None, f"this is not YAML: {error}")


def _value_of(node: Any) -> Any:
    return _Loader("").construct_document(node)


class _Loader(yaml.SafeLoader):
    """Reads numbers only as long as Python shows them."""

    def construct_yaml_int(self, node: Any) -> int:
        if len(node.value) > _MOST_DIGITS:
            raise ValueError(f"a number of {len(node.value):,} characters")
        return int(super().construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


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
        said = _new_name(use) or f" nearest: {nearest(use, known)}."
        raise ConfigError(f"there is no file for {use!r};{said}")
    return (_USES / f"{use}.yaml").read_text(encoding="utf-8")


def _new_name(former: str) -> str:
    """A sentence about a file that has another name by now; else ""."""
    new = _RENAMED.get(former)
    return f" The file {former} of earlier versions is called {new} now." if new else ""


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
