"""Whatever becomes of TensorFlow in its process, the doctor says it and goes on."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distwatch.cli.doctor import child, trainings
from distwatch.cli.doctor.trainings import Outcome, look_at_trainings, train_apart

LOADED = {"loaded": "2.99", "seconds_to_load": 1.0}
THERE = {"devices": ["CPU"], "gpus": 0, "cuda": False}
TRAINED = {"strategy": "S over 2 x CPU", "seconds": 1.0, "rows": 12, "due": 12, "wrong": 0}


def apart(script, timeout=60.0):
    return train_apart("cpu", timeout, (sys.executable, "-c", script))


def looked_at(monkeypatch, cpu, gpu=None):
    """The findings, by name, of children that say and end as these."""
    ended = {"cpu": cpu, "gpu": gpu}
    monkeypatch.setattr(trainings, "train_apart", lambda kind, _: ended[kind])
    return {finding.name: finding for finding in look_at_trainings()}


def test_what_a_child_said_before_it_crashed_is_kept():
    outcome = apart(
        f"print({json.dumps(LOADED)!r}, flush=True); print('{{\"cut', end='', flush=True);"
        "import os; os.kill(os.getpid(), 4)"
    )
    assert outcome.reported == LOADED
    assert "SIGILL" in outcome.failure
    assert "AVX" in outcome.remedy


def test_an_error_is_told_by_its_last_line():
    outcome = apart("raise ImportError('libcud\\x1b[31ma')")
    assert outcome.failure == r"ImportError: libcud\x1b[31ma"
    assert outcome.reported == {}


@pytest.mark.slow
def test_a_child_that_hangs_is_ended_with_all_that_it_started():
    start = time.monotonic()
    outcome = apart(
        "import json, subprocess, sys, time\n"
        "inner = subprocess.Popen(['sleep', '100'])\n"
        "print(json.dumps({'inner': inner.pid}), flush=True)\n"
        "time.sleep(100)",
        timeout=3,
    )
    assert time.monotonic() - start < 30
    assert "within 3 s" in outcome.failure
    assert "--timeout" in outcome.remedy
    assert ended(outcome.reported["inner"])


def ended(pid, seconds=10):
    """Whether a process is gone, or will be once its parent has looked."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            with Path(f"/proc/{pid}/stat").open() as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def test_wrong_rows_are_found():
    """Those of exchanged replicas, of a missing step, and of one number that is off."""

    class Rows:
        def __init__(self, values):
            self.values = values

        def per_replica(self, name):
            count = np.full(self.values.shape[:2], self.values.shape[-1])
            read = count if name == "count" else getattr(self.values, name)(axis=-1)
            return type("Read", (), {"to_numpy": lambda _: read})()

    x, _ = child._unlike_rows(child.BATCHES * 2 * child.ROWS)
    given = x.reshape(child.BATCHES, 2, -1).astype(np.float64)
    assert child._wrong(Rows(given), given) == 0
    assert child._wrong(Rows(given[:, ::-1]), given) == 12
    assert child._wrong(Rows(given[1:]), given) == 12
    off = given.copy()
    off[3, 1, 5] += 100
    assert child._wrong(Rows(off), given) == 1


@pytest.mark.parametrize("changed", [{"rows": 11}, {"wrong": 1}])
def test_rows_that_are_missing_or_wrong_are_a_problem(monkeypatch, changed):
    found = looked_at(monkeypatch, Outcome({**LOADED, **THERE, **TRAINED, **changed}))
    assert found["training on CPUs"].verdict == "problem"


def test_a_tensorflow_that_does_not_start(monkeypatch):
    found = looked_at(monkeypatch, Outcome({}, "ended by SIGILL", "AVX"))
    assert [*found] == ["Keras's backend", "TensorFlow"]
    assert (found["TensorFlow"].verdict, found["TensorFlow"].remedy) == ("problem", "AVX")
    assert "ended by SIGILL" in found["TensorFlow"].text


def test_devices_that_cannot_be_listed(monkeypatch):
    found = looked_at(monkeypatch, Outcome(LOADED, "not done within 3 s", "look"))
    assert found["TensorFlow"].verdict == "ok"
    assert found["devices"].verdict == "problem"
    assert "not done within 3 s" in found["devices"].text


def test_a_training_that_crashes(monkeypatch):
    found = looked_at(monkeypatch, Outcome({**LOADED, **THERE}, "ended by SIGSEGV", "look"))
    assert found["devices"].verdict == "ok"
    assert found["training on CPUs"].verdict == "problem"
    assert "ended by SIGSEGV" in found["training on CPUs"].text


@pytest.mark.parametrize(
    ("set_to", "written", "backend"),
    [(None, None, "tensorflow"), ("jax", None, "jax"), (None, '{"backend": "torch"}', "torch"),
     ("tensorflow", '{"backend": "torch"}', "tensorflow"), (None, "no JSON", "tensorflow")],
)  # fmt: skip
def test_what_keras_runs_on(monkeypatch, tmp_path, set_to, written, backend):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if set_to:
        monkeypatch.setenv("KERAS_BACKEND", set_to)
    if written:
        (tmp_path / "keras.json").write_text(written)
    found = looked_at(monkeypatch, Outcome({**LOADED, **THERE, **TRAINED}))["Keras's backend"]
    assert found.verdict == ("ok" if backend == "tensorflow" else "problem")
    assert found.text.startswith(backend)
    assert ("KERAS_BACKEND=tensorflow" in found.remedy) == (backend != "tensorflow")
    # Whatever it is, TensorFlow itself is tried.
    assert trainings._environment()["KERAS_BACKEND"] == "tensorflow"


def test_gpus_are_trained_on_and_their_crash_leaves_the_cpus_alone(monkeypatch):
    cpu = Outcome({**LOADED, **THERE, "gpus": 2, "devices": ["CPU", "GPU", "GPU"], **TRAINED})
    found = looked_at(monkeypatch, cpu, Outcome({**LOADED}, "it was ended by SIGSEGV", "look"))
    assert found["training on CPUs"].verdict == "ok"
    assert "2 x GPU" in found["devices"].text
    assert found["training on GPUs"].verdict == "problem"
    assert "SIGSEGV" in found["training on GPUs"].text


@pytest.mark.parametrize(
    ("hidden", "cuda", "remedy"),
    [("-1", True, "CUDA_VISIBLE_DEVICES='-1' hides it"), (None, False, "without CUDA"),
     (None, True, "CUDA's libraries")],
)  # fmt: skip
def test_a_card_that_tensorflow_does_not_see(monkeypatch, hidden, cuda, remedy):
    monkeypatch.setattr(trainings, "nvidia_card", lambda: "GPU 0: Made Up")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    found = looked_at(monkeypatch, Outcome({**LOADED, **THERE, "cuda": cuda, **TRAINED}))
    assert found["devices"].verdict == "warning"
    assert "does not see GPU 0: Made Up" in found["devices"].text
    assert remedy in found["devices"].remedy


def test_nvidias_tool_is_asked(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for script, card in (("echo 'GPU 0: H100'; echo 'GPU 1: H100'", "GPU 0: H100"),
                         ("echo 'No devices were found'; exit 6", None)):  # fmt: skip
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        assert trainings.nvidia_card() == card
    tool.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert trainings.nvidia_card() is None


def test_without_tensorflow_nothing_is_started(monkeypatch):
    monkeypatch.setattr(trainings.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(trainings, "train_apart", None)
    (finding,) = look_at_trainings()
    assert finding.verdict == "note"
    assert "no training can be watched" in finding.text
    assert finding.remedy == 'pip install "distwatch[tensorflow]"'
