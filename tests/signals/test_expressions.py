"""Regular expressions match what Python's do, and always end."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distwatch.config import watch_config
from distwatch.errors import ConfigError
from distwatch.signals import expressions
from distwatch.signals.expressions import fullmatch
from distwatch.signals.patterns import matches

#: Expressions whose ways Python's matcher goes one by one, and what they do match.
ENDLESS = [
    ("(a+)+b", "aaab"),
    ("(a|a)*b", "aab"),
    ("(a*)*b", "ab"),
    ("(a|aa)+b", "aaab"),
    ("([a-z]+)*b", "xyb"),
    ("(.*)(.*)(.*)(.*)(.*)(.*)b", "xyzb"),
    ("a?" * 40 + "a{40}b", "a" * 50 + "b"),
    ("(a{0,9}){0,9}(a{0,9}){0,9}b", "aab"),
    ("(?=(a+)+b).*", "aab"),
    (r"((a+)+)b\1", "aabaa"),
]

LONG = "a" * 3000


@pytest.mark.parametrize(("expression", "text"), ENDLESS)
def test_no_expression_is_endless(monkeypatch, expression, text):
    assert fullmatch(re.compile(expression), text)
    monkeypatch.setattr(expressions, "SECONDS", 0.2)
    began = time.process_time()
    try:
        assert not fullmatch(re.compile(expression), LONG)
    except ConfigError as error:
        assert "fewer repetitions" in str(error)
    assert time.process_time() - began < 2


def test_what_takes_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(expressions, "SECONDS", 0.2)
    with pytest.raises(ConfigError, match=r"\(a\|aa\)\+b.* in 0\.2 seconds"):
        fullmatch(re.compile("(a|aa)+b"), LONG)


@pytest.mark.parametrize("glob", ["*a" * 40 + "b", "[a]*" * 40 + "b", "a?*" * 30 + "b"])
def test_no_glob_is_endless(glob):
    began = time.process_time()
    assert not matches(glob, LONG, ("activation",))
    assert time.process_time() - began < 5


REPEATS = ["*", "+", "?", "{2}", "{1,2}", "{2,}", "*?", "+?"]
PIECES = st.recursive(
    st.sampled_from(
        ["a", "b", "/", ".", "[ab]", "[^a]", r"\d", r"\w", r"\b", "^", "$", "(?i:A)", "(?=b)",
         "(?!a)", "(?<=a)", "(?<!b)", "B"]
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(REPEATS)).map(lambda two: f"(?:{two[0]}){two[1]}"),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    expression=PIECES,
    text=st.text("abB/1\n", max_size=6),
    flags=st.sampled_from([0, re.I, re.S, re.M | re.A]),
)
def test_what_matches_is_what_python_matches(expression, text, flags):
    compiled = re.compile(expression, flags)
    assert fullmatch(compiled, text) == (compiled.fullmatch(text) is not None)


def test_a_selector_with_such_an_expression_is_read_at_once():
    watch_config(store="run.zarr", signals=[r"re:(a+)+b"])
    assert matches("re:(.*a)*b", f"{LONG}b", ())
