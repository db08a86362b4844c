"""Finding runs in folders and by patterns, and the names of new ones."""

import itertools
import json
import re

import pytest

from distwatch import open_run
from distwatch.errors import NotARunError, UnreachableError
from distwatch.store import location_of
from distwatch.store.finding import runs_at
from distwatch.store.folders import Folder
from distwatch.store.locations import ROOT_DOCUMENT
from distwatch.store.new_runs import dated_names, order_of
from distwatch.testing.fake import fake_run


def made(path, created):
    """A run that says when it was created."""
    fake_run(path, steps=0)
    location = location_of(path)
    document = json.loads(location.read(ROOT_DOCUMENT))
    del document["attributes"]["distwatch"]["crc32"]
    document["attributes"]["distwatch"]["created"] = created
    location.write([(ROOT_DOCUMENT, json.dumps(document).encode())])


@pytest.fixture
def folder(tmp_path):
    """Runs of different times, in a folder of their own and not; and what is no run."""
    root = tmp_path / "runs"
    times = {
        "2026-11-25-1412-digits.zarr": "2026-11-25T14:12:00+00:00",
        "2026-11-25-1412-digits-2.zarr": "2026-11-25T14:12:00+00:00",
        "2026-11-25-1412-digits-10.zarr": "2026-11-25T14:12:00+00:00",
        "2026-11-26-0900-train/fit-000.zarr": "2026-11-26T09:00:01+00:00",
        "2026-11-26-0900-train/fit-001.zarr": "2026-11-26T09:00:02+00:00",
        "named.zarr": "2026-11-24T00:00:00+00:00",
    }
    for name, created in times.items():
        made(root / name, created)
    (root / "notes.txt").write_text("not a run")
    (root / "empty").mkdir()
    fake_run(root / ".2026.deleted", steps=1)
    # A store of something else is not looked into.
    (root / "other").mkdir()
    (root / "other" / ".zgroup").write_text("{}")
    fake_run(root / "other" / "inner.zarr", steps=1)
    return root


ORDER = [
    "2026-11-26-0900-train/fit-001.zarr",
    "2026-11-26-0900-train/fit-000.zarr",
    "2026-11-25-1412-digits-10.zarr",
    "2026-11-25-1412-digits-2.zarr",
    "2026-11-25-1412-digits.zarr",
    "named.zarr",
]


def names(*given):
    return [run.name for run in runs_at(*given)]


def test_the_runs_of_a_folder_are_found_newest_first(folder):
    assert names(folder) == ORDER
    assert names(f"{folder}/") == ORDER
    assert [run.address for run in runs_at(folder)] == [folder / name for name in ORDER]
    assert names(folder / "named.zarr") == ["named.zarr"]
    assert names(folder / "empty") == names(folder / "nowhere") == []
    assert names(folder / "notes.txt") == []


def test_patterns(folder, monkeypatch):
    assert names(folder / "*digits*") == ORDER[2:5]
    assert names(folder / "2026-11-26*") == ORDER[:2]
    assert names(folder / "2026-11-2[56]*" / "fit-000*") == ORDER[1:2]
    assert names(folder / "*.zip") == []
    monkeypatch.chdir(folder)
    assert names("*digits*") == names("./*digits*") == ORDER[2:5]


def test_a_name_that_looks_like_a_pattern_is_that_run(tmp_path):
    fake_run(tmp_path / "run[1].zarr", steps=1)
    assert names(tmp_path / "run[1].zarr") == ["run[1].zarr"]
    fake_run(tmp_path / "set[1]" / "run.zarr", steps=1)
    assert names(tmp_path / "set[1]") == ["run.zarr"]


def test_dated_names_go_on_with_the_numbers_of_their_minute(tmp_path):
    first = next(dated_names(tmp_path, "my model/v2.1"))
    assert first.endswith("-my_model_v2_1.zarr")
    (tmp_path / first).mkdir()
    (tmp_path / first.replace(".zarr", "-7.zarr")).mkdir()
    # Of another script, too; unless a minute has just passed.
    second, third = itertools.islice(dated_names(tmp_path, "other"), 2)
    if order_of(second)[0] == order_of(first)[0]:
        assert (order_of(second)[1], order_of(third)[1]) == (8, 9)
    assert next(dated_names(tmp_path / "none", "!", "")).endswith("-run")
    assert order_of("run.zarr") == ("", 0)


def test_a_run_that_has_lost_its_root_is_none_and_neither_are_its_parts(tmp_path):
    fake_run(tmp_path / "whole.zarr", steps=4)
    fake_run(tmp_path / "lost.zarr", steps=4)
    (tmp_path / "lost.zarr" / ROOT_DOCUMENT).unlink()
    assert [run.name for run in runs_at(tmp_path)] == ["whole.zarr"]
    assert runs_at(tmp_path / "lost.zarr") == []


def test_a_folder_that_cannot_be_read_is_passed_over(tmp_path, monkeypatch):
    fake_run(tmp_path / "run.zarr", steps=4)
    (tmp_path / "lost+found").mkdir()
    original = Folder.children

    def children(self, path=""):
        if self._path.name == "lost+found":
            raise UnreachableError("permission denied")
        return original(self, path)

    monkeypatch.setattr(Folder, "children", children)
    assert [run.name for run in runs_at(tmp_path)] == ["run.zarr"]


def test_a_folder_of_runs_is_refused_with_the_newest_run_in_it(folder, tmp_path):
    with pytest.raises(NotARunError, match=r"6 runs .*open_run\(.*fit-001\.zarr.*list_runs"):
        open_run(folder)
    newest = runs_at(folder)[0].address
    with pytest.raises(NotARunError, match=re.escape(f"open_run({str(newest)!r})")):
        open_run(f"{folder}/")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotARunError, match="Give the path that was given to Watch"):
        open_run(tmp_path / "empty")
