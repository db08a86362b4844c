"""``distwatch report``, end to end."""

import importlib.util
import os
import sys

import pytest
from chosen_runs import HOSTILE, made_run, ordinary
from commands import assert_refused, command

from distwatch import report
from distwatch.report import images
from distwatch.testing.fake import fake_run


@pytest.fixture
def run(tmp_path):
    return fake_run(tmp_path / "run.zarr", steps=30, replicas=3).path


@pytest.fixture
def chromium():
    if images.browser() is None:
        if "CI" in os.environ:
            pytest.fail("there is no Chromium on the PATH, and CI has to make images")
        pytest.skip("there is no Chromium on the PATH")


def test_it_writes_one_file(run, tmp_path):
    done = command("report", run, "-o", "out.html", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("out.html: ")
    assert done.stdout.endswith("MB, opens without a network.\n")
    page = (tmp_path / "out.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "<title>run.zarr" in page


def test_help_has_examples(call):
    code, out, _ = call("report", "--help")
    assert code == 0
    for part in ("Examples:", "distwatch report before.zarr after.zarr", "replaced"):
        assert part in " ".join(out.split())


def test_a_title_and_two_runs(call, run, tmp_path):
    other = fake_run(tmp_path / "other.zarr", steps=12, signals=["activation/dense"]).path
    out = tmp_path / "both.html"
    assert call("report", run, other, "-o", out, "--title", "Before & after")[0] == 0
    page = out.read_text()
    assert "<title>Before &amp; after" in page
    assert "1 signal in common" in page


def test_a_phase_is_chosen(call, run, tmp_path):
    ended = call("report", run, "-o", tmp_path / "out.html", "--phase", "test")
    assert_refused(ended, "has no phase 'test'")
    assert not (tmp_path / "out.html").exists()


def test_what_is_no_run_is_refused(call, tmp_path):
    assert_refused(call("report", tmp_path / "none.zarr", "-o", tmp_path / "a.html"), "none")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_refused_before_anything_is_read(call, run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "read_runs", lambda *_, **__: sys.exit("read"))
    assert_refused(call("report", run, "-o", tmp_path), "is a folder")


def test_bad_usage_is_2(call, run):
    assert call("report")[0] == 2
    assert call("report", run, "--phases")[0] == 2


def test_more_runs_than_have_letters_are_refused(call, run, tmp_path):
    refused = call("report", *[run] * 9, "-o", tmp_path / "a.html")
    assert_refused(refused, "9 runs: at most 8 can be compared")


def test_eight_runs_are_compared(call, tmp_path):
    runs = [fake_run(tmp_path / f"{i}.zarr", steps=6, seed=i).path for i in range(8)]
    assert call("report", *runs, "-o", tmp_path / "all.html")[0] == 0
    assert "8 runs side by side" in (tmp_path / "all.html").read_text()


def test_it_is_opened_when_asked_for(call, run, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("typer.launch", opened.append)
    call("report", run, "-o", tmp_path / "a.html")
    assert opened == []
    call("report", run, "-o", tmp_path / "a.html", "--open")
    assert opened == [str(tmp_path / "a.html")]


@pytest.mark.slow
def test_images_are_written(chromium, call, tmp_path):
    names = ["update/a", HOSTILE[0], "activation/../../b"]
    path = made_run(
        tmp_path / "run.zarr", ordinary(20, 2, 3), names=names, histogram=True, ratio=True
    )
    folder = tmp_path / "figures"
    code, out, err = call(
        "report", path, "-o", tmp_path / "a.html", "--png", folder, "--signals", "*b",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "figures: 5 images." in out
    written = {each.name: each.read_bytes() for each in folder.iterdir()}
    assert set(written) == {
        "heatmap.png", "divergence.png", "update-ratios.png", "curves-activation-b.png",
        "ridgeline-activation-b.png",
    }  # fmt: skip
    for name, made in written.items():
        assert made.startswith(b"\x89PNG"), name
        width = int.from_bytes(made[16:20])
        assert (width, len(made) > 10_000) == (2000, True), name


def test_a_pattern_that_matches_nothing_is_refused(chromium, call, run, tmp_path):
    ended = call("report", run, "-o", tmp_path / "a.html", "--png", tmp_path, "--signals", "x*")
    assert_refused(ended, "signal pattern 'x*' matches no signal")
    assert not (tmp_path / "a.html").exists()


def test_images_without_a_browser_are_refused(call, run, tmp_path, monkeypatch):
    arguments = ("report", run, "-o", tmp_path / "a.html", "--png", tmp_path / "png")
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chromium")
    assert_refused(call(*arguments), "BROWSER_PATH=/nowhere/chromium is no file", "install")
    monkeypatch.delenv("BROWSER_PATH")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_refused(call(*arguments), "none is on the PATH", "apt install chromium")
    assert not (tmp_path / "a.html").exists()


def test_images_without_kaleido_are_refused(call, run, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "kaleido" else found(name)
    )
    ended = call("report", run, "-o", tmp_path / "a.html", "--png", tmp_path / "png")
    assert_refused(ended, "kaleido", 'pip install "distwatch[png]"')


def test_without_plotly_it_is_refused(call, run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    ended = call("report", run, "-o", tmp_path / "a.html")
    assert_refused(ended, "plotly", 'pip install "distwatch[report]"')


def test_a_report_is_written_beside_its_run(call, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("report", run)
    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'run.html'}: ")
    fake_run(tmp_path / "runs" / "later.zarr", steps=12)
    assert call("report", "runs/")[1].startswith("runs/later.html: ")
    assert call("report", "run.zarr", "runs")[1].startswith("run-and-later.html: ")
    memory = fake_run(f"memory://{tmp_path.name}/far.zarr", steps=12).path
    assert call("report", memory)[1].startswith("far.html: ")


def _page(*identities):
    named = f'<meta name="distwatch-runs" content="{" ".join(identities)}">\n'
    return (
        '<!DOCTYPE html>\n<meta name="generator" content="distwatch 0.1.0">\n'
        f"{named if identities else ''}<title>old.zarr · distwatch</title>\n"
    )


@pytest.mark.parametrize(
    "there, named, was",
    [
        (_page("other-2025"), False, "the report of another run (old.zarr)"),
        (_page(), False, "the report of old.zarr"),
        ("<p>my own", True, "a file that is no report of distwatch"),
    ],
    ids=["other", "old", "named"],
)
def test_another_page_is_not_replaced_silently(call, run, there, named, was):
    page = run.with_name("run.html")
    page.write_text(there)
    code, _, err = call("report", run, *(["-o", page] if named else []))
    assert (code, err) == (0, f"distwatch: {page} was {was}, and is replaced\n")
    # Once more it is its own.
    assert call("report", run)[2] == ""


def test_a_file_of_ones_own_is_left_alone(call, run):
    page = run.with_name("run.html")
    page.write_text("<p>my own")
    refused = call("report", run)
    assert_refused(refused, "no report of distwatch, so it is left alone", "-o")
    assert page.read_text() == "<p>my own"
