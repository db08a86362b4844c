"""`make gpu-check` itself, tried on virtual CPUs: no GPU was ever at hand here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "gpu_check.py"


def run(*arguments):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=400
    )


def test_truth_and_untouched_training_on_two_devices():
    done = run("--cpu", "2", "--rounds", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = [line.split(":")[0] for line in done.stdout.splitlines() if ": held: " in line]
    assert [" ".join(check.split()) for check in checks] == [
        f"{name} on {replicas} replica(s)"
        for replicas in (1, 2)
        for name in ("truth", "untouched")
    ]


def test_without_a_gpu_nothing_is_called_verified():
    done = run()
    assert (done.returncode, "held" in done.stdout) == (2, False)
    assert "nothing was verified" in done.stdout
