"""``distwatch ls`` and ``list_runs``: what folders of runs hold."""

import copy
import datetime
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from commands import assert_refused

import distwatch as dw
from distwatch.errors import NotARunError
from distwatch.records import Origin, RunInfo, Table
from distwatch.signals import Signal
from distwatch.store import StoredRun, StoreWriter, claim, claim_new, now, table_writer
from distwatch.store.folders import Folder
from distwatch.store.schema import root_attributes
from distwatch.testing.fake import fake_block, write_fake
from distwatch.text import format_bytes

DATA = Path(__file__).parents[1] / "data"

TABLES = (
    Table("table-00", (Signal("activation/dense"),), "every(1)", 4),
    Table("table-01", (Signal("loss", "none"),), "every(2)", 4),
)


def info_of(worker=0, workers=1, **more):
    replicas = (2 * worker, 2 * worker + 1)
    return RunInfo(TABLES, replicas, "made up", {}, worker=worker, workers=workers, **more)


def losses(info, loss):
    """A step's losses: other ones on each replica, and on each a number of its own."""
    return lambda step, replica, signal: np.full(replica + 1, loss + step + replica)


def blocks_of(info, steps, loss):
    for table, stride in zip(TABLES, (1, 2), strict=True):
        yield fake_block(info, table, range(0, steps, stride), losses(info, loss))


