import re

import pytest

import distwatch as dw
from distwatch.config import watch_config
from distwatch.errors import ConfigError, UnknownSignalError
from distwatch.signals import (
    Selector,
    Signal,
    check_reference,
    is_name,
    matching,
    selector_hint,
)

PATHS = ["input", "encoder/dense", "encoder/dense_1", "decoder/dense", "decoder/out[0]"]


def check_selectors(signals):
    return watch_config(store="run.zarr", signals=signals).signals


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


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("encoder/dense", True), ("dense~2", True), ("re:encoder/dense", True),
        ("dense*", False), ("dense_?", False), ("dens[ae]", False),
        ("re:dense|head", False), (re.compile("den.e"), False), (re.compile("dense"), True),
    ],
)  # fmt: skip
def test_what_is_a_name(pattern, name):
    assert is_name(pattern) is name


def test_wildcards_that_match_nothing_may_be_passed_over():
    passed = []

    def pass_over(pattern, what):
        passed.append((pattern, what))

    found = matching(["conv*", "re:x+", "input"], PATHS, pass_over=pass_over)
    assert found == matching(["input"], PATHS)
    assert passed == [("conv*", "layer of this model"), ("re:x+", "layer of this model")]
    with pytest.raises(UnknownSignalError, match="'conv_1' matches no layer"):
        matching(["conv_1"], PATHS, pass_over=pass_over)


def test_no_layer_at_all():
    with pytest.raises(UnknownSignalError, match="nearest: none"):
        matching(["dense"], [])


@pytest.mark.parametrize(
    "pattern", ["re:.*dense_?[0-9]*", re.compile(r"(encoder|decoder)/d.*")]
)
def test_regular_expressions(pattern):
    found = ["encoder/dense", "encoder/dense_1", "decoder/dense"]
    assert matching([pattern], PATHS) == found


def test_a_wrong_regular_expression():
    with pytest.raises(ConfigError, match="not a regular expression"):
        dw.activations("re:dense_(")


def test_strings_are_one_selector_of_activations():
    assert check_selectors(None) is None
    assert check_selectors("dense_*") == (dw.activations("dense_*"),)
    assert check_selectors(["a", "b"]) == (dw.activations(["a", "b"]),)
    assert check_selectors(dw.loss()) == (dw.loss(),)
    assert check_selectors(["a", dw.loss(), "b"]) == (dw.activations(["a", "b"]), dw.loss())


@pytest.mark.parametrize("bad", [[], (), [1], ["a", None], 5, True, b"dense"], ids=str)
def test_signals_are_patterns_or_selectors(bad):
    with pytest.raises(ConfigError, match="glob strings"):
        check_selectors(bad)


def test_selectors_in_configuration_files():
    written = [
        {"gradients": "dense_*", "every": 10, "statistics": ["histogram"]},
        {"weights": None, "reference": "ema(0.9)", "every": {"first": 3}},
        {"updates": ["a", "b"], "statistics": [{"histogram": {"accuracy": 0.01}}]},
        {"tensors": "dense", "every": 50, "reduce": "mean", "dtype": "float16"},
        {"loss": True},
    ]
    read = check_selectors(written)
    assert read[0] == dw.gradients("dense_*", every=10, statistics=[dw.histogram()])
    assert read[1] == dw.weights(reference="ema(0.9)", every=dw.first(3))
    assert read[2] == dw.updates(["a", "b"], statistics=[dw.histogram(accuracy=0.01)])
    assert read[3] == dw.tensors("dense", every=50, reduce="mean", dtype="float16")
    assert read[4] == dw.loss()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"gradient": "a"}, "known: activations"),
        ({"gradients": "a", "weights": "b"}, "one kind"),
        ({"gradients": "a", "evry": 3}, "evry"),
        ({"weights": "a", "statistics": ["histogramm"]}, "histogramm"),
        ({"weights": "a", "statistics": ["ratio"]}, "choose from ['histogram']"),
        ({"weights": "a", "statistics": [3]}, "name one statistic"),
        ({"weights": "a", "reference": "neighbour"}, "no batch dim"),
        ({"loss": True, "every": 0}, "whole number"),
        ({"tensors": "a", "every": 5, "reduce": "max"}, "reduce='max'"),
        ({"tensors": "a", "every": 5, "dtype": "int8"}, "dtype='int8'"),
        ({"activations": "a", "outputs": False}, "watch nothing"),
        ({"gradients": "a", "local": False, "applied": False}, "watch nothing"),
    ],
)
def test_wrong_selectors_say_what_is_wrong(bad, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        check_selectors([bad])


def test_further_statistics_are_statistics_or_their_names():
    assert dw.weights(statistics=["histogram"]).statistics == (dw.histogram(),)
    for wrong, said in (
        (["ratio"], r"choose from \['histogram'\]"),
        (["histogramm"], "nearest: 'histogram'"),
        ([3], "name one statistic"),
        ([dw.histogram(), "histogram"], "given once"),
    ):
        with pytest.raises(ConfigError, match=said):
            dw.weights(statistics=wrong)


@pytest.mark.parametrize("reference", ["previous", "batch_mean", "first", "ema(0.9)", "none"])
def test_known_references(reference):
    assert check_reference(reference) == reference


def test_a_moving_average_by_name():
    assert dw.ema(0.99) == "ema(0.99)"
    for decay in (0, 1, -1, 2):
        with pytest.raises(ConfigError, match=r"between 0 and 1|unknown reference"):
            dw.ema(decay)


@pytest.mark.parametrize("bad", ["last", "ema", "ema()", "ema(x)"])
def test_an_unknown_reference_names_the_known(bad):
    with pytest.raises(ConfigError, match=r"'previous', .*'ema\(0.99\)'|between 0 and 1"):
        check_reference(bad)


def test_a_signal_is_a_value():
    assert Signal("activation/dense") == Signal("activation/dense", "previous")
    assert Signal("a") != Signal("a", "none")
    assert Signal("a") != Signal("a", after="relu")
    # What is only said of it may differ between workers and starts.
    said = {"recomputed": 3, "scaled": "unknown", "order": 2, "copied": True, "trained": False}
    assert Signal("a") == Signal("a", **said)
    with pytest.raises(AttributeError):
        Signal("a").name = "b"


@pytest.mark.parametrize(
    ("pattern", "selector"),
    [
        ("loss", "loss"), ("gradient*", "gradients"), ("gradients", "gradients"),
        ("gradient/dense/*", "gradients"), ("learning_rate", "learning_rate"),
        ("input", "inputs"), ("re:weights/.*", "weights"), (re.compile("updates"), "updates"),
    ],
)  # fmt: skip
def test_a_kind_that_is_written_as_a_layer_names_its_selector(pattern, selector):
    assert selector_hint(pattern).endswith(f"distwatch.{selector})")
    assert issubclass(getattr(dw, selector), Selector)
    with pytest.raises(UnknownSignalError, match=rf"distwatch\.{selector}\)"):
        matching([pattern], ["encoder/dense"], hint=selector_hint)


@pytest.mark.parametrize(
    "pattern", ["dense", "losses_of_mine", "activation/dense", "*", "", "lossy*", "conv/loss"]
)
def test_other_names_have_no_such_hint(pattern):
    assert selector_hint(pattern) == ""
