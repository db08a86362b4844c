"""The README's programs run as they stand, one after the other, as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import distwatch as dw

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
TESTS = [block for block in BLOCKS if "def test_" in block]


def run(*command, cwd):
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=quiet,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    assert "retracing" not in ended.stderr
    return ended.stdout


def test_the_programs_run(tmp_path):
    programs = [block for block in BLOCKS if block not in TESTS]
    (tmp_path / "readme.py").write_text("\n".join(programs))
    # Keras saves a distributed variable in a way that NumPy 2 will give up; watching or not.
    known = "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
    printed = run("-W", "error", "-W", known, "readme.py", cwd=tmp_path)
    opened = dw.open_run(tmp_path / "run.zarr")
    assert opened.summary() in printed
    assert len(opened) == 15
    # As its comment says.
    assert f"run.signals)  # {', '.join(opened.signals)}" in README.read_text()
    assert len(dw.open_run(tmp_path / "tracked.zarr")) == 5
    assert len(dw.open_run(tmp_path / "sampled.zarr")) == 1


def test_the_test_runs_on_two_replicas(tmp_path):
    (block,) = TESTS
    (tmp_path / "test_readme_block.py").write_text(block)
    printed = run("-m", "pytest", "-p", "no:cacheprovider", "--replicas", "2", cwd=tmp_path)
    assert "1 passed" in printed


def test_every_public_name_is_in_the_api_table():
    text = README.read_text()
    for name in dw.__all__:
        assert f"dw.{name}" in text


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README.read_text()))
def test_links_lead_somewhere(target):
    assert (README.parent / target).exists()
