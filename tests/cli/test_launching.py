"""What ``distwatch run`` starts, and what it refuses before; where runs of its fits go."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import assert_refused

import distwatch as dw
from distwatch.testing.fake import fake_run
from distwatch.training.scripts import launching
from distwatch.training.scripts.bootstrap.sitecustomize import VARIABLE
from distwatch.training.scripts.unobtrusive import Outcome
from distwatch.training.scripts.watched_fits import WatchedFits


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("raise SystemExit('never started')")
    return "train.py"


def test_what_is_refused_before_the_script_starts(call, script, tmp_path):
    for arguments, parts in [
        (["nowhere.py"], ["nowhere.py", "there is no such script", "-m"]),
        (["-"], ["stdin", "save it in a file"]),
        (["."], ["a folder without a __main__.py"]),
        (["-m", "no_such_package.train", "x"], ["no module 'no_such_package'"]),
        (["--config", "none.yaml", script], ["none.yaml' cannot be read"]),
        (["--store", "memory://x", script], ["end with the script"]),
        (["--store", "nosuch://x", script], ["nosuch://x"]),
        (["--store", "train.py", script], ["cannot be written", "--store"]),
    ]:
        assert_refused(call("run", *arguments), *parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.py"]


def test_wrong_configurations_are_refused(call, script, tmp_path):
    for text, parts in [
        ("signal: [x]", ["unknown key 'signal'", "'signals'"]),
        ("window: 0", ["window=0"]),
        ("resume: true\noverwrite: true", ["deleted or continued"]),
        ("reference: 2026-01-01", ["wrong.yaml"]),
    ]:
        (tmp_path / "wrong.yaml").write_text(text)
        assert_refused(call("run", "--config", "wrong.yaml", script), *parts)


def test_bad_usage_is_2(call, script):
    assert call("run")[0] == 2
    code, _, err = call("run", "--stoer", "x", script)
    assert code == 2
    assert "--store" in err


def test_help_tells_examples_and_exit_codes(call):
    code, out, _ = call("run", "--help")
    assert code == 0
    for part in ("distwatch run -m package.train --lr 0.1", "Exit codes: the script's own"):
        assert part in out


def settings_of(launch):
    return json.loads(launch.environment[VARIABLE])


def test_runs_that_are_there_are_not_mixed_with(script, tmp_path):
    fake_run(tmp_path / "runs" / "fit-000.zarr")
    fake_run(tmp_path / "runs" / "fit-001.zarr")
    (tmp_path / "runs" / "letter.txt").write_text("keep me")
    fake_run(tmp_path / "runs" / "mine.zarr")
    asked = launching.Script(script)
    with pytest.raises(dw.errors.RunExistsError, match=r"fit-000.zarr and 1 more.*--overwrite"):
        launching.prepare(asked, store="runs")
    with pytest.raises(dw.errors.RunExistsError, match="is a run itself"):
        launching.prepare(asked, store="runs/mine.zarr")
    Path("resume.yaml").write_text("store: runs\nresume: true\n")
    resumed = settings_of(launching.prepare(asked, config=Path("resume.yaml")))
    assert resumed["arguments"]["resume"] is True
    assert resumed["store"] == str(tmp_path / "runs")
    with pytest.raises(dw.errors.ConfigError, match="deleted or continued"):
        launching.prepare(asked, config=Path("resume.yaml"), overwrite=True)
    # A further worker of one training finds what the first one began.
    cluster = {"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 1}}
    further = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
    launching.prepare(asked, store="runs", environment=further)
    assert len(list((tmp_path / "runs").iterdir())) == 4
    cluster["task"]["index"] = 0
    first = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
    launching.prepare(asked, store="runs", overwrite=True, environment=first)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "letter.txt",
        "mine.zarr",
    ]
    (tmp_path / "runs" / "fit-000.zarr").mkdir()
    with pytest.raises(dw.errors.RunExistsError, match="left alone"):
        launching.prepare(asked, store="runs", overwrite=True)


def test_what_is_started(script, tmp_path):
    asked = launching.Script(script, ("--store", "", "-m"))
    launch = launching.prepare(asked, environment={"PYTHONPATH": "one"})
    assert launch.command[0] == sys.executable
    assert launch.command[-4:] == [script, "--store", "", "-m"]
    assert launch.environment["PYTHONPATH"].endswith(f"bootstrap{os.pathsep}one")
    assert settings_of(launch)["pythonpath"] == "one"
    (tmp_path / "-x.py").touch()
    assert launching.prepare(launching.Script("-x.py")).command[-1] == "./-x.py"
    assert launching.prepare(launching.Script("json.tool", (), True)).command[-2:] == [
        "-m",
        "json.tool",
    ]


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (["bin/distwatch", "run", "-u"], []),
        (
            ["-uOO", "-Wignore", "-X", "dev", "bin/distwatch", "-W"],
            ["-uOO", "-Wignore", "-X", "dev"],
        ),
        (["-uc", "code", "-O"], ["-u"]),
        (["-BW", "error", "-m", "distwatch", "-u"], ["-BW", "error"]),
        (["--check-hash-based-pycs", "never", "-mcli"], ["--check-hash-based-pycs", "never"]),
    ],
)
def test_which_options_are_those_of_python(given, passed):
    assert launching._python_options(["python", *given]) == passed


def test_a_python_without_site_is_refused(script):
    by_hand = "import sys; sys.path[:0] = {!r}; from distwatch.cli import main; main()"
    for option in ("-I", "-E"):
        command = [sys.executable, option, "-c", by_hand.format(sys.path), "run", script]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert f"Python was started with {option}" in ended.stderr


def test_an_exec_that_fails_is_refused(script, monkeypatch):
    launch = launching.prepare(launching.Script(script))
    monkeypatch.setattr(os, "name", "posix")
    long = launching.Launch([*launch.command, "x" * 10_000_000], launch.environment)
    with pytest.raises(dw.errors.SetupError, match="cannot be started"):
        long.go()


@pytest.mark.parametrize("board", ["logs", {"folder": "logs", "every": 3}])
def test_each_fit_has_event_files_of_its_own(tmp_path, monkeypatch, board):
    monkeypatch.chdir(tmp_path)
    arguments = {"tensorboard": board}
    fits = WatchedFits({"arguments": arguments, "store": "runs", "shown": "runs"})
    watches = [fits._make_watch("fit", refused=False) for _ in range(2)]
    options = [watch.config.tensorboard for watch in watches]
    names = [each.folder.relative_to(tmp_path) for each in options]
    assert names == [Path("logs/fit-000"), Path("logs/fit-001")]
    assert {each.every for each in options} == {3 if isinstance(board, dict) else 1}


def test_each_start_has_a_folder_of_its_own(script, tmp_path):
    for store, title in [(None, "train"), ("out/", "train")]:
        settings = settings_of(launching.prepare(launching.Script(script), store=store))
        assert settings["title"] == title
        assert settings["shown"] == str(store or "runs/").rstrip("/")
    settings = settings_of(launching.prepare(launching.Script("json.tool", (), True)))
    assert settings["title"] == "tool"
    # What is deleted or continued has to be in one place.
    (tmp_path / "resume.yaml").write_text("resume: true")
    for how in ({"overwrite": True}, {"config": tmp_path / "resume.yaml"}):
        for store, shown in [(None, "distwatch-runs"), ("out/", "out")]:
            settings = settings_of(
                launching.prepare(launching.Script(script), store=store, **how)
            )
            assert (settings["title"], settings["shown"]) == (None, shown)
    fake_run(tmp_path / "runs", steps=1)
    with pytest.raises(dw.errors.RunExistsError, match="is a run itself"):
        launching.prepare(launching.Script(script))


def test_fits_of_one_start_are_beside_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {
        "arguments": {"tensorboard": "logs"},
        "store": str(tmp_path / "runs"),
        "shown": "runs",
        "title": "train",
    }
    keys = []
    for _ in range(2):
        fits = WatchedFits(settings)
        stores = [fits._make_watch("fit", refused=False).config.store for _ in range(2)]
        assert {store.folder for store in stores} == {tmp_path / "runs"}
        keys.append([store.key for store in stores])
    starts = [Path(key).parent.name for pair in keys for key in pair]
    assert (starts[0], starts[2]) == (starts[1], starts[3])
    assert starts[0] != starts[2]
    assert all("-train" in start for start in starts)
    assert [Path(key).name for key in keys[1]] == ["fit-000.zarr", "fit-001.zarr"]
    # A further worker is given the place when the path is claimed.
    further = WatchedFits({**settings, "is_further_worker": True})
    assert further._make_watch("fit", refused=False).config.store.key is None
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.parametrize("used", [False, True])
def test_the_folder_of_a_start_without_runs_is_removed(tmp_path, used):
    settings = {
        "arguments": {},
        "store": str(tmp_path / "runs"),
        "shown": "runs",
        "title": "train",
    }
    WatchedFits(settings).clean_up()
    fits = WatchedFits(settings)
    key = fits._make_watch("fit", refused=False).config.store.key
    assert (tmp_path / "runs" / key).parent.is_dir()
    if used:
        (tmp_path / "runs" / key).mkdir()
    fits.clean_up()
    assert (tmp_path / "runs" / key).exists() == used
    assert bool(list(tmp_path.iterdir())) == used


@pytest.mark.parametrize(
    "numbers, said",
    [
        ([0], "1 run was written: fit-000.zarr in runs"),
        ([0, 2], "2 runs were written: fit-000.zarr and fit-002.zarr in runs"),
        (range(1, 9), "8 runs were written: fit-001.zarr to fit-008.zarr in runs"),
        (
            [0, 1, 2, 3, 4, 6, 7],
            "7 runs were written: fit-000.zarr, fit-001.zarr, fit-002.zarr, fit-003.zarr, "
            "fit-004.zarr and 2 more in runs",
        ),
    ],
)
def test_runs_are_listed_as_they_are(numbers, said):
    fits = WatchedFits({"arguments": {}, "store": "runs", "shown": "runs"})
    fits._outcomes = [Outcome(f"fit-{n:03d}", committed=int(n in numbers)) for n in range(9)]
    assert next(fits.closing_lines()) == said


@pytest.mark.parametrize(
    "warnings, said",
    [
        ([()], ["nothing unusual in it."]),
        ([(), ()], ["nothing unusual."]),
        ([("Loss rises.",), ()], ["fit-000: Loss rises."]),
        (
            [(), ("No gradient.", "Loss rises.", "Inf.")],
            ["fit-001: No gradient. (2 more warnings.)"],
        ),
        (
            [("Loss rises.",)] * 7,
            [
                *(f"fit-00{n}: Loss rises." for n in range(5)),
                "2 more runs with warnings; distwatch ls 'my runs' lists them.",
            ],
        ),
    ],
)
def test_what_stands_out_is_said_at_the_end(warnings, said):
    fits = WatchedFits({"arguments": {}, "store": "my runs", "shown": "my runs"})
    fits._outcomes = [
        Outcome(f"fit-{n:03d}", committed=1, warnings=each) for n, each in enumerate(warnings)
    ]
    _, *lines, look = fits.closing_lines()
    assert lines == said
    first = next((n for n, each in enumerate(warnings) if each), 0)
    assert look == f"look at it by: distwatch report 'my runs/fit-00{first}.zarr'"


def test_of_a_fit_that_was_not_watched_no_all_clear_is_given():
    fits = WatchedFits({"arguments": {}, "store": "runs", "shown": "runs"})
    sound = Outcome("fit-000", committed=1, warnings=())
    for other in (Outcome("fit-001", reason="no loss"), Outcome("fit-001", committed=1)):
        fits._outcomes = [sound, other]
        assert "unusual" not in " ".join(fits.closing_lines())
