"""What patterns match: the variables of a layer by its name, where variables are chosen."""

import pytest

from distwatch.errors import UnknownSignalError
from distwatch.signals import ExactPath, matching

VARIABLES = [
    "encoder/dense/kernel",
    "encoder/dense/bias",
    "hidden/kernel",
    "hidden/bias",
    "dense/kernel",
    "lstm/lstm_cell/kernel",
]


@pytest.mark.parametrize(
    "pattern, paths",
    [
        ("hidden", ["hidden/kernel", "hidden/bias"]),
        ("gradient/hidden", ["hidden/kernel", "hidden/bias"]),
        ("encoder", ["encoder/dense/kernel", "encoder/dense/bias"]),
        ("encoder/dense", ["encoder/dense/kernel", "encoder/dense/bias"]),
        ("lstm", ["lstm/lstm_cell/kernel"]),
        ("dense", ["encoder/dense/kernel", "encoder/dense/bias", "dense/kernel"]),
        # One layer alone, as when it was given as an object.
        (ExactPath("dense"), ["dense/kernel"]),
        (ExactPath("encoder"), ["encoder/dense/kernel", "encoder/dense/bias"]),
        (ExactPath(""), VARIABLES),
        # A variable's own name, and globs, mean what they always did.
        ("bias", ["encoder/dense/bias", "hidden/bias"]),
        ("hid*/kernel", ["hidden/kernel"]),
    ],
)
def test_the_name_of_a_layer_means_its_variables(pattern, paths):
    found = matching([pattern], VARIABLES, prefixes=["gradient"], inside=True)
    assert found == paths


@pytest.mark.parametrize("pattern", ["hidde?", "[h]idden", "re:hid.en"])
def test_with_wildcards_it_is_over_paths_of_variables_alone(pattern):
    with pytest.raises(UnknownSignalError):
        matching([pattern], VARIABLES, inside=True)


@pytest.mark.parametrize("pattern", ["encoder", ExactPath("dense")])
def test_the_name_of_a_layer_is_not_that_of_the_layers_inside(pattern):
    with pytest.raises(UnknownSignalError):
        matching([pattern], ["encoder/dense"])
