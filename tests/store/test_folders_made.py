"""Folders that are made for runs, and taken back where they stay empty."""

import threading
from pathlib import Path

import pytest

from distwatch.store import location_of
from distwatch.store.new_runs import new_folder


def test_what_was_made_and_is_empty_is_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    location = location_of(tmp_path / "mine" / "runs" / "run.zarr")
    assert location.make()
    assert not location.make()
    location.unmake()
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


@pytest.mark.parametrize("there", ["mine/runs/run.zarr/a.txt", "mine/runs/b.zarr/a.txt"])
def test_what_something_is_in_stays(tmp_path, there):
    location = location_of(tmp_path / "mine" / "runs" / "run.zarr")
    location.make()
    file = tmp_path / there
    file.parent.mkdir(exist_ok=True)
    file.write_text("keep me")
    location.unmake()
    kept = {file, *file.parents}
    assert {path for path in tmp_path.rglob("*") if path not in kept} == set()
    assert file.read_text() == "keep me"


def test_what_another_one_made_stays_though_it_is_empty(tmp_path):
    first, second = (location_of(tmp_path / "runs" / name) for name in ("a.zarr", "b.zarr"))
    assert first.make()
    assert second.make()
    second.unmake()
    assert [path.name for path in tmp_path.rglob("*.zarr")] == ["a.zarr"]
    first.unmake()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_leaves_no_parents(tmp_path):
    with pytest.raises(OSError, match="too long"):
        location_of(tmp_path / "runs" / "deep" / ("x" * 300)).make()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "runs").write_text("keep me")
    for path in (tmp_path / "runs", tmp_path / "runs" / "run.zarr"):
        with pytest.raises(OSError, match=r"exists|directory"):
            location_of(path).make()
    assert (tmp_path / "runs").read_text() == "keep me"


def test_a_parent_that_is_removed_meanwhile_is_made_again(tmp_path, monkeypatch):
    made, folder = [], tmp_path / "runs"
    before = Path.mkdir

    def mkdir(path, *args, **further):
        # Another process takes back its folder of runs just before a run is made in it.
        if path.name == "run.zarr" and folder.exists() and len(made) < 3:
            folder.rmdir()
        made.append(path)
        before(path, *args, **further)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert location_of(folder / "run.zarr").make()
    assert (folder / "run.zarr").is_dir()


def test_a_folder_that_is_removed_as_it_is_found_is_made_again(tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    folder.mkdir()
    before = Path.mkdir

    def mkdir(path, *args, **further):
        try:
            before(path, *args, **further)
        finally:
            if not tried:
                folder.rmdir()
            tried.append(path)

    tried = []
    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert location_of(folder).make()
    assert folder.is_dir()


def test_several_that_make_and_take_back_do_not_disturb_each_other(tmp_path):
    failed = []

    def work(number):
        try:
            for _ in range(50):
                empty = new_folder(tmp_path / "runs", "refused")
                used = new_folder(tmp_path / "runs", "trained")
                (used.address / "a.txt").write_text(f"{number}")
                used.unmake()
                empty.unmake()
                assert (used.address / "a.txt").read_text() == f"{number}"
                (used.address / "a.txt").unlink()
                used.address.rmdir()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert list(tmp_path.rglob("*refused*")) == []
