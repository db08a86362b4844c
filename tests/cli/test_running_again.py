"""Commands that are given a folder of runs, or a pattern, take the newest, and say which."""

import pytest
from commands import assert_refused

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
