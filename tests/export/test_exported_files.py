"""CSV and Parquet against what `to_xarray` says; event files against those of the blocks."""

import csv
import io
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from made_up import ACTIVATIONS, histograms, made_up, scalars, store
from pyarrow import parquet

import distwatch as dw
from distwatch.errors import ConfigError, UnknownSignalError
from distwatch.event_files.options import EventOptions
from distwatch.event_files.writer import EventWriter
from distwatch.export import Wanted, write_csv, write_events, write_parquet
from distwatch.records import Origin, Table
from distwatch.signals import Signal
from distwatch.store import StoredRun
from distwatch.testing.fake import fake_run

STATISTICS = ("count", "mean", "std", "min", "max", "l1", "l2", "zeros", "nans", "infs")


def csv_text(stored, **wanted):
    file = io.StringIO()
    rows = write_csv(stored, Wanted(**wanted), file)
    assert rows == file.getvalue().count("\n") - 1
    return file.getvalue()


def from_csv(stored, tmp_path, **wanted):
    # Not by pandas, some versions of which read floats inexactly.
    rows = list(csv.DictReader(io.StringIO(csv_text(stored, **wanted))))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    for name in columns.keys() - {"replica", "signal"}:
        columns[name] = [float(x) if x else np.nan for x in columns[name]]
    return pd.DataFrame(columns)


def from_parquet(stored, tmp_path, **wanted):
    path = tmp_path / "run.parquet"
    rows = write_parquet(stored, Wanted(**wanted), path)
    table = parquet.read_table(path)
    assert table.num_rows == rows
    # Nothing that is not known is NaN, which other programs would add up.
    for column in table.columns:
        if column.type == "double":
            assert not np.isnan(column.drop_null().to_numpy()).any()
    return table.to_pandas()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return store(tmp_path_factory.mktemp("kept") / "run.zarr", made_up())


@pytest.mark.parametrize("read", [from_csv, from_parquet])
def test_rows_are_those_of_the_run_bit_by_bit(kept, tmp_path, read):
    frame = read(StoredRun(kept), tmp_path)
    assert list(frame.columns[:5]) == ["step", "epoch", "iteration", "replica", "signal"]
    assert list(frame.columns[5:]) == [*STATISTICS, "ratio", "spread"]
    run = dw.open_run(kept)
    assert len(frame) == (12 * 2 + 4) * 4
    for signal in run.signals:
        view, of_signal = run[signal], frame[frame.signal == signal]
        for name in STATISTICS:
            merged = of_signal[of_signal.replica == "merged"]
            assert_same(merged[name], view.merged(name))
            for replica in run.replicas:
                own = of_signal[of_signal.replica == str(replica)]
                assert_same(own[name], view.per_replica(name).sel(replica=replica))
                assert own.spread.isna().all()
                np.testing.assert_array_equal(own.epoch, view.merged(name).epoch)
                np.testing.assert_array_equal(own.iteration, own.step + 1)
        assert_same(merged.spread, view.merged("spread"))
    updates = frame[frame.signal == "update/dense/kernel"]
    ratio = run["update/dense/kernel"].per_replica("ratio")
    assert_same(updates[updates.replica == "1"].ratio, ratio.sel(replica=1))
    assert frame[frame.signal == "activation/dense"].ratio.isna().all()


def assert_same(column, array):
    np.testing.assert_array_equal(
        column.to_numpy(np.float64), array.values.astype(np.float64), strict=True
    )


@pytest.mark.parametrize("read", [from_csv, from_parquet])
def test_only_what_is_wanted(kept, tmp_path, read):
    frame = read(
        StoredRun(kept),
        tmp_path,
        signals=("dense", "update/*"),
        statistics=("l2", "ratio", "l2"),
        replicas=False,
        every=5,
    )
    assert list(frame.columns[5:]) == ["l2", "ratio"]
    assert set(frame.replica) == {"merged"}
    steps = {name: list(of.step) for name, of in frame.groupby("signal", observed=True)}
    assert steps == {"activation/dense": [0, 5, 10], "update/dense/kernel": [0, 6]}
    alone = read(StoredRun(kept), tmp_path, merged=False, statistics=("mean",))
    assert set(alone.replica) == {"0", "1", "2"}


