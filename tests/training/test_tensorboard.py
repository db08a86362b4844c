"""Event files that a Watch writes while it trains."""

import threading

import keras
import numpy as np
import pytest
from made_up import histograms, scalars
from trainings import (
    broken_disk,
    fit,
    same_weights,
    small_model,
    strategy_over,
    unlike_rows,
)

import distwatch as dw
from distwatch.errors import (
    ConfigError,
    EventFilesWarning,
    RunExistsError,
    UnknownSignalError,
)
from distwatch.event_files.options import EventOptions
from distwatch.event_files.writer import EventWriter
from distwatch.export import write_events
from distwatch.store import StoredRun

X, Y = unlike_rows(126)


def train(path, *, replicas=1, spe=1, epochs=2, **how):
    model, _ = small_model(strategy_over(replicas), spe=spe)
    watch = dw.Watch(path, **how)
    fit(model, X, Y, watch, epochs=epochs, validation_data=(X[:32], Y[:32]))
    return model, watch


def read_all(folder):
    """Run -> scalars, histograms; in all folders under one."""
    runs = sorted({path.parent for path in folder.rglob("events*")})
    return {str(run.relative_to(folder)): (scalars(run), histograms(run)) for run in runs}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two replicas, several steps an execution, two phases, tables on different steps."""
    folder = tmp_path_factory.mktemp("trained")
    _, watch = train(
        folder / "run.zarr",
        replicas=2,
        spe=3,
        signals=[
            dw.activations(statistics=[dw.histogram()]),
            dw.updates(every=5),
            dw.loss(),
        ],
        phases=["train", "test"],
        window=4,
        tensorboard=folder / "live",
    )
    assert watch.status.error is None
    return folder


@pytest.mark.slow
def test_live_files_are_those_of_an_export(trained):
    for phase in ("train", "test"):
        write_events(StoredRun(trained / "run.zarr", phase), EventOptions(trained / "later"))
    live = read_all(trained / "live")
    assert set(live) == {
        *("merged", "replica-0", "replica-1"),
        *("test/merged", "test/replica-0", "test/replica-1"),
    }
    assert live == read_all(trained / "later")


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["train", "test"])
def test_scalars_are_those_of_the_store_to_float32(trained, phase):
    run = dw.open_run(trained / "run.zarr", phase=phase)
    folder = trained / "live" / ("" if phase == "train" else phase)
    compared = 0
    for name in ("merged", "replica-0", "replica-1"):
        for tag, events in scalars(folder / name).items():
            signal, _, statistic = tag.rpartition("/")
            if name == "merged":
                kept = run[signal].merged(statistic)
            else:
                kept = run[signal].per_replica(statistic).sel(replica=int(name[-1]))
            kept = kept.dropna("step")
            steps, values = zip(*events, strict=True)
            np.testing.assert_array_equal(steps, kept.step)
            np.testing.assert_array_equal(
                np.asarray(values, np.float32), kept.values.astype(np.float32)
            )
            compared += len(events)
    # 8 batches in each of 2 epochs: 15 changes of 3 layers and the model's output.
    if phase == "train":
        assert compared >= 15 * 4 * (4 + 3 + 3)


@pytest.mark.slow
def test_histograms_are_those_of_the_store(trained):
    run = dw.open_run(trained / "run.zarr")
    for name in ("merged", "replica-1"):
        found = histograms(trained / "live" / name)
        assert set(found) == {f"activation/{x}/histogram" for x in (
            "dense_0", "dense_1", "dense_2", "output")}  # fmt: skip
        for tag, events in found.items():
            signal = tag.removesuffix("/histogram")
            kept = run.histogram(signal, merged=name == "merged")
            kept = kept if name == "merged" else kept.sel(replica=1)
            assert [step for step, _ in events] == list(range(1, 16))
            for step, histogram in events:
                counts = kept.sel(step=step).values
                shown = np.asarray(histogram.bucket)
                np.testing.assert_array_equal(shown[shown > 0], counts[counts > 0])
                assert histogram.num == counts.sum()


@pytest.mark.slow
def test_training_and_store_are_those_without_it(tmp_path):
    with_it, _ = train(tmp_path / "with.zarr", tensorboard=str(tmp_path / "logs"), window=4)
    without, _ = train(tmp_path / "without.zarr", window=4)
    assert same_weights(with_it, without)
    rows = dw.open_run(tmp_path / "with.zarr").to_xarray()
    assert rows.identical(dw.open_run(tmp_path / "without.zarr").to_xarray())
    assert scalars(tmp_path / "logs" / "merged")


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_an_error_is_said_once_and_ends_nothing_else(tmp_path, monkeypatch, strict):
    monkeypatch.setattr(EventWriter, "append", broken_disk(EventWriter, after=1))
    options = {"tensorboard": tmp_path / "logs", "window": 4, "strict": strict}
    options["signals"] = dw.activations()
    with pytest.warns(EventFilesWarning, match="No space left on device") as warned:
        model, watch = train(tmp_path / "run.zarr", **options)
    assert len(warned) == 1
    assert "distwatch export RUN --tensorboard DIR" in str(warned[0].message)
    assert watch.status.error is None
    assert (watch.status.committed, watch.status.lost) == (16, 0)
    assert len(dw.open_run(tmp_path / "run.zarr")) == 16
    monkeypatch.undo()
    unwatched, _ = train(tmp_path / "again.zarr")
    assert same_weights(model, unwatched)
    # What was written before stays readable.
    steps = [step for step, _ in scalars(tmp_path / "logs" / "merged")["activation/output/l2"]]
    assert steps == [1, 2, 3]


def test_the_store_never_waits_for_event_files(tmp_path, monkeypatch):
    """Blocks that do not fit in the queue are left out of them, and that is said."""
    original, trained = EventWriter.append, threading.Event()

    def slow(self, block):
        assert trained.wait(60)
        original(self, block)

    class Trained(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            trained.set()

    monkeypatch.setattr(EventWriter, "append", slow)
    monkeypatch.setattr("distwatch.event_files.live.MAX_BYTES", 1)
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(
        tmp_path / "run.zarr", tensorboard=tmp_path / "logs", window=2, signals=dw.activations()
    )
    with pytest.warns(EventFilesWarning, match="they are slower than training") as warned:
        fit(model, X, Y, Trained(), watch)
    assert len(warned) == 1
    assert (watch.status.committed, watch.status.lost) == (8, 0)
    steps = [step for step, _ in scalars(tmp_path / "logs" / "merged")["activation/output/l2"]]
    assert steps == [1]


@pytest.mark.slow
def test_what_lies_there_is_refused_before_the_store_is_claimed(tmp_path):
    train(tmp_path / "a.zarr", tensorboard=tmp_path / "logs", epochs=1)
    with pytest.raises(RunExistsError, match="event files of another run"):
        train(tmp_path / "b.zarr", tensorboard=tmp_path / "logs", epochs=1)
    assert not (tmp_path / "b.zarr").exists()
    train(tmp_path / "a.zarr", tensorboard=tmp_path / "logs", epochs=2, overwrite=True)
    found = scalars(tmp_path / "logs" / "merged")["activation/output/l2"]
    assert [step for step, _ in found] == list(range(1, 16))


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_same_folder(tmp_path):
    """The optimizer's count says where: that of a new model is 0, so all is replaced."""
    how = {"tensorboard": tmp_path / "logs", "resume": True, "window": 4}
    model, _ = small_model(strategy_over(1))
    fit(model, X, Y, dw.Watch(tmp_path / "run.zarr", **how))
    fit(model, X, Y, dw.Watch(tmp_path / "run.zarr", **how))
    run = dw.open_run(tmp_path / "run.zarr")
    assert len(run.segments) == 2
    merged = run["activation/output"].merged("l2").dropna("step")
    steps, values = zip(*scalars(tmp_path / "logs" / "merged")["activation/output/l2"])  # noqa: B905
    np.testing.assert_array_equal(steps, merged.step)
    np.testing.assert_array_equal(np.float32(values), merged.values.astype(np.float32))


