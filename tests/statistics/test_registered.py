"""What a statistic declares about itself is what it does."""

import dataclasses

import numpy as np
import pytest

from distwatch.errors import ConfigError
from distwatch.statistics import (
    FURTHER,
    QUANTITIES,
    ROW,
    VALUES,
    automatic,
    from_spec,
    observe,
    requested,
    special_elements,
    with_row,
)

ELEMENTS = np.float64([3.0, -1.5, 0.0, 2e4, np.nan, np.inf])
ALL = [*ROW.parts, *(make() for make in FURTHER)]
named = pytest.mark.parametrize("statistic", ALL, ids=lambda each: type(each).__name__)


@named
def test_what_is_computed_is_declared(statistic):
    computed = statistic.compute(observe(statistic, ELEMENTS))
    assert [*computed] == [value.name for value in statistic.values]
    for value in statistic.values:
        assert (computed[value.name].dtype.kind == "i") is value.whole


@named
def test_arguments_are_declared(statistic):
    fields = dataclasses.fields(statistic) if dataclasses.is_dataclass(statistic) else ()
    assert [*statistic.parameters] == [field.name for field in fields]


@pytest.mark.parametrize("make", FURTHER)
def test_a_spec_makes_it_again(make):
    spec = make().spec()
    assert spec["name"] == make.name
    (again,) = from_spec([spec]).further
    assert (type(again), again.spec()) == (make, spec)
    # Equal ones share a table.
    assert again == make() and hash(again) == hash(make())
    assert with_row((again,)) == with_row((make(),)) != ROW
    assert again != ROW.parts[0]


def test_names_are_unique_and_in_the_order_of_lists():
    names = [value.name for value in VALUES]
    usual = ["count", "mean", "std", "min", "max", "l1", "l2", "zeros", "nans", "infs"]
    assert (names[:10], names[-1]) == (usual, "spread")
    assert {"ratio", "checksum"} < set(names)
    assert len(set(names)) == len(names)
    drawn = [quantity.name for quantity in QUANTITIES]
    assert drawn[:7] == ["size", "ratio", "spread", "std", "mean", "zeros", "l2"]
    assert len({quantity.rank for quantity in QUANTITIES}) == len(set(drawn)) == len(drawn)


def test_quantities_are_derived_from_values():
    row = with_row(tuple(make() for make in FURTHER if not make().wide))
    # Two replicas of different means, and all of them.
    parts = [ELEMENTS, ELEMENTS[:3] + 10.0]
    states = [row.pack(observe(row, part)) for part in (*parts, np.concatenate(parts))]
    values = row.read(np.stack(states)[None, :, None])
    found = {quantity.name: quantity.derive(values) for quantity in row.quantities}
    finite = [part[np.isfinite(part)] for part in parts]
    whole = np.concatenate(finite)
    assert found["size"][0, -1, 0] == pytest.approx(np.abs(whole).mean())
    assert found["zeros"][0, 0, 0] == pytest.approx(1 / 6)
    apart = abs(finite[0].mean() - finite[1].mean())
    assert found["spread"].shape == (1, 1, 1)
    assert found["spread"][0, 0, 0] == pytest.approx(apart)
    assert found["mean"][0, 1, 0] == pytest.approx(finite[1].mean())


def test_nothing_is_known_where_nothing_was_compared():
    read = ROW.read(ROW.pack(observe(ROW, np.zeros(0))))
    unknown = {name for name, value in read.items() if np.isnan(value)}
    assert unknown == {value.name for value in ROW.values if value.compared}
    assert read["count"] == 0
    absent = ROW.read(np.full((2, len(ROW.fields)), np.nan))
    assert all(np.isnan(values).all() for values in absent.values())


def test_some_kinds_have_statistics_unasked_which_none_can_ask_for():
    assert [each.name for each in automatic("updates")] == ["signal_counts", "ratio"]
    assert [each.name for each in automatic("inputs")] == ["signal_counts", "checksum"]
    assert [each.name for each in automatic("weights")] == ["signal_counts"]
    with pytest.raises(ConfigError, match=r"choose from \['histogram'\]"):
        requested(["checksum"])
    with pytest.raises(ConfigError, match=r"choose from \['histogram'\]"):
        requested(["signal_counts"])


def test_special_elements_are_those_of_the_signal_where_they_are_counted():
    of_delta = {"nans": np.int64([2, 2, 0]), "infs": np.int64([1, 0, 0])}
    assert special_elements(of_delta).tolist() == [3, 2, 0]
    counted = {"signal_nan_count": [0, np.nan, 4], "signal_inf_count": [1, np.nan, 0]}
    own = {name: np.float64(values) for name, values in counted.items()}
    assert special_elements(of_delta | own).tolist() == [1, 2, 4]
