"""What is done when a rule first finds something while a training goes on.

>>> import distwatch as dw
>>> rules = [
...     dw.actions.on("NonFinite", do=[dw.actions.stop(), dw.actions.log_json("found.jsonl")]),
...     dw.actions.on("*", do=dw.actions.call(print)),
... ]
>>> watch = dw.Watch("run.zarr", rules=rules)              # doctest: +SKIP

In a YAML file the same is written as

.. code-block:: yaml

    rules:
      - rule: NonFinite
        do: [stop, {log_json: found.jsonl}]
      - do: {call: "my_alerts.py:post"}

A rule is one of those that ``distwatch rules`` lists, or a function of your own; of each phase
it acts once, on the first finding that is severe enough.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import PlainValidator, WithJsonSchema

from distwatch.errors import ConfigError, nearest
from distwatch.findings import RULES, WARNING, Finding, Rule, as_rule
from distwatch.signals.validation import validated
from distwatch.store.addresses import absolute, address_of

__all__ = ["Action", "RuleChoice", "call", "checkpoint", "log_json", "on", "stop"]

STOP, CHECKPOINT, CALL, LOG_JSON = "stop", "checkpoint", "call", "log_json"

#: Every rule.
ALL = "*"

#: Where a function is: file.py:name or module:name.
REFERENCE = r"^[\s\S]+:[A-Za-z_]\w*$"

#: What Keras recognizes a whole model by, and its weights alone.
_SAVED = (".keras", ".weights.h5")


@dataclass(frozen=True)
class Action:
    """What is done; made by `stop`, `checkpoint`, `call` or `log_json`."""

    #: "stop", "checkpoint", "call" or "log_json".
    what: str
    #: The path or the function; None of a stop.
    given: Any = None

    def __str__(self) -> str:
        if self.what == CALL and not isinstance(self.given, str):
            return f"call({getattr(self.given, '__name__', type(self.given).__name__)})"
        return self.what if self.given is None else f"{self.what}({str(self.given)!r})"


def stop() -> Action:
    """Stop the training at the end of a batch, by Keras's ``model.stop_training``.

    The model keeps the weights of that batch. In a loop of your own, or one of
    ``train_on_batch``, ask for ``watch.stop_training``. Several workers stop together, some
    dozens of batches after one of them asked for it.
    """
    return Action(STOP)


def checkpoint(path: str | Path) -> Action:
    """Save the model at the end of a batch, as it is when the finding is made.

    Args:
        path: ends with ".keras" for the whole model, ".weights.h5" for its weights. In it
            ``{rule}`` stands for the rule's name, ``{step}`` for the number of steps done. A
            file that is there is replaced. Not on several workers, nor in a loop of your own.

    Raises:
        ConfigError: it ends otherwise, or is no path of this machine.
    """
    path = _path(CHECKPOINT, path)
    if not path.endswith(_SAVED):
        raise ConfigError(f"checkpoint={path!r}: end it with {' or '.join(_SAVED)}.")
    return Action(CHECKPOINT, path)


def call(function: Callable[[Finding], object] | str) -> Action:
    """Call a function with the `Finding`, beside the training.

    It runs on a thread of its own, and the training never waits for it. What it raises is
    warned of. At the end of the training a few seconds are waited for those that still run.

    Args:
        function: takes a `Finding`; or where one is: "file.py:name" or "module:name".

    Raises:
        ConfigError: it is neither.
    """
    return Action(CALL, function if callable(function) else _reference(CALL, function))


def log_json(path: str | Path) -> Action:
    """Append the finding to a file, as a line of JSON: as ``distwatch check --json`` has it.

    Beside these keys a line has the ``phase``, the number of ``steps`` done, the ``time``, and
    the ``worker``. It is written on a thread of its own, as `call` does.

    Raises:
        ConfigError: it is no path of this machine.
    """
    return Action(LOG_JSON, _path(LOG_JSON, path))


def on(
    *rules: str | Rule | Callable[[Any], Iterable[Finding]],
    do: Action | Iterable[Action] = (),
    severity: str = WARNING,
) -> RuleChoice:
    """Choose what is done when one of some rules first finds something.

    Args:
        rules: names of rules, as ``distwatch rules`` lists them, "*" for all of them, or
            rules of your own: functions, or where one is ("file.py:name", "module:name").
        do: one or more actions; none only for rules of your own, which then are a part of
            the summary.
        severity: "warning", or "note" for notes, too.

    Raises:
        ConfigError: there is no such rule, or nothing is to be done.
    """
    return RuleChoice(rule=rules or (ALL,), do=do, severity=severity)  # type: ignore[arg-type]


def _path(what: str, given: Any) -> str:
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        raise ConfigError(f"{what}={given!r}: give the path of a file.")
    path = absolute(address_of(given))
    if isinstance(path, str):
        raise ConfigError(f"{what}={path!r}: give a file of this machine, and copy it.")
    return str(path)


def _reference(what: str, given: Any) -> str:
    """Where a function is, whatever the current folder becomes."""
    if not isinstance(given, str) or not re.match(REFERENCE, given):
        raise ConfigError(
            f"{what}={given!r}: give a function, or where it is: file.py:name or module:name."
        )
    place, _, name = given.rpartition(":")
    return f"{_path(what, place)}:{name}" if place.endswith(".py") else given


def resolved(given: Any) -> Any:
    """A function, imported if it is only said where it is.

    Raises:
        ConfigError: it cannot be imported, or is none.
    """
    if not isinstance(given, str):
        return given
    place, _, name = given.rpartition(":")
    try:
        found = getattr(_module(place), name)
    except Exception as error:
        raise ConfigError(
            f"{given!r} cannot be imported ({type(error).__name__}: {error})."
        ) from error
    if not callable(found):
        raise ConfigError(f"{given!r} is no function.")
    return found


@functools.cache
def _module(place: str) -> Any:
    """A module, loaded once, as an import does: a function may be named in several places."""
    if not place.endswith(".py"):
        return importlib.import_module(place)
    # A name that no other module has: dataclasses look theirs up.
    name = f"distwatch_rules_{Path(place).stem}_{abs(hash(place))}"
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise ImportError("no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_KNOWN: dict[str, Callable[..., Action]] = {
    CHECKPOINT: checkpoint,
    CALL: call,
    LOG_JSON: log_json,
}


def _action(given: Any) -> Action:
    if isinstance(given, Action):
        return given
    if given == STOP:
        return stop()
    if isinstance(given, dict) and len(given) == 1 and next(iter(given)) in _KNOWN:
        ((what, of),) = given.items()
        return _KNOWN[what](of)
    raise ConfigError(
        f"do={given!r}: give stop, or one of {{checkpoint: path}}, {{call: function}} and "
        "{log_json: path}."
    )


def _actions(given: Any) -> tuple[Action, ...]:
    listed = given if isinstance(given, (list, tuple)) else [given]
    return tuple(_action(each) for each in listed)


def _rule(given: Any) -> Any:
    if isinstance(given, Rule) or callable(given) or given == ALL:
        return given
    if isinstance(given, str) and ":" in given:
        return _reference("rule", given)
    known = [rule.name for rule in RULES]
    if given not in known:
        close = nearest(str(given), known)
        raise ConfigError(
            f"no rule {given!r}; nearest: {close}; one of your own is file.py:name."
        )
    return given


def _rules(given: Any) -> tuple[Any, ...]:
    listed = given if isinstance(given, (list, tuple)) else [given]
    return tuple(_rule(each) for each in listed or [ALL])


def _one_or_more(form: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [form, {"type": "array", "items": form}]})


_REFERENCE = {"type": "string", "pattern": REFERENCE}
_RULE_FORM = {"anyOf": [{"enum": [ALL, *(rule.name for rule in RULES)]}, _REFERENCE]}
_FILE = {"type": "string", "minLength": 1}


def _keyed(what: str, form: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {what: form},
        "required": [what],
        "additionalProperties": False,
    }


_ACTION_FORM = {
    "anyOf": [
        {"const": STOP},
        _keyed(CHECKPOINT, {"type": "string", "pattern": r"(\.keras|\.weights\.h5)$"}),
        _keyed(CALL, _REFERENCE),
        _keyed(LOG_JSON, _FILE),
    ]
}


@validated
class RuleChoice:
    """Rules, and what is done when one of them first finds something; see `on`.

    Args:
        rule: names of rules, "*" for all, or rules of your own.
        do: what is done.
        severity: from which severity on: "warning" or "note".
    """

    rule: Annotated[tuple[Any, ...], PlainValidator(_rules), _one_or_more(_RULE_FORM)] = (ALL,)
    do: Annotated[tuple[Action, ...], PlainValidator(_actions), _one_or_more(_ACTION_FORM)] = (
        field(default=())
    )
    severity: Literal["warning", "note"] = "warning"

    #: The argument of a Watch, for messages.
    kind: ClassVar[str] = "rules"

    def __post_init__(self) -> None:
        if not self.do and not self.own:
            raise ConfigError(
                f"nothing is done on {', '.join(map(str, self.rule))}: say what, such as "
                "do: [stop]."
            )

    @property
    def own(self) -> tuple[Any, ...]:
        """The rules that are not distwatch's: functions, or where they are."""
        return tuple(each for each in self.rule if not isinstance(each, str) or ":" in each)

    def resolved(self) -> RuleChoice:
        """The same with rules and functions imported where it is only said where they are.

        Raises:
            ConfigError: one cannot be imported.
        """
        rules = tuple(
            as_rule(resolved(each)) if each in self.own else each for each in self.rule
        )
        do = tuple(
            Action(CALL, resolved(each.given)) if each.what == CALL else each
            for each in self.do
        )
        return RuleChoice(rule=rules, do=do, severity=self.severity)

    def takes(self, finding: Finding) -> bool:
        """Whether it is about a finding, once it is `resolved`."""
        severe = finding.severity == WARNING or self.severity != WARNING
        names = {getattr(each, "name", each) for each in self.rule}
        return severe and bool(names & {ALL, finding.rule})


def rule_choices(given: Any) -> tuple[RuleChoice, ...]:
    """Read what was given as ``rules``: choices, mappings of them, or rules of your own.

    Raises:
        ConfigError: one of them is wrong.
    """
    listed = given if isinstance(given, (list, tuple)) else [] if given is None else [given]
    return tuple(map(_choice, listed))


def _choice(given: Any) -> RuleChoice:
    if isinstance(given, RuleChoice):
        return given
    if isinstance(given, dict):
        return RuleChoice(**{str(key): value for key, value in given.items()})
    return RuleChoice(rule=given)


def own_rules(choices: Iterable[RuleChoice]) -> list[Rule]:
    """The rules of the user's own in some choices that are `resolved`, each once.

    Raises:
        ConfigError: two have one name, or one has that of a rule of distwatch.
    """
    found: dict[str, Rule] = {}
    known = {rule.name for rule in RULES}
    for rule in (rule for choice in choices for rule in choice.own):
        if rule.name in known or found.get(rule.name, rule).find != rule.find:
            raise ConfigError(f"there are two rules {rule.name!r}; rename one.")
        found[rule.name] = rule
    return list(found.values())
