"""Commands that are given a folder of runs, or a pattern, take the newest, and say which."""

import re
import sys
from pathlib import Path

import pytest
from commands import assert_refused

from distwatch import cli
from distwatch.config import template, templates
from distwatch.errors import nearest
from distwatch.testing.fake import fake_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake_run(tmp_path / "runs" / "2026-11-24-0900-gan.zarr", steps=4)
    for number in (1, 2, 10):
        end = f"-{number}" if number > 1 else ""
        fake_run(tmp_path / "runs" / f"2026-11-25-1412-digits{end}.zarr", steps=number)
    return tmp_path / "runs"


NEWEST = "2026-11-25-1412-digits-10.zarr"


@pytest.mark.parametrize("given", ["runs", "runs/"])
@pytest.mark.parametrize("command", [("info",), ("tail", "--once"), ("verify",)], ids=str)
def test_a_folder_stands_for_its_newest_run(call, runs, command, given):
    name, *options = command
    alone = call(name, f"runs/{NEWEST}", *options)
    code, out, err = call(name, given, *options)
    assert (code, out) == alone[:2]
    assert err == f"distwatch: {NEWEST}: the newest of 4 runs in {given}\n"


def test_a_pattern_stands_for_the_newest_run_that_it_matches(call, runs):
    code, out, err = call("info", "runs/*gan*", "--json")
    assert (code, err) == (0, "")
    assert "2026-11-24-0900-gan.zarr" in out
    assert call("info", "runs/*digits*")[2] == (
        f"distwatch: {NEWEST}: the newest of 3 runs in runs/*digits*\n"
    )
    both = "runs/2026-11-24-0900-gan.zarr", f"runs/{NEWEST}"
    assert call("diff", "runs/*gan*", "runs/*digits*")[1] == call("diff", *both)[1]
    assert_refused(call("info", "runs/*nothing*"), "no such folder")


def test_a_file_is_told_to_be_one(call, runs):
    (runs.parent / "train.py").write_text("")
    assert_refused(call("info", "train.py"), "it is a file, and a run is a folder")


def test_nothing_is_cut_in_a_pipe(tmp_path, monkeypatch, capsys):
    """There the width of no terminal bounds a line; where one does, a name is folded."""
    name = "activation/" + "/".join(["a_block_of_a_long_name"] * 12)
    run = fake_run(tmp_path / "run.zarr", steps=3, signals=[name]).path
    monkeypatch.setattr(sys, "argv", ["distwatch", "info", str(run)])
    monkeypatch.delenv("COLUMNS", raising=False)
    with pytest.raises(SystemExit):
        cli.main()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if name in line]
    assert line.split()[:2] == [name, "previous"]


def test_a_narrow_terminal_cuts_nothing_either(call, tmp_path):
    name = "activation/" + "Q" * 100
    run = fake_run(tmp_path / "run.zarr", steps=3, signals=[name]).path
    out = call("info", run, width=70)[1]
    assert out.count("Q") == 100


def test_mistakes_of_a_configuration_are_a_line_each(call, runs):
    Path("train.py").write_text("")
    Path("bad.yaml").write_text("store: a\nwindow: 0\nreference: lsat\nfoo: 1\n")
    code, out, err = call("run", "--config", "bad.yaml", "train.py")
    lines = err.splitlines()
    assert (code, out, lines[0]) == (1, "", "error: bad.yaml: 3 mistakes")
    assert [line.split(":")[0] for line in lines[1:]] == ["  line 2", "  line 3", "  line 4"]
    Path("bad.yaml").write_text("store: a\nwindow: 0\n")
    err = call("run", "--config", "bad.yaml", "train.py")[2]
    assert err == "error: bad.yaml: line 2: window=0: expected a whole number from 1\n"


def test_only_what_is_close_is_offered():
    known = ["production", "minimal", "activation/guess", "weight/dense/kernel", "loss"]
    assert nearest("foo", known) == (
        "none close; there are 'production', 'minimal', 'activation/guess', "
        "'weight/dense/kernel', 'loss'"
    )
    assert nearest("loss", known[:4]).startswith("none close; ")
    assert nearest("kernel", known) == nearest("kernal", known) == "'weight/dense/kernel'"
    assert nearest("prodction", known) == "'production'"
    assert nearest("x", [f"name{i}" for i in range(20)]).endswith("'name5', ... (20 in all)")
    assert nearest("x", []) == "none"


def test_templates_cite_no_file_that_is_not_there():
    for use in templates():
        cited = set(re.findall(r"[\w/-]+\.yaml", template(use)))
        assert cited <= {"watch.yaml"}, use


def test_a_folder_that_holds_one_run_stands_for_it(call, tmp_path):
    fake_run(tmp_path / "runs" / "fit-000.zarr", steps=5)
    for name in ("info", "verify"):
        assert call(name, tmp_path / "runs") == call(name, tmp_path / "runs" / "fit-000.zarr")
    assert call("tail", tmp_path / "runs", "--once", "--json")[0] == 0
