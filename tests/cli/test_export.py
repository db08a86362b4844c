"""``distwatch export``, end to end."""

import csv
import io
import subprocess

import pytest
from commands import BIN, HOSTILE, assert_refused, command
from made_up import made_up, scalars, store
from pyarrow import parquet

from distwatch.errors import DamagedRowsWarning
from distwatch.testing.fake import fake_run


@pytest.fixture
def run(tmp_path):
    """A run of two phases."""
    return store(
        tmp_path / "run.zarr",
        made_up(),
        made_up(phase="test", tables=made_up().info.tables[:1]),
    )


def test_all_three_at_once(call, run, tmp_path):
    logs, file, rows = tmp_path / "logs", tmp_path / "run.parquet", tmp_path / "run.csv"
    code, out, err = call(
        "export", run, "--tensorboard", logs, "--parquet", file, "--csv", rows
    )
    assert (code, err) == (0, "")
    said = out.splitlines()
    assert len(said) == 3
    assert said[0].endswith(f"of event files; see them by: tensorboard --logdir {logs}")
    assert said[1].startswith(f"{file}: 112 rows, ")
    assert said[2].startswith(f"{rows}: 112 rows, ")
    assert parquet.read_table(file).num_rows == 112
    assert len(list(csv.DictReader(io.StringIO(rows.read_text())))) == 112
    # Both phases, each apart.
    assert len(scalars(logs / "merged")) == 2 * 4 + 5
    assert len(scalars(logs / "test" / "replica-1")) == 2 * 3
    assert {path.name for path in tmp_path.iterdir()} == {
        "run.zarr",
        "logs",
        "run.parquet",
        "run.csv",
    }


@pytest.mark.parametrize("array", ["rows", "merged", "step"])
def test_what_is_damaged_is_a_gap(call, run, tmp_path, array):
    """Found under way, when rows before it have been written already."""
    with_all = tmp_path / "all.csv"
    call("export", run, "--csv", with_all, "--tensorboard", tmp_path / "whole")
    chunks = sorted((run / "worker-0000-start-0000" / "table-00" / array).glob("c*"))
    chunks[-1].unlink()
    file, rows, logs = tmp_path / "run.parquet", tmp_path / "run.csv", tmp_path / "logs"
    with pytest.warns(DamagedRowsWarning, match=f"{chunks[-1]} is damaged"):
        code, _, _ = call(
            "export", run, "--parquet", file, "--csv", rows, "--tensorboard", logs
        )
    assert code == 0
    whole = list(csv.DictReader(io.StringIO(with_all.read_text())))
    left = list(csv.DictReader(io.StringIO(rows.read_text())))
    gone = {row["step"] for row in whole if row not in left}
    assert gone
    lost_signals = {row["signal"] for row in whole if row not in left}
    assert left == [
        row for row in whole if row["signal"] not in lost_signals or row["step"] not in gone
    ]
    assert parquet.read_table(file).num_rows == len(left)
    before, after = scalars(tmp_path / "whole" / "merged"), scalars(logs / "merged")
    for name, values in after.items():
        steps = [value[0] for value in before[name]]
        assert {value[0] for value in values} <= set(steps)


def test_what_is_asked_for(call, run, tmp_path):
    logs = tmp_path / "logs"
    chosen = ["--signals", "output", "--statistics", "max,l1", "--every", "5", "--merged"]
    code, out, _ = call("export", run, "--csv", "-", "--tensorboard", logs, *chosen)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert list(rows[0])[5:] == ["max", "l1"]
    assert [(row["step"], row["replica"], row["signal"]) for row in rows] == [
        (step, "merged", "activation/output") for step in ("0", "5", "10")
    ]
    found = scalars(logs / "merged")
    assert set(found) == {"activation/output/max", "activation/output/l1"}
    assert [step for step, _ in found["activation/output/max"]] == [0, 5, 10]
    assert not (logs / "replica-0").exists()

    code, out, _ = call("export", run, "--csv", "-", "--per-replica", "--phase", "test")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 12 * 2 * 3
    assert {row["replica"] for row in rows} == {"0", "1", "2"}


