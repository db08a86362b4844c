"""Scripts that know nothing of distwatch, run with and without it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from commands import BIN, assert_refused

import distwatch as dw
from distwatch.cli.run import run as run_command
from distwatch.scripts import launching
from distwatch.scripts.bootstrap.sitecustomize import VARIABLE
from distwatch.testing.fake import fake_run

SCRIPTS = Path(__file__).parent / "scripts"
#: TensorFlow's own, with times and process numbers in them.
_START = re.compile(r"^(WARNING: All log|[IWE]\d{4} |\d{4}-\d\d-\d\d ).*\n", re.MULTILINE)
_TIMES = re.compile(r"\d+m?s(?:/step)?")
# What of a line was there before it was drawn over depends on how long a step took.
_DRAWN = re.compile(r"\n[^\n]*(?:\x1b\[1m|\x08)[^\n]*")


class Ended:
    """How a process ended, and what it said, without times."""

    def __init__(self, process, sent=None):
        out, err = process.communicate(sent, timeout=200)
        self.code = process.returncode
        self.out, self.err = out, _START.sub("", err)

    @property
    def own_err(self):
        """Without what distwatch says."""
        return "".join(
            line for line in self.err.splitlines(True) if not line.startswith("distwatch: ")
        )


def start(command, folder, **environment):
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [*map(str, command)],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "100", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def both(tmp_path, *command, options=(), sent="", **environment):
    """The script by Python alone and by distwatch, side by side: how both ended."""
    alone = start([sys.executable, *command], tmp_path / "alone", **environment)
    watched = start(
        [BIN / "distwatch", "run", *options, *command], tmp_path / "watched", **environment
    )
    return Ended(alone, sent), Ended(watched, sent)


def assert_same(tmp_path, alone, watched):
    """What the script said, returned and learned."""
    assert watched.own_err == alone.own_err
    assert watched.out == alone.out
    assert watched.code == alone.code
    learned = [np.load(tmp_path / name / "weights.npz") for name in ("alone", "watched")]
    assert learned[0].files == learned[1].files
    assert len(learned[0].files) > 1
    for name in learned[0].files:
        assert learned[0][name].tobytes() == learned[1][name].tobytes(), name


def runs_in(folder):
    return {path.name: dw.open_run(path) for path in sorted(folder.glob("*.zarr"))}


def test_a_plain_fit(tmp_path):
    alone, watched = both(tmp_path, SCRIPTS / "plain_fit.py", options=["--store", "my runs"])
    for each in (alone, watched):
        each.out = _TIMES.sub("-", _DRAWN.sub("", each.out))
    assert_same(tmp_path, alone, watched)
    assert "Total params" in watched.out
    assert alone.code == 0
    runs = runs_in(tmp_path / "watched" / "my runs")
    # 72 rows in batches of 32, twice; then all 90 rows.
    assert {name: len(run) for name, run in runs.items()} == {
        "fit-000.zarr": 6,
        "fit-001.zarr": 3,
    }
    assert all(run.ended == "closed" for run in runs.values())
    assert watched.err == (
        alone.err
        + "distwatch: 2 runs were written: fit-000.zarr to fit-001.zarr in my runs\n"
        + "distwatch: look at it by: distwatch info 'my runs/fit-000.zarr'\n"
    )


def test_a_subclassed_model(tmp_path):
    (tmp_path / "all.yaml").write_text("phases: [train, test, predict]\nsignals: [output]\n")
    options = ["--config", tmp_path / "all.yaml", "--quiet"]
    alone, watched = both(tmp_path, SCRIPTS / "subclassed.py", options=options)
    assert_same(tmp_path, alone, watched)
    assert watched.err == alone.err
    runs = runs_in(tmp_path / "watched" / launching.DEFAULT_STORE)
    assert {name: (run.phases, len(run)) for name, run in runs.items()} == {
        "evaluate-000.zarr": (["test"], 2),
        "fit-000.zarr": (["train"], 8),
        "predict-000.zarr": (["predict"], 1),
    }


def test_a_step_of_its_own_on_two_replicas(tmp_path):
    alone, watched = both(tmp_path, SCRIPTS / "custom_step.py")
    assert_same(tmp_path, alone, watched)
    (run,) = runs_in(tmp_path / "watched" / launching.DEFAULT_STORE).values()
    assert (len(run), run.replicas) == (10, [0, 1])
    # 36 rows twice, each of 6 numbers. There is no batch before the first one.
    assert run["activation/sequential/dense"].per_replica("count").sum() == (2 * 36 - 8) * 6


def test_arguments_main_and_processes(tmp_path):
    """As a module, by what a worktree of one's own would look like."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    script = (SCRIPTS / "with_arguments.py").read_text()
    (tmp_path / "package" / "train.py").write_text(script)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    (tmp_path / "sitecustomize.py").write_text("import builtins\nbuiltins.own = 1\n")
    command = ["-m", "package.train", "--store", "x", "--lr", "0.01", "--", "-q", "--help"]
    alone, watched = both(tmp_path, *command, sent="said\n", PYTHONPATH=path)
    for each, name in ((alone, "alone"), (watched, "watched")):
        # The one is started by a shell, the other by distwatch; both in folders of their own.
        each.out = each.out.replace(str(tmp_path / name), "HERE")
    assert_same(tmp_path, alone, watched)
    assert alone.code == 3
    assert "store='x'" in watched.out
    assert "said" in watched.out
    assert "DISTWATCH" not in watched.out
    assert list(runs_in(tmp_path / "watched" / launching.DEFAULT_STORE)) == ["fit-000.zarr"]


def test_a_script_that_raises(tmp_path):
    alone, watched = both(tmp_path, SCRIPTS / "raises.py")
    assert_same(tmp_path, alone, watched)
    assert alone.code == -signal.SIGINT
    assert alone.err.count("Traceback") == 6
    runs = runs_in(tmp_path / "watched" / launching.DEFAULT_STORE)
    # The second batch of each was trained on before its callback raised.
    assert {name: len(run) for name, run in runs.items()} == {
        "fit-001.zarr": 2,
        "fit-003.zarr": 2,
        "fit-004.zarr": 2,
    }


def test_a_fit_that_cannot_be_watched_goes_on(tmp_path):
    (tmp_path / "known.yaml").write_text("signals: [known]\nstore: runs\n")
    options = ["--config", tmp_path / "known.yaml"]
    alone, watched = both(tmp_path, SCRIPTS / "unwatchable.py", "runs", options=options)
    assert_same(tmp_path, alone, watched)
    assert alone.code == 0
    runs = tmp_path / "watched" / "runs"
    assert (runs / "fit-002.zarr" / "letter.txt").read_text() == "keep me"
    (runs / "fit-002.zarr").rename(tmp_path / "taken")
    lengths = {name: len(run) for name, run in runs_in(runs).items()}
    assert lengths == {"fit-000.zarr": 3, "fit-003.zarr": 3, "fit-004.zarr": 2}
    said = [line for line in watched.err.splitlines() if line.startswith("distwatch: ")]
    reasons = {
        "fit-001": "is not watched, training goes on: UnknownSignalError: ",
        "fit-002": "is not watched, training goes on: RunExistsError: ",
        "fit-005": "is not watched, training goes on: UnsupportedTrainingError: ",
    }
    for line, (name, reason) in zip(said[:3], reasons.items(), strict=True):
        assert line.startswith(f"distwatch: {name} {reason}")
    assert len(said) == 6
    assert said[-1].startswith("distwatch: 3 of 6 fits were not watched: fit-001: Unknown")
