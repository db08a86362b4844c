"""Every block of code in the documents runs, page by page, as a reader would run it.

A page is one process, so that TensorFlow starts once; its blocks run in their order. A page
that continues another one starts with a copy of the files that the other has left.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import DOCUMENTS, ROOT, blocks, continued, program

import distwatch as dw
from distwatch.store.finding import runs_at

README, START, GUIDES = ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "guides"
PAGES = [
    path
    for path in DOCUMENTS
    if any(
        block.language in ("python", "sh", "yaml") and not block.not_run
        for block in blocks(path)
    )
]
# Keras saves a distributed variable in a way that NumPy 2 will give up; watching or not.
KNOWN = "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Run a page once: where it ran, and what it printed."""
    done = {}

    def run(page):
        if page not in done:
            folder = tmp_path_factory.mktemp(page.stem)
            if base := continued(page):
                shutil.copytree(run(base)[0], folder, dirs_exist_ok=True)
            done[page] = folder, printed_by(page, folder)
        return done[page]

    return run


def printed_by(page, folder):
    (folder / "page.py").write_text(program(page))
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-W", KNOWN, "page.py"],
        cwd=folder,
        env={
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": str(Path(__file__).parent),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 0, (ended.stdout[-2000:], ended.stderr)
    assert "retracing" not in ended.stderr
    return ended.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_run(page, read):
    read(page)


@pytest.mark.parametrize("page", [README, START], ids=["README", "start"])
def test_the_first_program_does_what_it_says(page, read):
    folder, printed = read(page)
    opened = dw.open_run(folder / "run.zarr")
    assert opened.summary() in printed
    assert len(opened) == 3 * 56
    text, signals = page.read_text(), opened.signals
    assert f"run.signals[:3])  # {', '.join(signals[:3])}\n" in text
    assert f"run.signals[3:])  # {', '.join(signals[3:])}\n" in text
    assert (folder / "run.html").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("page", "store", "phase", "steps"),
    [
        ("tracker.md", "tracked.zarr", "train", 56),
        ("strategies.md", "loop.zarr", "train", 2 * 56),
        ("strategies.md", "phases.zarr", "test", 2),
        ("configuration.md", "runs/*-train*/fit-000.zarr", "train", 3 * 5),
        ("configuration.md", "sampled-runs/fit-000.zarr", "train", 1),  # every tenth of five
        ("configuration.md", "sampled.zarr", "train", 5),  # every tenth of fifty
        ("resuming-and-workers.md", "long.zarr", "train", 2 * 56),
    ],
)
def test_guides_record_what_they_say(read, page, store, phase, steps):
    folder, _ = read(GUIDES / page)
    # Of the runs in a folder, the one that was begun first.
    first = runs_at(folder / store)[-1].address
    assert len(dw.open_run(first, phase=phase)) == steps


def test_the_guide_to_signals_has_one_of_each_kind(read):
    folder, _ = read(GUIDES / "signals.md")
    names = dw.open_run(folder / "everything.zarr").signals
    assert {re.split("[/:]", name)[0] for name in names} == {
        "activation", "data", "gradient", "gradient_local", "input", "loss", "probe", "tensor",
        "update", "weight",
    }  # fmt: skip


def test_sampled_steps_are_those_of_the_comments(read):
    folder, printed = read(GUIDES / "references-and-schedules.md")
    run = dw.open_run(folder / "sampled.zarr")
    assert run["activation/dense"].merged("l2").step.values.tolist() == list(range(0, 32, 4))
    assert "32" in printed.splitlines()


def test_exports_are_written(read):
    folder, _ = read(GUIDES / "exports.md")
    assert list((folder / "logs" / "live").glob("*/events.out.tfevents.*"))
    assert list((folder / "logs" / "exported").glob("*/events.out.tfevents.*"))
    assert (folder / "run.parquet").exists()
    assert "activation/hidden/l2" in (folder / "log.csv").read_text()


def test_the_guide_s_test_passes(read):
    assert "1 passed" in read(GUIDES / "testing.md")[1]