@pytest.mark.slow
def test_options_in_a_mapping(tmp_path):
    train(
        tmp_path / "run.zarr",
        tensorboard={
            "folder": str(tmp_path / "logs"),
            "every": 4,
            "statistics": ["max"],
            "signals": ["dense_*"],
            "replicas": False,
        },
    )
    assert [each.name for each in (tmp_path / "logs").iterdir()] == ["merged"]
    found = scalars(tmp_path / "logs" / "merged")
    assert set(found) == {f"activation/dense_{i}/max" for i in range(3)}
    # Step 0 has no step before it.
    assert [step for step, _ in found["activation/dense_0/max"]] == [4, 8, 12]


def test_a_signal_that_is_not_watched_is_refused(tmp_path):
    options = {"folder": tmp_path / "logs", "signals": ["dens_1"]}
    with pytest.raises(UnknownSignalError, match=r"see tensorboard.*'activation/dense_1'"):
        train(tmp_path / "run.zarr", tensorboard=options)


def test_without_the_package_it_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "distwatch\[tensorboard\]"'):
        dw.Watch(tmp_path / "run.zarr", tensorboard=tmp_path / "logs")


@pytest.mark.slow
def test_a_loop_writes_them_too(tmp_path):
    model, _ = small_model(strategy_over(1))
    with dw.watching(
        model, None, tmp_path / "run.zarr", tensorboard=tmp_path / "logs", window=2
    ) as watch:
        step = watch.wrap(lambda x: model(x, training=True))
        for start in range(0, 64, 16):
            step(X[start : start + 16])
            watch.after_step()
    found = scalars(tmp_path / "logs" / "merged")["activation/output/l2"]
    assert [step for step, _ in found] == [1, 2, 3]
