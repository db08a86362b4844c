"""The run of a fit: where it lies, who may write it, and when an old one is deleted."""

import keras
import pytest
from trainings import fit, same_weights, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import (
    ConfigError,
    RunTakenError,
    SetupError,
    WatcherDisabledWarning,
)
from distwatch.testing.fake import fake_run


class At(keras.callbacks.Callback):
    """Does something at the end of a batch."""

    def __init__(self, batch, does):
        super().__init__()
        self._batch, self._does = batch, does

    def on_train_batch_end(self, batch, logs=None):
        if batch == self._batch:
            self._does()


def trained(*callbacks, rows=320):
    model, _ = small_model(strategy_over(1))
    fit(model, *unlike_rows(rows), *callbacks)
    return model


def moved(path):
    return lambda: path.rename(path.with_name("moved.zarr"))


def overwritten(path):
    return lambda: trained(dw.Watch(path, overwrite=True, signals="dense_1"), rows=64)


@pytest.mark.fast_cases("moved")
@pytest.mark.parametrize("happens", [moved, overwritten])
def test_a_run_that_is_gone_ends_the_watching_with_one_warning(tmp_path, happens):
    path = tmp_path / "run.zarr"
    watch = dw.Watch(path, signals=dw.activations(), window=2)
    with pytest.warns(WatcherDisabledWarning, match="RunTakenError") as warned:
        model = trained(watch, At(9, happens(path)))
    assert len(warned) == 1
    assert isinstance(watch.status.error, RunTakenError)
    assert watch.status.committed + watch.status.lost == watch.status.steps
    assert same_weights(model, trained())
    if happens is moved:
        assert not path.exists()
        assert len(dw.open_run(tmp_path / "moved.zarr")) == watch.status.committed <= 10
    else:
        run = dw.open_run(path)
        assert (run.signals, len(run), run.ended) == (["activation/dense_1"], 4, "closed")
        assert run.verify() == []


@pytest.mark.slow
def test_a_relative_path_is_that_of_when_the_watch_was_made(tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    watch = dw.Watch("run.zarr", window=4, tensorboard="logs")
    monkeypatch.chdir(tmp_path / "there")
    elsewhere = At(9, lambda: monkeypatch.chdir(tmp_path))
    trained(watch, elsewhere)
    assert len(dw.open_run(tmp_path / "here" / "run.zarr")) == 20
    assert list((tmp_path / "here" / "logs").rglob("events.*"))
    assert not list((tmp_path / "there").iterdir())


def test_a_relative_path_in_a_folder_that_is_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="the current folder is gone"):
        dw.Watch("run.zarr")


@pytest.mark.slow
def test_a_refusal_leaves_the_event_files_of_the_run_that_stays(tmp_path):
    how = {"tensorboard": tmp_path / "logs"}
    trained(dw.Watch(tmp_path / "run.zarr", **how), rows=64)
    before = set((tmp_path / "logs").rglob("events.*"))
    assert before
    with pytest.raises(SetupError):
        trained(dw.Watch(tmp_path / "run.zarr", **how, overwrite=True, max_bytes="1kB"))
    assert set((tmp_path / "logs").rglob("events.*")) == before
    trained(dw.Watch(tmp_path / "run.zarr", **how, overwrite=True), rows=64)
    assert not before & set((tmp_path / "logs").rglob("events.*"))


#: What is refused when the first step is traced, after the path was claimed.
REFUSED = {"max_bytes": "1kB", "log_to_keras": ["activation/nothing:l2"]}


@pytest.mark.parametrize(
    "option", ["max_bytes", pytest.param("log_to_keras", marks=pytest.mark.slow)]
)
def test_a_refusal_leaves_the_path_as_it_was(tmp_path, option):
    path = tmp_path / "run.zarr"
    how = {option: REFUSED[option]}
    with pytest.raises(SetupError):
        trained(dw.Watch(path, **how))
    assert list(tmp_path.iterdir()) == []
    fake_run(path, steps=5)
    before = sorted(path.rglob("*"))
    for again in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(SetupError):
            trained(dw.Watch(path, **how, **again))
        assert sorted(path.rglob("*")) == before
    assert len(dw.open_run(path)) == 5


@pytest.mark.slow
def test_a_fit_without_rows_overwrites(tmp_path):
    path = fake_run(tmp_path / "run.zarr", steps=5).path
    trained(dw.Watch(path, overwrite=True, schedule=dw.at(1000)))
    run = dw.open_run(path)
    assert len(run) == 0
    assert [child.name for child in tmp_path.iterdir()] == ["run.zarr"]
