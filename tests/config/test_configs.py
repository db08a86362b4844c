"""Each file in configs/ is one that `Watch.from_config` takes."""

import inspect
from pathlib import Path

import pytest
from trainings import fit, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import ConfigError
from distwatch.signals import KINDS

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture(autouse=True)
def somewhere_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_is_taken_and_nothing_is_created(path, tmp_path):
    watch = dw.Watch.from_config(path)
    # A run that is resumed has a path of its own; the others can be begun again and again.
    exact = Path("run.zarr").absolute()
    usual = dw.Watch().config.store
    assert watch.config.store == (exact if watch.config.resume else usual)
    assert list(tmp_path.iterdir()) == []


def test_all_uses_are_there():
    uses = {"everything", "every_10th_step", "gradients", "minimal", "production"}
    assert {path.stem for path in CONFIGS} >= uses


def test_minimal_says_what_watch_does_by_itself():
    assert dw.Watch.from_config(FOLDER / "minimal.yaml").config == dw.Watch().config


def test_minimal_names_every_argument():
    written = (FOLDER / "minimal.yaml").read_text()
    for name in inspect.signature(dw.Watch).parameters:
        assert f"\n{name}:" in written


def test_gradients_chooses_five_kinds():
    signals = dw.Watch.from_config(FOLDER / "gradients.yaml").config.signals
    weights = dw.weights("*/kernel", every=10, statistics=[dw.histogram(accuracy=0.02)])
    assert signals == (dw.gradients(), dw.updates(), weights, dw.loss(), dw.inputs())


def test_production_is_sparse_and_bounded():
    watch = dw.Watch.from_config(FOLDER / "production.yaml")
    assert watch.schedule == dw.every(10)
    assert watch.config.max_bytes == 2_000_000_000
    assert watch.config.max_overhead == 0.05
    assert (watch.config.resume, watch.config.durability) == (True, "power")


@pytest.mark.slow
def test_everything_is_all_that_a_file_can_name_and_trains():
    watch = dw.Watch.from_config(FOLDER / "everything.yaml")
    chosen = {selector.kind for selector in watch.config.signals}
    # Few models have stateful RNN layers, or steps that log numbers, and with one replica there
    # are no copies; the others would be warned about.
    assert chosen == set(KINDS) - {"states", "desync", "logged"}
    text = (FOLDER / "everything.yaml").read_text()
    assert "# - {states: null}" in text and "# - {desync: null, every: 100}" in text
    x, y = unlike_rows(96)
    model, _ = small_model(strategy_over(2))
    fit(model, x, y, watch, epochs=1)
    found = {name.split("/")[0] for name in dw.open_run(watch.path).signals}
    prefixes = {prefix for kind in chosen for prefix in KINDS[kind].prefixes}
    # The file does not ask for what layers take in, and its optimizer does not clip.
    assert found == prefixes - {"activation_input", "gradient_clipped"}


def test_every_10th_step_looks_at_every_tenth_step():
    watch = dw.Watch.from_config(FOLDER / "every_10th_step.yaml")
    assert [step for step in range(31) if watch.schedule(step)] == [0, 10, 20, 30]


@pytest.mark.parametrize("name", ["sampled", "sampled.yaml", "configs/sampled.yaml"])
def test_a_file_by_its_former_name_is_answered_with_the_new_one(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"sampled.* is called every_10th_step"):
        dw.Watch.from_config(name)
    # A file of one's own may have that name.
    (tmp_path / "configs").mkdir()
    Path(name).write_text("schedule: {every: 5}")
    assert dw.Watch.from_config(name).schedule == dw.every(5)


def test_tensorboard_chooses_what_is_written_and_logged():
    config = dw.Watch.from_config(FOLDER / "tensorboard.yaml").config
    assert config.tensorboard.folder == Path("logs/run-1").absolute()
    assert config.tensorboard.every == 10
    assert config.log_to_keras == (("loss*", "mean"), ("update/*/kernel", "ratio"))
    activations = dw.activations(every=10, statistics=[dw.histogram()])
    assert config.signals == (activations, dw.updates(), dw.loss())
