"""Saved models, runs and configuration files of the first version open as they did."""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import distwatch as dw
from distwatch.config import WatchConfig, examine
from distwatch.testing import mirrored

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


def test_a_saved_model_has_its_trackers_and_weights(maker):
    # Keras finds the class by its registered name once dw.Tracker was imported.
    tracker_class = dw.Tracker
    model = keras.saving.load_model(FOLDER / "model.keras")
    trackers = {each.name: each for each in model.layers if isinstance(each, tracker_class)}
    assert set(trackers) == {"place", "change"}
    for name, tracker in trackers.items():
        (said,) = (
            each["config"]
            for each in HELD["model"]["config"]["layers"]
            if each["config"]["name"] == name
        )
        assert {key: tracker.get_config()[key] for key in ("reference", "output")} == {
            key: said[key] for key in ("reference", "output")
        }
    for got, wanted in zip(model.get_weights(), HELD["model"]["weights"], strict=True):
        np.testing.assert_array_equal(got, np.float32(wanted))
    predicted = maker.held_by_model(model)["predicted"]
    np.testing.assert_allclose(predicted, HELD["model"]["predicted"], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_saved_model_is_trained_and_watched_further(maker, tmp_path):
    # Keras finds the class by its registered name once dw.Tracker was imported.
    tracker_class = dw.Tracker
    with mirrored(2).scope():
        model = keras.saving.load_model(FOLDER / "model.keras")
    assert isinstance(model.get_layer("change"), tracker_class)
    maker.train(model, dw.Watch(tmp_path / "run.zarr"))
    run = dw.open_run(tmp_path / "run.zarr")
    assert {"activation/place", "activation/change"} <= set(run.signals)
    # Three batches in each of two epochs, of which six were trained before.
    assert len(run) == 6
    assert run.to_xarray()["iteration"].values.tolist() == [7, 8, 9, 10, 11, 12]


def test_a_run_of_every_kind_holds_what_it_held(maker):
    got = json.loads(json.dumps(maker.held_by_run(FOLDER / "run.zarr")))
    assert without_nan(got) == without_nan(HELD["run"])
    assert len(set(map(tuple, got["tables"].values()))) > 5
    assert dw.open_run(FOLDER / "run.zarr").verify() == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_configuration_file_is_right(path):
    assert isinstance(examine(path), WatchConfig)


@pytest.mark.slow
def test_a_configuration_file_watches_what_it_watched(maker):
    assert len(CONFIGS) == 6
    assert maker.tables_of_a_run_by(FOLDER / "everything.yaml") == HELD["configured"]


def without_nan(held):
    """NaN is no number that equals itself."""
    return json.loads(json.dumps(held), parse_constant=str)
