"""A selector's class is the only declaration of what its kind takes."""

import inspect
import re

import pytest
import yaml

import distwatch as dw
from distwatch.config import WatchConfig, examine, json_schema
from distwatch.errors import ConfigError
from distwatch.signals import KINDS
from distwatch.signals.validation import argument_names

#: What no message may show: words of pydantic, and dumps of its objects.
FOREIGN = re.compile(
    r"pydantic|validation error|Input should|ArgsKwargs|input_value|url|Field required"
)
WRONG_CALLS = [
    lambda: dw.activations(3),
    lambda: dw.activations("a", "b"),
    lambda: dw.activations(outputs="yes"),
    lambda: dw.activations(outputs=None),
    lambda: dw.gradients(local=1),
    lambda: dw.gradients(evry=3),
    lambda: dw.weights(reference=3),
    lambda: dw.weights(reference="last"),
    lambda: dw.weights(reference="neighbour"),
    lambda: dw.updates(statistics=3),
    lambda: dw.updates(every="often"),
    lambda: dw.updates(every={"often": 3}),
    lambda: dw.inputs("x"),
    lambda: dw.loss(patterns="a"),
    lambda: dw.probe(layers="a"),
    lambda: dw.probe(None),
    lambda: dw.tensors("a"),
    lambda: dw.tensors("a", every=3, reduce="max"),
    lambda: dw.tensors("a", every=3, statistics=[dw.histogram()]),
]
WRONG_FILES = [
    "{store: a, window: many}",
    "{store: a, window: 1.5}",
    "{store: a, strict: 3}",
    "{store: a, on_full: ask}",
    "{store: a, max_bytes: lots}",
    "{store: a, max_bytes: 2XB}",
    "{store: a, max_bytes: -3}",
    "{store: a, max_bytes: [3]}",
    "{store: a, reference: 3}",
    "{store: a, phases: 3}",
    "{store: a, phases: [3]}",
    "{store: a, tensorboard: {every: 3}}",
    "{store: a, tensorboard: {folder: a, every: x}}",
    "{store: a, tensorboard: {folder: a, statistics: 3}}",
    "{store: a, tensorboard: {folder: a, signals: [3]}}",
    "{store: a, signals: [{tensors: a}]}",
    "{store: a, signals: {weights: a, statistics: null}}",
    "{store: a, signals: {weights: a, statistics: [{histogram: {acuracy: 3}}]}}",
    "{store: a, signals: {weights: a, 3: b}}",
    "{window: 0}",
]


@pytest.mark.parametrize("call", WRONG_CALLS, ids=lambda call: inspect.getsource(call).strip())
def test_a_wrong_call_is_answered_in_our_own_words(call):
    with pytest.raises(ConfigError) as error:
        call()
    assert not FOREIGN.search(str(error.value)), error.value
    assert "another value" not in str(error.value)


@pytest.mark.parametrize("text", WRONG_FILES)
def test_a_wrong_file_is_answered_in_our_own_words(text, tmp_path):
    path = tmp_path / "watch.yaml"
    path.write_text(text)
    mistakes = examine(path)
    assert not isinstance(mistakes, WatchConfig)
    assert not [each.text for each in mistakes if FOREIGN.search(each.text)]
    assert "another value" not in str(mistakes)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(ConfigError, match="gradients: unknown key 'evry'; nearest: 'every'"):
        dw.gradients(evry=3)
    with pytest.raises(ConfigError, match="tensors: every is missing"):
        dw.tensors("dense")


@pytest.mark.parametrize("kind", KINDS)
def test_schema_signature_and_fields_agree(kind):
    cls = KINDS[kind]
    form = json_schema()["$defs"][cls.__name__]
    taken = argument_names(cls)
    assert list(inspect.signature(cls).parameters) == taken
    assert set(form["properties"]) == {kind, *taken} - {"patterns"}
    assert form["additionalProperties"] is False
    assert getattr(dw, kind) is cls
    assert "Raises" in cls.__doc__
    for name in taken:
        assert re.search(rf"\b{name}\b", cls.__doc__.partition("Args:")[2]), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_says_what_a_call_says(kind, tmp_path):
    """Each kind with each option that is true or false, read back from a file."""
    cls = KINDS[kind]
    signature = inspect.signature(cls)
    flags = {n: True for n, p in signature.parameters.items() if p.default in (True, False)}
    options = {**flags, "every": 7}
    if "reference" in argument_names(cls):
        options["reference"] = "first"
    chosen = ["dense_*", "re:out.*"] if "patterns" in argument_names(cls) else None
    path = tmp_path / "watch.yaml"
    path.write_text(yaml.safe_dump({"store": "a", "signals": [{kind: chosen, **options}]}))
    called = cls(*([chosen] if chosen else []), **options)
    assert examine(path).signals == (called,)
    assert called != cls(*([chosen] if chosen else []), **{**options, "every": 8})


def test_each_wrong_signal_of_a_list_has_its_own_line(tmp_path):
    path = tmp_path / "watch.yaml"
    path.write_text(
        "store: a\n"
        "signals:\n"
        "  - dense\n"
        "  - weights: a\n"
        "    reference: neighbour\n"
        "  - {gradients: null}\n"
        "  - {gradients: null, local: 3}\n"
        "  - 5\n"
        "tensorboard: {folder: logs, every: 0}\n"
    )
    mistakes = examine(path)
    assert [mistake.line for mistake in mistakes] == [4, 7, 8, 9]
    assert mistakes[1].text == "gradients: local=3: expected true or false"


def test_two_probes_are_never_equal():
    """Their batches are arrays, of which the truth is not known."""
    probe = dw.probe([1.0], layers="a")
    assert [probe] == [probe]
    assert probe != dw.probe([1.0], layers="a")
    assert probe.patterns == ("a",)
    assert dw.probe([1.0]).schedule == dw.every(50)