def test_infinite_and_unknown(tmp_path):
    made = made_up(tables=(ACTIVATIONS,))
    made.blocks[0].rows[1, :, :, ACTIVATIONS.statistic.fields.index("l2sq")] = np.inf
    stored = StoredRun(store(tmp_path / "run.zarr", made))
    lines = csv_text(stored, statistics=("l2", "mean"), merged=False).splitlines()
    assert lines[1 + 6].startswith("1,0,2,0,activation/dense,inf,")
    # The last replica has no values in step 3.
    assert "3,0,4,2,activation/dense,," in lines
    frame = from_parquet(stored, tmp_path, statistics=("l2", "mean"), merged=False)
    of_it = frame[(frame.signal == "activation/dense") & (frame.replica == "0")]
    assert of_it.l2.iloc[1] == np.inf


@pytest.mark.parametrize("read", [from_csv, from_parquet])
def test_a_worker_that_stopped_leaves_no_rows(tmp_path, read):
    parts = [
        made_up(replicas=(0, 1), worker=0, workers=2),
        made_up(replicas=(2, 3), worker=1, workers=2, steps=range(7)),
    ]
    frame = read(StoredRun(store(tmp_path / "run.zarr", *parts)), tmp_path)
    of_it = frame[frame.signal == "activation/dense"]
    steps = {replica: len(of) for replica, of in of_it.groupby("replica", observed=True)}
    assert steps == {"0": 12, "1": 12, "2": 7, "3": 7, "merged": 12}
    run = dw.open_run(tmp_path / "run.zarr")
    merged = of_it[of_it.replica == "merged"]
    assert_same(merged["mean"], run["activation/dense"].merged("mean"))
    assert_same(merged["spread"], run["activation/dense"].merged("spread"))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("=HYPERLINK(evil)", "'=HYPERLINK(evil)"),
        ("+1+1", "'+1+1"),
        ("-2", "'-2"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'=1"),
        ("a,b", '"a,b"'),
        ('say "x"', '"say ""x"""'),
        ("two\nlines\x1b[31m", "two lines\\x1b[31m"),
    ],
)
def test_names_do_nothing_in_a_spreadsheet_or_terminal(tmp_path, name, written):
    table = Table("table-00", (Signal(name),), "every(1)", 4)
    made = made_up(tables=(table,), steps=range(2))
    stored = StoredRun(store(tmp_path / "run.zarr", made))
    line = csv_text(stored, statistics=("count",), replicas=False).splitlines()[1]
    assert line == f"0,0,1,merged,{written},81"
    frame = from_parquet(stored, tmp_path)
    assert set(frame.signal) == {name}


def test_what_the_run_does_not_have(kept, tmp_path):
    stored = StoredRun(kept)
    with pytest.raises(UnknownSignalError, match="'dens' matches no signal"):
        csv_text(stored, signals=("dens",))
    with pytest.raises(ConfigError, match="statistic 'ratios'; nearest: 'ratio'"):
        csv_text(stored, statistics=("ratios",))
    with pytest.raises(ConfigError, match="statistic 'ratio'"):
        csv_text(stored, statistics=("ratio",), signals=("activation/*",))
    with pytest.raises(ConfigError, match="statistic 'spread'"):
        csv_text(stored, statistics=("spread",), merged=False)


