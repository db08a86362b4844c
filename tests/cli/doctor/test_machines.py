"""``distwatch doctor`` on machines that this one is made to look like."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import distwatch

pytestmark = pytest.mark.slow

ROOT = Path(distwatch.__file__).parents[1]
MAIN = "from distwatch.cli import main; main()"


def doctor(*paths, python=(sys.executable, "-P")):
    """Its exit code and findings, in a process that looks for packages there first."""
    own = {name: is_ for name, is_ in os.environ.items() if name != "KERAS_BACKEND"}
    done = subprocess.run(
        [*python, "-c", MAIN, "doctor", "--json", "--store", "memory://doctor/run.zarr"],
        capture_output=True,
        text=True,
        env={**own, "PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT)))},
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, {each["name"]: each for each in json.loads(done.stdout)["findings"]}


def test_a_machine_without_tensorflow_can_read_and_write(tmp_path):
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.startswith(("tensorflow", "tf_", "keras")):
            (tmp_path / package.name).symlink_to(package)
    code, found = doctor(tmp_path, python=(sys.executable, "-S", "-P"))
    assert code == 0
    assert found["[tensorflow]"]["verdict"] == "note"
    for name in ("tensorflow", "keras"):
        assert f"{name} not installed" in found["[tensorflow]"]["text"]
    assert found["[tensorflow]"]["remedy"].startswith("pip install")
    assert "runs can be read here" in found["TensorFlow"]["text"]
    assert found["writing"]["verdict"] == "ok"
    assert "training on CPUs" not in found


def test_a_tensorflow_that_crashes_leaves_the_other_findings(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("import os\nos.abort()\n")
    code, found = doctor(tmp_path)
    assert code == 1
    assert found["TensorFlow"]["verdict"] == "problem"
    assert "SIGABRT" in found["TensorFlow"]["text"]
    assert found["TensorFlow"]["remedy"]
    assert found["tensorflow"]["verdict"] == "ok"  # As pip sees it.
    assert found["writing"]["verdict"] == "ok"
