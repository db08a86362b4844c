"""Runs and configuration files of the first version open as they did."""

import json
import sys
from pathlib import Path

import pytest

import distwatch as dw
from distwatch.config import WatchConfig, examine

FOLDER = Path(__file__).parent / "data" / "first_version"
HELD = json.loads((FOLDER / "held.json").read_text())
CONFIGS = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture(scope="module")
def maker():
    """The script that made these files, for what it says of them."""
    sys.path.insert(0, str(FOLDER.parent))
    import make_first_version

    yield make_first_version
    sys.path.remove(str(FOLDER.parent))
    sys.modules.pop("make_first_version")


def test_a_run_of_every_kind_holds_what_it_held(maker):
    got = json.loads(json.dumps(maker.held_by_run(FOLDER / "run.zarr")))
    assert without_nan(got) == without_nan(HELD["run"])
    assert len(set(map(tuple, got["tables"].values()))) > 5
    assert dw.open_run(FOLDER / "run.zarr").verify() == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_configuration_file_is_right(path):
    assert isinstance(examine(path), WatchConfig)


def test_a_configuration_file_watches_what_it_watched(maker):
    assert len(CONFIGS) == 6
    assert maker.tables_of_a_run_by(FOLDER / "everything.yaml") == HELD["configured"]


def without_nan(held):
    """NaN is no number that equals itself."""
    return json.loads(json.dumps(held), parse_constant=str)
