"""What the documents say runs as it stands, in their order, as a reader would run it."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from commands import BIN

import distwatch as dw

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = sorted(
    path
    for path in (
        README,
        *ROOT.glob("examples/**/*.md"),
        *ROOT.glob(".github/*.md"),
        *ROOT.glob("distwatch/**/*.md"),
    )
)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: Blocks that show output, or the form of something: nothing in them is to be run.
SHOWN = ("text", "json")
QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "100"}
# Keras saves a distributed variable in a way that NumPy 2 will give up; watching or not.
KNOWN = "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
#: A training of the reader's own, which `distwatch run` is shown with.
TRAINING = """
import argparse
import keras
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--lr", type=float, default=0.1)
given = parser.parse_args()
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model.compile(keras.optimizers.SGD(given.lr), "mse")
x = np.random.default_rng(0).normal(1.0, 2.0, (40, 3))
model.fit(x, x[:, :2], batch_size=8, epochs=given.epochs, verbose=0)
"""

#: A program that pytest runs.
TESTS = "def test_"


def blocks(document, language):
    """The fenced blocks of a document in one language, in their order."""
    return [text for name, text in FENCED.findall(document.read_text()) if name == language]


def lines(document):
    """What a reader would type into a shell, a command a line, without the comments."""
    typed = "".join(blocks(document, "sh")).replace("\\\n", " ")
    return [
        line for line in (each.split(" #")[0].strip() for each in typed.splitlines()) if line
    ]


def run(*command, cwd):
    ended = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=QUIET,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, (command, ended.stdout[-2000:], ended.stderr)
    assert "retracing" not in ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Where somebody has run the README's programs, and what these printed."""
    folder = tmp_path_factory.mktemp("reader")
    programs = [block for block in blocks(README, "python") if TESTS not in block]
    (folder / "readme.py").write_text("\n".join(programs))
    printed = run(sys.executable, "-W", "error", "-W", KNOWN, "readme.py", cwd=folder)
    return folder, printed


def test_the_readme_s_programs_run(reader):
    folder, printed = reader
    opened = dw.open_run(folder / "run.zarr")
    assert opened.summary() in printed
    assert len(opened) == 3 * 56
    # As its comment says.
    assert f"run.signals)  # {', '.join(opened.signals)}" in README.read_text()
    assert len(dw.open_run(folder / "tracked.zarr")) == 56
    assert len(dw.open_run(folder / "sampled.zarr")) == 6


def test_the_readme_s_test_runs_on_two_replicas(tmp_path):
    (block,) = [block for block in blocks(README, "python") if TESTS in block]
    (tmp_path / "test_readme_block.py").write_text(block)
    options = ("-p", "no:cacheprovider", "--replicas", "2")
    printed = run(sys.executable, "-m", "pytest", *options, cwd=tmp_path)
    assert "1 passed" in printed


def test_the_readme_s_commands_run(reader):
    folder, _ = reader
    (folder / "package").mkdir()
    for script in ("train.py", "package/train.py"):
        (folder / script).write_text(TRAINING)
    typed = [line for line in lines(README) if line.startswith("distwatch ")]
    assert len(typed) > 5
    for line in typed:
        run(BIN / "distwatch", *shlex.split(line)[1:], cwd=folder)
    assert len(dw.open_run(folder / "distwatch-runs" / "fit-000.zarr")) == 15
    assert len(dw.open_run(folder / "runs" / "fit-000.zarr")) == 1  # every tenth of five


@pytest.mark.parametrize(
    "document",
    [each for each in DOCUMENTS if each != README and blocks(each, "python")],
    ids=lambda path: path.name,
)
def test_programs_of_other_documents_run(reader, document):
    """Beside what the README's have left there."""
    folder, _ = reader
    (folder / "other.py").write_text("\n".join(blocks(document, "python")))
    run(sys.executable, "-W", "error", "-W", KNOWN, "other.py", cwd=folder)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_is_of_a_kind_that_is_run_or_shown(document):
    kinds = {language for language, _ in FENCED.findall(document.read_text())}
    assert kinds <= {"python", "sh", *SHOWN}


@pytest.mark.parametrize(
    ("document", "line"),
    [(document, line) for document in DOCUMENTS for line in lines(document)],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_every_command_is_one_that_there_is(document, line):
    """Those of the README that distwatch answers are run above; no others need to be."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    program, *arguments = shlex.split(line)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {each for each in arguments if "=" not in each} <= set(targets)
    elif program == "pip":
        (extras,) = re.findall(r"distwatch\[([\w,]+)\]", line) or [""]
        known = project["project"]["optional-dependencies"]
        assert set(extras.split(",")) - {""} <= set(known)
    elif program in ("python", "pytest"):
        files = [each for each in arguments if each.endswith((".py", ".ipynb"))]
        assert all((ROOT / each).exists() for each in files)
    elif program == "distwatch":
        assert run(BIN / "distwatch", arguments[0], "--help", cwd=ROOT)
    else:
        assert program in ("git", "cd", ".", "tensorboard"), f"nothing tests {program}"


def test_every_public_name_is_in_the_api_table():
    text = README.read_text()
    for name in dw.__all__:
        assert f"dw.{name}" in text


@pytest.mark.parametrize(
    ("document", "target"),
    [
        (document, target)
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    ],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_links_lead_somewhere(document, target):
    assert (document.parent / target).exists()


def test_headings_that_are_linked_to_are_there():
    text = README.read_text()
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(#([^)]+)\)", text):
        assert target in headings