def made(path, steps, loss, workers=1):
    infos = [info_of(worker, workers) for worker in range(workers)]
    write_fake(path, *((info, blocks_of(info, steps, loss)) for info in infos))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One that is closed, one of two workers, one that is written now, one without rows,
    one that an error ended, one that cannot be read, and one of the first format."""
    root = tmp_path_factory.mktemp("all") / "runs"
    made(root / "a.zarr", 7, 3.0)
    made(root / "start" / "fit-000.zarr", 9, 1.0, workers=2)
    written = claim_new(root / "now.zarr", root_attributes(info_of(), now()))
    written.settle()
    begun(root / "now.zarr", written)
    claim(root / "empty.zarr", root_attributes(info_of(), now()))
    claim(root / "failed.zarr", root_attributes(info_of(), now()))
    begun(root / "failed.zarr").close("OSError: the disk is full")
    made(root / "damaged.zarr", 3, 5.0)
    (root / "damaged.zarr" / "worker-0000-start-0000" / "zarr.json").write_text("{")
    shutil.copytree(DATA / "format-1.zarr", root / "old.zarr")
    yield root
    written.release()


def begun(path, claimed=None):
    writer = StoreWriter(path, info_of(), claim=claimed)
    for block in blocks_of(info_of(), 4, 2.0):
        writer.append(block)
    return writer


def weighted(loss, step, replicas):
    """The mean over replicas that saw unequal numbers of elements."""
    values = [(n + 1, loss + step + n) for n in range(replicas)]
    return sum(n * value for n, value in values) / sum(n for n, _ in values)


def test_a_row_for_each_run(runs):
    frame = dw.list_runs(runs).set_index("name")
    ended = dict(frame.ended)
    assert ended.pop("damaged.zarr").startswith("cannot be read: ")
    assert ended == {
        "a.zarr": "closed",
        "start/fit-000.zarr": "closed",
        "now.zarr": "running",
        "empty.zarr": "not closed",
        "failed.zarr": "OSError: the disk is full",
        "old.zarr": "closed",
    }
    assert list(frame.loc[["a.zarr", "start/fit-000.zarr"], "replicas"]) == [2, 4]
    assert frame.loss["a.zarr"] == pytest.approx(weighted(3.0, 6, 2))
    assert frame.loss["start/fit-000.zarr"] == pytest.approx(weighted(1.0, 8, 4))
    assert frame.loss["failed.zarr"] == pytest.approx(weighted(2.0, 2, 2))
    # The chunk of its losses is not full yet, and so is not committed.
    assert frame.loss[["empty.zarr", "now.zarr"]].isna().all()
    assert str(frame.created.dtype).startswith("datetime64")
    # What it says is what reading the runs says.
    for name, path in frame.path.drop("damaged.zarr").items():
        run = dw.open_run(path)
        assert frame.steps[name] == len(run), name
        assert run.ended in {frame.ended[name], None}, name
        if len(run):
            assert frame.replicas[name] == len(run.replicas), name
    assert frame.steps.isna().sum() == 1


def test_only_the_descriptions_of_closed_runs_are_read(runs, monkeypatch):
    read, before = [], Folder.read
    monkeypatch.setattr(Folder, "read", lambda *a: read.append(a[1]) or before(*a))
    dw.list_runs(runs / "a.zarr")
    assert read == ["zarr.json", "worker-0000-start-0000/zarr.json"]


@pytest.mark.parametrize("closed", [True, False])
def test_the_pace_is_between_the_first_rows_and_the_last(tmp_path, monkeypatch, closed):
    clock = iter([100.0, 104.0, 110.0])
    times = SimpleNamespace(time=lambda: next(clock), monotonic=time.monotonic)
    monkeypatch.setattr(table_writer, "time", times)
    info = replace(info_of(), tables=TABLES[:1])
    claim(tmp_path / "run.zarr", root_attributes(info, now()))
    writer = StoreWriter(tmp_path / "run.zarr", info)
    for steps in (range(4), range(4, 8), range(8, 24)):
        writer.append(fake_block(info, TABLES[0], steps, losses(info, 1.0)))
    if closed:
        writer.close()
    frame = dw.list_runs(tmp_path / "run.zarr")
    assert frame.pace[0] == (24 - 4) / (110.0 - 100.0)


def test_a_run_of_one_look_has_no_pace(runs):
    frame = dw.list_runs(runs).set_index("name")
    assert frame.pace.isna().all()


def test_starts_that_overlap_are_counted_once(tmp_path):
    later = replace(info_of(), origin=Origin(1, 5, 5))
    blocks = (
        fake_block(later, table, range(5, 12, stride), losses(later, 0.0))
        for table, stride in zip(TABLES, (1, 7), strict=True)
    )
    path = tmp_path / "run.zarr"
    write_fake(path, (info_of(), blocks_of(info_of(), 9, 1.0)), (later, blocks))
    frame = dw.list_runs(path)
    assert frame.steps[0] == len(dw.open_run(path)) == 12
    assert frame.loss[0] == pytest.approx(weighted(0.0, 5, 2))


@pytest.mark.parametrize("later", ["another start", "other rows", "damaged"])
def test_steps_that_overlap_are_counted_once_and_kept(tmp_path, monkeypatch, later):
    path, folder = tmp_path / "run.zarr", "worker-0000-start-0002"
    second = replace(info_of(), origin=Origin(1, 5, 5))
    write_fake(
        path, (info_of(), blocks_of(info_of(), 9, 1.0)), (second, resumed(second, 5, 12))
    )
    digest = path / "digest-train.json"
    # As after a kill, or of an older distwatch.
    digest.unlink()
    assert dw.list_runs(path).steps[0] == 12
    with monkeypatch.context() as patched:
        # Tables are opened for the first list only.
        patched.setattr("distwatch.store.listing.StoredRun", None)
        assert dw.list_runs(path).steps[0] == 12
    if later == "damaged":
        digest.write_text("{")
        assert dw.list_runs(path).steps[0] == 12
        assert json.loads(digest.read_text())["steps"] == 12
        return
    third = replace(info_of(), origin=Origin(2, 8, 8))
    writer = StoreWriter(path, third)
    for block in resumed(third, 8, 16):
        writer.append(block)
    writer.close()
    assert dw.list_runs(path).steps[0] == len(dw.open_run(path)) == 16
    if later == "other rows":
        document = path / folder / "table-00" / "zarr.json"
        whole = json.loads(document.read_text())
        # Another writer than this one may say it otherwise.
        document.write_text(json.dumps(whole, indent=1))
        opened = []
        before = StoredRun.__init__
        monkeypatch.setattr(StoredRun, "__init__", lambda *a: opened.append(a[1]) or before(*a))
        assert dw.list_runs(path).steps[0] == 16
        assert opened == [path]


def test_the_last_writer_keeps_how_many_steps_overlap(tmp_path, monkeypatch):
    second = replace(info_of(), origin=Origin(1, 5, 5))
    parts = (info_of(), blocks_of(info_of(), 9, 1.0)), (second, resumed(second, 5, 12))
    write_fake(tmp_path / "resumed.zarr", *parts)
    made(tmp_path / "workers.zarr", 7, 3.0, workers=2)
    made(tmp_path / "one.zarr", 7, 3.0)
    monkeypatch.setattr("distwatch.store.listing.StoredRun", None)
    steps = dw.list_runs(tmp_path).set_index("name").steps
    assert dict(steps) == {"resumed.zarr": 12, "workers.zarr": 7, "one.zarr": 7}
    # Of one start and worker, the segment says it.
    assert not (tmp_path / "one.zarr" / "digest-train.json").exists()


def test_a_worker_that_ends_before_the_others_keeps_no_steps(tmp_path):
    path = tmp_path / "run.zarr"
    infos = [info_of(worker, 2) for worker in (0, 1)]
    claim(path, root_attributes(infos[0], now()))
    writers = [StoreWriter(path, info) for info in infos]
    for writer, info in zip(writers, infos, strict=True):
        for block in blocks_of(info, 8, 1.0):
            writer.append(block)
    writers[0].close()
    assert not (path / "digest-train.json").exists()
    writers[1].close()
    assert (path / "digest-train.json").exists()


def resumed(info, begin, end):
    for table, stride in zip(TABLES, (1, 7), strict=True):
        yield fake_block(info, table, range(begin, end, stride), losses(info, 0.0))


def test_what_takes_longer_is_asked_for(runs):
    frame = dw.list_runs(runs, size=True, warnings=True).set_index("name")
    files = [path for path in (runs / "a.zarr").rglob("*") if path.is_file()]
    assert frame.bytes["a.zarr"] == sum(path.stat().st_size for path in files)
    found = [each.severity for each in dw.open_run(runs / "a.zarr").findings()]
    assert frame.warnings["a.zarr"] == found.count("warning") > 0
    assert frame.warnings.isna().sum() == 1


def names(call, *arguments):
    code, out, err = call("ls", *arguments, "--json")
    assert (code, err) == (0, "")
    return [row["name"] for row in json.loads(out)["runs"]]


def test_sorting_and_choosing(call, runs):
    sorted_names = names(call, runs, "--sort", "loss", "--where", "loss>0")
    assert sorted_names == ["failed.zarr", "a.zarr", "start/fit-000.zarr"]
    assert names(call, runs, "--sort", "loss", "--where", "loss>0", "--reverse")[0] == (
        "start/fit-000.zarr"
    )
    # What is not known is last, whichever way the others are sorted.
    assert names(call, runs, "--sort", "steps")[-1] == "damaged.zarr"
    assert names(call, runs, "--sort", "steps", "--reverse")[-1] == "damaged.zarr"
    assert names(call, runs, "--where", "ended=OSError*") == ["failed.zarr"]
    assert names(call, runs, "--where", "name!=*.zarr") == []
    assert names(call, runs, "--where", "steps >= 7", "--where", "replicas == 4") == [
        "start/fit-000.zarr"
    ]
    assert names(call, runs / "*a*") == names(call, runs, "--where", "name=*a*")


def test_columns_are_known_by_their_headings_too(call, runs):
    for heading, column in {"run": "name", "when": "created", "steps/s": "pace"}.items():
        assert names(call, runs, "--sort", heading) == names(call, runs, "--sort", column)
    assert names(call, runs, "--sort", "size", "--size") == (
        names(call, runs, "--sort", "bytes", "--size")
    )
    assert names(call, runs, "--where", "run=a.zarr") == ["a.zarr"]
    assert_refused(call("ls", runs, "--sort", "size"), "no column 'size'", "pace (steps/s)")


def test_the_table(call, runs):
    code, out, err = call("ls", runs, "--sort", "name", "--size", width=200)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert lines[0] == ["run", "when", "ended", "steps", "replicas", "steps/s", "loss", "size"]
    (row,) = [line for line in lines if line[:1] == ["a.zarr"]]
    assert row[3:6] == ["closed", "7", "2"]
    assert datetime.datetime.fromisoformat("T".join(row[1:3]))
    assert call("ls", runs, "--where", "steps>100")[1] == "No run is like that.\n"


def test_all_of_it_as_one_parquet_file(call, runs, tmp_path):
    file = tmp_path / "runs.parquet"
    code, out, err = call("ls", runs, "--warnings", "--size", "--parquet", file)
    assert (code, err) == (0, "")
    assert out == f"{file}: 7 runs, {format_bytes(file.stat().st_size)}\n"
    table, frame = pq.read_table(file), dw.list_runs(runs, warnings=True, size=True)
    assert table.column_names == list(frame.columns)
    of_kind = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert of_kind["created"] == "timestamp[us, tz=UTC]"
    assert {of_kind[name] for name in ("steps", "replicas", "bytes", "warnings")} == {"int64"}
    assert {of_kind[name] for name in ("name", "ended", "phase", "path")} == {"string"}
    assert {of_kind[name] for name in ("pace", "loss")} == {"double"}
    for row, (_, want) in zip(table.to_pylist(), frame.iterrows(), strict=True):
        for name, value in row.items():
            # What is not known is null, and no number.
            assert (value is None) == pd.isna(want[name]), (row["name"], name)
            assert value is None or value == want[name]
    chosen = tmp_path / "chosen.parquet"
    call("ls", runs, "--where", "loss>0", "--sort", "loss", "--parquet", chosen)
    assert pq.read_table(chosen)["name"].to_pylist() == names(
        call, runs, "--where", "loss>0", "--sort", "loss"
    )


def test_names_that_are_no_text_are_escaped_in_a_parquet_file(call, tmp_path):
    try:
        made(tmp_path / os.fsdecode(b"bad\xff.zarr"), 7, 3.0)
    except OSError:
        pytest.skip("this file system has no such names")
    file = tmp_path / "runs.parquet"
    code, _, err = call("ls", tmp_path, "--parquet", file)
    assert (code, err) == (0, "")
    (name,) = pq.read_table(file)["name"].to_pylist()
    assert name.startswith("bad") and name.endswith(".zarr")


def test_a_parquet_file_is_refused_before_anything_is_read(call, runs, tmp_path, monkeypatch):
    file = tmp_path / "runs.parquet"
    file.write_text("mine")
    assert_refused(call("ls", runs, "--parquet", file), "exists already", "--overwrite")
    assert file.read_text() == "mine"
    assert_refused(call("ls", runs, "--parquet", tmp_path), "is a folder")
    assert_refused(call("ls", runs, "--parquet", tmp_path / "no" / "f"), "could not be written")
    assert call("ls", runs, "--parquet", file, "--overwrite")[0] == 0
    (tmp_path / "empty").mkdir()
    assert call("ls", tmp_path / "empty", "--parquet", tmp_path / "none.parquet")[0] == 0
    none = pq.read_table(tmp_path / "none.parquet")
    assert (len(none), str(none.schema.field("name").type)) == (0, "string")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    ended = call("ls", runs, "--parquet", tmp_path / "other.parquet")
    assert_refused(ended, "needs pyarrow", 'pip install "distwatch[parquet]"')
    assert ended[2].count("\n") == 1


def test_metrics_stand_before_sizes_where_the_newest_run_has_none(call, tmp_path):
    made(tmp_path / "older.zarr", 7, 3.0)
    claim(tmp_path / "newest.zarr", root_attributes(info_of(), "2100-01-01T00:00:00+00:00"))
    _, out, _ = call("ls", tmp_path, "--size", width=200)
    headings = next(line.split() for line in out.splitlines() if line.strip())
    assert headings[-2:] == ["loss", "size"]


def test_refusals(call, runs, tmp_path):
    assert_refused(call("ls", tmp_path / "none"), "no such folder")
    assert_refused(call("ls", runs, "--sort", "lsos"), "no column 'lsos'", "loss")
    assert_refused(call("ls", runs, "--where", "loss"), "--where", "loss<0.5")
    assert_refused(call("ls", runs, "--where", "speed>1"), "no column 'speed'")
    (tmp_path / "empty").mkdir()
    assert call("ls", tmp_path / "empty") == (0, f"No run in {tmp_path / 'empty'}.\n", "")
    assert dw.list_runs(tmp_path / "empty").empty
    with pytest.raises(NotARunError, match="no such folder"):
        dw.list_runs(tmp_path / "none")


def test_a_list_with_nonsense_in_its_summary_is_refused(tmp_path):
    made(tmp_path / "run.zarr", 7, 3.0)
    document = tmp_path / "run.zarr" / "worker-0000-start-0000" / "zarr.json"
    whole = json.loads(document.read_text())
    for key, value in [("last", {"loss": [0, 1.0]}), ("reached", [["x", 1.0]]), ("steps", -1)]:
        wrong = copy.deepcopy(whole)
        wrong["attributes"]["distwatch"]["summary"][key] = value
        del wrong["attributes"]["distwatch"]["crc32"]
        document.write_text(json.dumps(wrong))
        (ended,) = dw.list_runs(tmp_path / "run.zarr").ended
        assert ended.startswith("cannot be read: ")
