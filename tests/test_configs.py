"""Each file in configs/ is one that `Watch.from_config` takes."""

import inspect
from pathlib import Path

import pytest

import distwatch as dw

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture(autouse=True)
def somewhere_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_is_taken_and_nothing_is_created(path, tmp_path):
    watch = dw.Watch.from_config(path)
    assert watch.config.store == Path("run.zarr")
    assert list(tmp_path.iterdir()) == []


def test_all_uses_are_there():
    assert {path.name for path in CONFIGS} >= {"gradients.yaml", "minimal.yaml", "sampled.yaml"}


def test_minimal_says_what_watch_does_by_itself():
    assert dw.Watch.from_config(FOLDER / "minimal.yaml").config == dw.Watch("run.zarr").config


def test_minimal_names_every_argument():
    written = (FOLDER / "minimal.yaml").read_text()
    for name in inspect.signature(dw.Watch).parameters:
        assert f"\n{name}:" in written


def test_gradients_chooses_five_kinds():
    signals = dw.Watch.from_config(FOLDER / "gradients.yaml").config.signals
    weights = dw.weights("*/kernel", every=10, statistics=[dw.histogram(accuracy=0.02)])
    assert signals == (dw.gradients(), dw.updates(), weights, dw.loss(), dw.inputs())


def test_sampled_looks_at_every_tenth_step():
    watch = dw.Watch.from_config(FOLDER / "sampled.yaml")
    assert [step for step in range(31) if watch.schedule(step)] == [0, 10, 20, 30]


def test_tensorboard_chooses_what_is_written_and_logged():
    config = dw.Watch.from_config(FOLDER / "tensorboard.yaml").config
    assert config.tensorboard.folder == Path("logs/run-1")
    assert config.tensorboard.every == 10
    assert config.log_to_keras == (("loss", "mean"), ("update/*/kernel", "ratio"))
    activations = dw.activations(every=10, statistics=[dw.histogram()])
    assert config.signals == (activations, dw.updates(), dw.loss())