def test_without_pyarrow_it_is_refused(kept, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r'pip install "distwatch\[parquet\]"'):
        write_parquet(StoredRun(kept), Wanted(), tmp_path / "run.parquet")
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_run(tmp_path):
    def peak(steps):
        run = fake_run(tmp_path / f"{steps}.zarr", steps=steps, replicas=4, window=16)
        stored = StoredRun(run.path)
        tracemalloc.start()
        rows = write_parquet(stored, Wanted(), tmp_path / f"{steps}.parquet")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert rows == steps * 5 * 2
        return most

    peak(32)
    assert peak(640) < 2 * peak(64)


def test_progress_counts_the_steps_of_all_tables(kept, tmp_path):
    for write in (
        lambda told: write_csv(StoredRun(kept), Wanted(), io.StringIO(), progress=told),
        lambda told: write_events(
            StoredRun(kept), EventOptions(tmp_path / "logs"), progress=told
        ),
    ):
        done = []
        write(done.append)
        assert sum(done) == 12 + 4
        assert len(done) == 3 + 2


def read_all(folder):
    return {
        run.name: (scalars(run), histograms(run))
        for run in sorted(folder.iterdir())
        if run.is_dir()
    }


def test_event_files_are_those_of_a_training(kept, tmp_path):
    made = made_up()
    live = EventWriter(EventOptions(tmp_path / "live"), made.info)
    for block in made.blocks:
        live.append(block)
    live.close()
    written = write_events(StoredRun(kept), EventOptions(tmp_path / "later"))
    assert written > 10_000
    later = read_all(tmp_path / "later")
    assert set(later) == {"merged", "replica-0", "replica-1", "replica-2"}
    assert later == read_all(tmp_path / "live")


def test_event_files_of_several_workers_and_starts(tmp_path):
    """They are read as one: what a later start replaced is not there."""
    parts = [
        made_up(replicas=(n,), worker=n, workers=2, steps=steps, origin=origin, seed=seed)
        for steps, origin, seed in (
            (range(9), Origin(), 0),
            (range(6, 12), Origin(1, 6, 6), 1),
        )
        for n in range(2)
    ]
    path = store(tmp_path / "run.zarr", *parts)
    write_events(StoredRun(path), EventOptions(tmp_path / "logs"))
    found = read_all(tmp_path / "logs")
    assert set(found) == {"merged", "replica-0", "replica-1"}
    run = dw.open_run(path)
    for name, array in (
        ("merged", run["activation/dense"].merged("l2")),
        ("replica-1", run["activation/dense"].per_replica("l2").sel(replica=1)),
    ):
        steps, values = zip(*found[name][0]["activation/dense/l2"], strict=True)
        assert steps == tuple(range(12))
        np.testing.assert_array_equal(np.float32(values), array.values.astype(np.float32))
    counts = run.histogram("activation/dense").sum("bucket").values
    shown = [sum(h.bucket) for _, h in found["merged"][1]["activation/dense/histogram"]]
    # In step 2 each replica has an infinite value of either sign, which no bucket shows.
    np.testing.assert_array_equal(shown, counts - 4 * (np.arange(12) == 2))


def test_a_worker_that_stopped_leaves_no_events(tmp_path):
    parts = [
        made_up(replicas=(0,), worker=0, workers=2),
        made_up(replicas=(1,), worker=1, workers=2, steps=range(7)),
    ]
    path = store(tmp_path / "run.zarr", *parts)
    write_events(StoredRun(path), EventOptions(tmp_path / "logs", statistics=("nans", "l2")))
    found = read_all(tmp_path / "logs")
    steps = {run: [s for s, _ in found[run][0]["activation/dense/nans"]] for run in found}
    assert {run: len(of) for run, of in steps.items()} == {
        "merged": 12,
        "replica-0": 12,
        "replica-1": 7,
    }
    assert len(found["replica-1"][1]["activation/dense/histogram"]) == 7


def test_an_export_that_fails_leaves_no_file(kept, tmp_path):
    def told(steps):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_events(StoredRun(kept), EventOptions(tmp_path / "logs"), progress=told)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
