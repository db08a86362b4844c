"""Event files, read back by TensorBoard's own reader."""

import subprocess
import sys

import numpy as np
import pytest
from made_up import ACTIVATIONS, accumulated, histograms, made_up, scalars

from distwatch.errors import ConfigError, NotWritableError, RunExistsError
from distwatch.event_files.folders import make_room
from distwatch.event_files.options import EventOptions, event_options
from distwatch.event_files.writer import EventWriter
from distwatch.records import Origin


def write(made, folder, *, merges=True, clock=lambda: 1e9, **options):
    writer = EventWriter(EventOptions(folder, **options), made.info, clock=clock, merges=merges)
    for block in made.blocks:
        writer.append(block)
    writer.close()
    return writer


def wanted(values, name):
    finite = values[np.isfinite(values)]
    of = {"mean": finite.mean, "std": finite.std, "min": finite.min, "max": finite.max}
    return np.linalg.norm(finite) if name == "l2" else of[name]()


def test_scalars_are_those_of_the_values(tmp_path):
    made = made_up()
    statistics = ("mean", "std", "min", "max", "l2", "nans", "spread")
    write(made, tmp_path, statistics=statistics)
    runs = {each.name for each in tmp_path.iterdir()}
    assert runs == {"merged", "replica-0", "replica-1", "replica-2"}
    for run in runs:
        found = scalars(tmp_path / run)
        compared = 0
        for tag, events in found.items():
            signal, _, name = tag.rpartition("/")
            for step, value in events:
                if run == "merged":
                    values = made.whole(signal, step)
                else:
                    values = made.values[signal, step, int(run[-1])]
                if name in ("nans", "spread"):
                    continue
                assert value == pytest.approx(wanted(values, name), rel=1e-6, abs=1e-6)
                compared += 1
        # The last replica has no values at steps 3, 7 and 11; updates are looked at in 3.
        rows = (9 * 2 + 3) if run == "replica-2" else (12 * 2 + 4)
        assert compared == rows * 5
        assert dict(found["activation/dense/nans"])[2] == (3 if run == "merged" else 1)
        assert ("activation/dense/spread" in found) == (run == "merged")


def test_spread_is_that_of_the_replicas_that_have_values(tmp_path):
    made = made_up()
    write(made, tmp_path)
    for step, value in scalars(tmp_path / "merged")["activation/output/spread"]:
        parts = [made.values["activation/output", step, replica] for replica in range(3)]
        means = [part[np.isfinite(part)].mean() for part in parts if part.size]
        assert value == pytest.approx(max(means) - min(means), rel=1e-6)


def test_the_ratio_is_there_where_there_is_one(tmp_path):
    made = made_up()
    write(made, tmp_path)
    found = scalars(tmp_path / "replica-1")
    assert [tag for tag in found if tag.endswith("ratio")] == ["update/dense/kernel/ratio"]
    steps, ratios = zip(*found["update/dense/kernel/ratio"], strict=True)
    assert steps == (0, 3, 6, 9)
    values = [made.values["update/dense/kernel", step, 1] for step in steps]
    norms = [np.linalg.norm(v) / np.linalg.norm(2 * v + 1) for v in values]
    np.testing.assert_allclose(ratios, norms, rtol=1e-6)


@pytest.mark.parametrize("run", ["merged", "replica-1"])
def test_histograms_count_every_finite_value(tmp_path, run):
    made = made_up()
    write(made, tmp_path)
    found = histograms(tmp_path / run)
    assert set(found) == {"activation/dense/histogram", "activation/output/histogram"}
    for tag, events in found.items():
        signal = tag.removesuffix("/histogram")
        assert [step for step, _ in events] == list(range(12))
        for step, histogram in events:
            whole = made.whole(signal, step) if run == "merged" else None
            values = made.values[signal, step, 1] if whole is None else whole
            assert_counts(histogram, values[np.isfinite(values)])


