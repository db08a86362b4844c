import pytest

from distwatch.errors import ConfigError, UnknownSignalError
from distwatch.signals import (
    REFERENCES,
    Signal,
    check_patterns,
    check_reference,
    matching,
)

PATHS = ["input", "encoder/dense", "encoder/dense_1", "decoder/dense", "decoder/out[0]"]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["encoder/dense"], ["encoder/dense"]),
        (["dense"], ["encoder/dense", "decoder/dense"]),
        (["dense*"], ["encoder/dense", "encoder/dense_1", "decoder/dense"]),
        (["decoder/*"], ["decoder/dense", "decoder/out[0]"]),
        (["activation/encoder/dense_1"], ["encoder/dense_1"]),
        (["activation/*/dense"], ["encoder/dense", "decoder/dense"]),
        (["dense_?"], ["encoder/dense_1"]),
        (["*"], PATHS),
        # In the model's order, each once, whatever the order of the patterns.
        (["decoder/dense", "dense", "input"], ["input", "encoder/dense", "decoder/dense"]),
        ([], []),
    ],
    ids=str,
)
def test_patterns_choose_layers(patterns, found):
    assert matching(patterns, PATHS) == found


def test_case_counts():
    with pytest.raises(UnknownSignalError):
        matching(["Dense"], PATHS)


def test_a_pattern_that_matches_nothing_names_the_nearest():
    with pytest.raises(UnknownSignalError, match="'encoder/dens'") as error:
        matching(["input", "encoder/dens"], PATHS)
    assert "nearest: 'encoder/dense'" in str(error.value)
    assert "matches no layer" in str(error.value)


def test_no_layer_at_all():
    with pytest.raises(UnknownSignalError, match="nearest: none"):
        matching(["dense"], [])


def test_patterns_become_a_tuple():
    assert check_patterns(None) is None
    assert check_patterns("dense_*") == ("dense_*",)
    assert check_patterns(["a", "b"]) == ("a", "b")


@pytest.mark.parametrize("bad", [[], (), [1], ["a", None]], ids=str)
def test_patterns_are_strings(bad):
    with pytest.raises(ConfigError, match="glob strings"):
        check_patterns(bad)


@pytest.mark.parametrize("bad", [5, True, {"dense": 1}, b"dense"], ids=str)
def test_patterns_that_are_no_sequence(bad):
    with pytest.raises(ConfigError, match="glob strings"):
        check_patterns(bad)


@pytest.mark.parametrize("reference", REFERENCES)
def test_known_references(reference):
    assert check_reference(reference) == reference


def test_an_unknown_reference_names_the_known():
    with pytest.raises(ConfigError, match="'last': choose 'previous' or 'none'"):
        check_reference("last")


def test_a_signal_is_a_value():
    assert Signal("activation/dense") == Signal("activation/dense", "previous")
    assert Signal("a") != Signal("a", "none")
    with pytest.raises(AttributeError):
        Signal("a").name = "b"