def test_one_phase_alone(call, run, tmp_path):
    call("export", run, "--tensorboard", tmp_path / "logs", "--phase", "test")
    assert [each.name for each in (tmp_path / "logs").iterdir()] == ["test"]


def test_what_is_there_is_replaced_only_if_told(call, run, tmp_path):
    for option, target in (("--csv", "a.csv"), ("--parquet", "a.parquet")):
        path = tmp_path / target
        path.write_text("mine")
        ended = call("export", run, option, path)
        assert_refused(ended, f"{path} exists already; give another name, or pass --overwrite.")
        assert path.read_text() == "mine"
        assert call("export", run, option, path, "--overwrite")[0] == 0
        assert path.read_bytes()[:4] in (b"step", b"PAR1")
    logs = tmp_path / "logs"
    assert call("export", run, "--tensorboard", logs)[0] == 0
    ended = call("export", run, "--tensorboard", logs)
    assert_refused(ended, f"{logs} holds the event files of another run", "or overwrite")
    assert call("export", run, "--tensorboard", logs, "--overwrite", "--merged")[0] == 0
    assert not list((logs / "replica-0").iterdir())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "choose an output: --tensorboard DIR, --parquet FILE or --csv FILE"),
        (["--csv", "."], ". is a folder; give the name of a file"),
        (["--csv", "no/such/a.csv"], "no/such/a.csv could not be written"),
        (["--tensorboard", "s3://bucket/logs"], "folders of this machine"),
        (["--csv", "-", "--signals", "dens"], "nearest: 'activation/dense'"),
        (["--tensorboard", "x", "--csv", "y", "--statistics", "means"], "nearest: 'mean'"),
        (["--csv", "-", "--phase", "predict"], "has no phase 'predict'; it has: train, test"),
    ],
    ids=str,
)
def test_bad_input(call, run, monkeypatch, arguments, says):
    monkeypatch.chdir(run.parent)
    assert_refused(call("export", run, *arguments), says)
    assert list(run.parent.iterdir()) == [run]


def test_bad_usage(call, run):
    assert call("export", run, "--csv", "-", "--every", "0")[0] == 2
    assert call("export")[0] == 2


def test_runs_that_have_nothing(call, tmp_path):
    assert_refused(call("export", tmp_path / "none", "--csv", "-"), "none")
    empty = fake_run(tmp_path / "empty.zarr", steps=0).path
    assert_refused(call("export", empty, "--csv", "-"), "has no committed step yet")


def test_without_pyarrow_nothing_is_written(call, run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    logs = tmp_path / "logs"
    ended = call("export", run, "--tensorboard", logs, "--parquet", tmp_path / "a.parquet")
    assert_refused(ended, 'pip install "distwatch[parquet]"')
    assert not logs.exists()


def test_names_of_strangers(call, tmp_path):
    path = fake_run(tmp_path / "run.zarr", signals=HOSTILE, steps=3).path
    code, out, _ = call("export", path, "--csv", "-", "--tensorboard", tmp_path / "logs")
    assert code == 0
    assert "\x1b" not in out
    found = {row["signal"] for row in csv.DictReader(io.StringIO(out))}
    assert found == {*HOSTILE[:3], "two lines\\x1b[31m"}
    tags = {tag.rpartition("/")[0] for tag in scalars(tmp_path / "logs" / "merged")}
    assert tags == found


def test_a_reader_that_has_seen_enough(tmp_path):
    path = fake_run(tmp_path / "run.zarr", steps=2000, window=100).path
    exporting = subprocess.Popen(
        [BIN / "distwatch", "export", path, "--csv", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert exporting.stdout.readline().startswith("step,epoch")
    exporting.stdout.close()
    assert exporting.stderr.read() == ""
    exporting.stderr.close()
    assert exporting.wait(timeout=60) == 0


def test_the_installed_command(run, tmp_path):
    done = command("export", run, "--csv", "-", "--merged", "--statistics", "l2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1 + 12 * 2 + 4


def test_help(call):
    code, out, _ = call("export", "--help")
    assert code == 0
    assert "Examples" in out
    assert "--every" in out