def assert_counts(histogram, finite):
    limits, counts = np.asarray(histogram.bucket_limit), np.asarray(histogram.bucket)
    assert (np.diff(limits) > 0).all()
    # A bucket begins where the one before ends; the first one at the lowest number there is.
    edges = np.concatenate([[-np.finfo(float).max], limits])
    assert counts.sum() == finite.size
    below = [np.count_nonzero(finite < edge) for edge in edges]
    np.testing.assert_array_equal(counts, np.diff(below))
    # What lies empty between does not widen those that hold something.
    for low, high in zip(edges[:-1][counts > 0], limits[counts > 0], strict=True):
        if min(abs(low), abs(high)) >= 0.01 and max(abs(low), abs(high)) <= 100:
            assert high - low <= 0.11 * max(abs(low), abs(high))
        elif high - low < 100:
            assert -0.01 <= low < high <= 0.01
        else:
            assert (max(low, -high)) > 100
    assert (histogram.min, histogram.max) == (finite.min(), finite.max())
    assert histogram.num == finite.size
    assert histogram.sum == pytest.approx(finite.sum(), rel=1e-12)
    assert histogram.sum_squares == pytest.approx(np.square(finite).sum(), rel=1e-12)


def test_no_histogram_and_no_mean_of_no_values(tmp_path):
    write(made_up(tables=(ACTIVATIONS,)), tmp_path)
    steps = [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert [
        s for s, _ in histograms(tmp_path / "replica-2")["activation/dense/histogram"]
    ] == steps
    assert [s for s, _ in scalars(tmp_path / "replica-2")["activation/dense/mean"]] == steps
    assert len(scalars(tmp_path / "merged")["activation/dense/mean"]) == 12


def test_what_float32_cannot_hold_is_infinite(tmp_path):
    made = made_up(steps=range(1))
    # As of a training that diverged, whose sum float64 cannot hold either.
    fields = [ACTIVATIONS.statistic.fields.index(name) for name in ("mean", "max", "l2sq")]
    made.blocks[0].rows[..., fields] = 1e308
    made.blocks[0].rows[:, 0, :, fields[0]] = -1e308
    write(made, tmp_path, statistics=("l2", "max", "spread"))
    found = scalars(tmp_path / "replica-1")
    assert found["activation/dense/max"] == [(0, np.inf)]
    assert scalars(tmp_path / "merged")["activation/dense/spread"] == [(0, np.inf)]
    [(_, histogram)] = histograms(tmp_path / "replica-1")["activation/dense/histogram"]
    assert histogram.sum == np.inf


def test_fewer_steps(tmp_path):
    """Of every five the first that there is, in each table."""
    write(made_up(steps=range(14)), tmp_path, every=5)
    found = scalars(tmp_path / "merged")
    assert [s for s, _ in found["activation/dense/l2"]] == [0, 5, 10]
    assert [s for s, _ in found["update/dense/kernel/l2"]] == [0, 6, 12]
    assert [s for s, _ in histograms(tmp_path / "merged")["activation/dense/histogram"]] == [
        0,
        5,
        10,
    ]


def test_fewer_signals_and_statistics(tmp_path):
    write(made_up(), tmp_path, signals=("output",), statistics=("max",), replicas=False)
    assert [each.name for each in tmp_path.iterdir()] == ["merged"]
    assert set(scalars(tmp_path / "merged")) == {"activation/output/max"}


def test_other_phases_have_folders_of_their_own(tmp_path):
    write(made_up(phase="test"), tmp_path)
    assert {each.name for each in (tmp_path / "test").iterdir()} > {"merged", "replica-0"}
    assert list(tmp_path.iterdir()) == [tmp_path / "test"]


def test_a_start_that_goes_on_replaces_what_there_is_from_its_first_step(tmp_path):
    first, second = made_up(), made_up(steps=range(7, 15), origin=Origin(1, 7, 7), seed=1)
    write(first, tmp_path)
    write(second, tmp_path)
    for run, replica in (("merged", None), ("replica-1", 1)):
        found = scalars(tmp_path / run)["activation/dense/mean"]
        assert [step for step, _ in found] == list(range(15))
        for step, value in found:
            made = first if step < 7 else second
            values = (
                made.whole("activation/dense", step)
                if replica is None
                else made.values["activation/dense", step, replica]
            )
            assert value == pytest.approx(wanted(values, "mean"), rel=1e-6)


def test_workers_write_their_own_replicas(tmp_path):
    parts = [made_up(replicas=(n,), worker=n, workers=2) for n in range(2)]
    for part in parts:
        write(part, tmp_path, merges=False)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["replica-0", "replica-1"]
    for number, part in enumerate(parts):
        _, value = scalars(tmp_path / f"replica-{number}")["activation/dense/mean"][5]
        values = part.values["activation/dense", 5, number]
        assert value == pytest.approx(wanted(values, "mean"), rel=1e-6)


def test_every_block_is_in_the_files_at_once(tmp_path):
    made = made_up(tables=(ACTIVATIONS,))
    writer = EventWriter(EventOptions(tmp_path), made.info, clock=lambda: 42.5)
    writer.append(made.blocks[0])
    events = accumulated(tmp_path / "merged").Scalars("activation/dense/mean")
    assert [event.step for event in events] == [0, 1, 2, 3]
    assert {event.wall_time for event in events} == {42.5}
    assert writer.nbytes == sum(path.stat().st_size for path in writer.paths) > 1000
    writer.close()


def test_tensorflow_is_not_imported(tmp_path):
    script = f"""
import sys
from made_up import made_up
from distwatch.event_files.options import EventOptions
from distwatch.event_files.writer import EventWriter
import pathlib
made = made_up()
writer = EventWriter(EventOptions(pathlib.Path({str(tmp_path)!r})), made.info)
for block in made.blocks:
    writer.append(block)
writer.close()
asked = ("tensorflow", "keras", "tensorboard.compat.proto")
print(*(name for name in asked if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["tensorboard.compat.proto"]
    assert scalars(tmp_path / "merged")


def test_reading_a_configuration_does_not_import_tensorboard():
    script = "import sys, distwatch.config; print('tensorboard' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]


def test_room_is_made(tmp_path):
    folder = tmp_path / "new" / "logs"
    make_room(EventOptions(folder), overwrite=False)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("phase", ["train", "test"])
def test_the_files_of_another_run_are_not_mixed_with(tmp_path, phase):
    options = EventOptions(tmp_path)
    write(made_up(phase=phase), tmp_path)
    with pytest.raises(RunExistsError, match=r"another run.*run-2, which .* or overwrite"):
        make_room(options, overwrite=False)
    make_room(options, overwrite=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_runs_beside_it_and_files_of_others_stay(tmp_path):
    write(made_up(), tmp_path / "run-1")
    make_room(EventOptions(tmp_path / "run-2"), overwrite=True)
    make_room(EventOptions(tmp_path), overwrite=True)
    assert scalars(tmp_path / "run-1" / "merged")

    foreign = tmp_path / "merged" / "events.out.tfevents.1.host.v2"
    foreign.parent.mkdir()
    foreign.write_bytes(b"")
    with pytest.raises(
        RunExistsError, match="not written by distwatch: give this one a folder"
    ):
        make_room(EventOptions(tmp_path), overwrite=True)
    assert foreign.exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritableError, match=r"logs.*give another folder"):
        make_room(EventOptions(tmp_path / "file" / "logs"), overwrite=False)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (5, "tensorboard: 5: give a folder"),
        ("", "tensorboard: '': give a folder"),
        ({}, "tensorboard: folder is missing"),
        ({"folder": "a", "evry": 1}, "unknown key 'evry'; nearest: 'every'"),
        ({"folder": "a", "every": 0}, "every=0: expected a whole number from 1"),
        ({"folder": "a", "every": True}, "every=True: expected a whole number"),
        ({"folder": "a", "statistics": ["meen"]}, "unknown statistic 'meen'; nearest: 'mean'"),
        ({"folder": "a", "statistics": [1]}, "give a list of names"),
        ({"folder": "a", "merged": "no"}, "merged='no': expected true or false"),
        ({"folder": "a", "merged": False, "replicas": False}, "leaves nothing"),
        ("s3://bucket/logs", "folders of this machine"),
    ],
    ids=str,
)
def test_wrong_options_say_what_they_should_be(given, says):
    with pytest.raises(ConfigError) as error:
        event_options(given)
    assert says in str(error.value)


def test_a_folder_alone_is_enough(tmp_path):
    assert event_options(str(tmp_path)) == event_options({"folder": tmp_path})
    one = event_options({"folder": tmp_path, "statistics": "l2", "signals": "dense"})
    assert (one.statistics, one.signals) == (("l2",), ("dense",))


def test_without_tensorboard_it_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "distwatch\[tensorboard\]"'):
        event_options("logs/")
