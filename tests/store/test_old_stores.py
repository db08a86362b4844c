"""Stores that earlier versions wrote are read back for ever."""

import json
import sys
from pathlib import Path

import pytest

import distwatch as dw

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def what_it_holds(monkeypatch):
    monkeypatch.syspath_prepend(DATA)
    import make_sample

    yield make_sample.what_it_holds
    sys.modules.pop("make_sample")


@pytest.mark.parametrize("name", ["format-1"])
def test_what_it_held_is_what_it_holds(name, what_it_holds):
    wanted = json.loads((DATA / f"{name}.json").read_text())
    got = json.loads(json.dumps(what_it_holds(DATA / f"{name}.zarr")))
    assert _without_nan(got) == _without_nan(wanted)
    assert dw.open_run(DATA / f"{name}.zarr").verify() == []


def _without_nan(held):
    """NaN is no number that equals itself."""
    return json.loads(json.dumps(held), parse_constant=str)
