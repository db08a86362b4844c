"""The place for runs is tested with the real writer, and left as it was."""

import os
from types import SimpleNamespace

import pytest

from distwatch.cli.doctor import targets
from distwatch.cli.doctor.targets import Speed, look_at_target, measure, place_of
from distwatch.errors import ConfigError, DamagedStoreError
from distwatch.statistics import ROW
from distwatch.store import StoreWriter, location_of
from distwatch.testing.fake import fake_run


@pytest.fixture(autouse=True)
def shortly(monkeypatch):
    monkeypatch.setattr(targets, "SECONDS", 0.0)


def named(target):
    return {finding.name: finding for finding in look_at_target(str(target))}


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    found = named(tmp_path)
    assert [*found] == ["place", "writing", "sync to disk", "free"]
    assert {finding.verdict for finding in found.values()} <= {"ok", "warning"}
    assert found["writing"].figures["blocks_per_second"] > 0
    assert found["sync to disk"].figures["sync_milliseconds"] > 0
    assert found["free"].figures["free_bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_figures_are_of_what_was_written(tmp_path):
    speed = measure(tmp_path / "tried.zarr")
    # Two blocks beyond the first: 256 steps, 40 signals, on 2 replicas and merged.
    assert speed.blocks == 2
    rows = 256 * 40 * 3 * len(ROW.fields) * 8
    assert rows * 2 < speed.raw < rows * 2 * 1.01
    assert speed.raw * 0.2 < speed.stored < speed.raw
    assert speed.rate == pytest.approx(2 / speed.seconds)


def test_a_run_is_tried_beside_it(tmp_path):
    run = fake_run(tmp_path / "run.zarr")
    before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*")}
    assert place_of(str(run.path)).parent == tmp_path
    assert named(run.path)["place"].verdict == "ok"
    assert {file: file.stat().st_mtime_ns for file in run.path.rglob("*")} == before
    assert list(tmp_path.iterdir()) == [run.path]


def test_what_is_not_there_is_tried_where_it_would_be(tmp_path):
    found = named(tmp_path / "not" / "yet" / "run.zarr")
    assert found["place"].verdict == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "above"),
    [("memory://a/run.zarr", "memory://a/"), ("memory://a", "memory://a/"),
     ("s3://bucket/runs/one.zarr", "s3://bucket/runs/"), ("s3://bucket", "s3://bucket/")],
)  # fmt: skip
def test_of_a_url_the_name_is_exchanged(target, above):
    place = place_of(target)
    assert place.startswith(f"{above}distwatch-doctor-")
    assert place != place_of(target)


def test_memory_is_tried_without_a_disk(tmp_path, monkeypatch):
    places = []
    monkeypatch.setattr(targets, "place_of", lambda t: places.append(place_of(t)) or places[0])
    found = named("memory://doctor/run.zarr")
    assert [*found] == ["place", "writing"]
    assert "kept by the process only" in found["place"].text
    assert location_of(places[0]).is_free()


@pytest.mark.parametrize(
    ("target", "part"),
    [("nonsense://x/y", "known are paths"), ("s3://", "names no place"),
     ("/proc/nowhere/run.zarr", "cannot be written"), (__file__, "is a file")],
)  # fmt: skip
def test_a_place_that_takes_no_runs_is_one_problem(target, part):
    (finding,) = look_at_target(target)
    assert (finding.name, finding.verdict) == ("place", "problem")
    assert part in finding.text
    assert "--store" in finding.remedy


def test_a_full_disk_is_a_problem_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, block):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StoreWriter, "append", full)
    (finding,) = look_at_target(str(tmp_path))
    assert finding.verdict == "problem"
    assert "No space left" in finding.text
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_forgets_is_found(tmp_path, monkeypatch):
    append = StoreWriter.append

    def forgetful(self, block):
        append(self, block[:] if block.step[0] == 0 else spoiled(block))

    def spoiled(block):
        block.rows[0, 1, 3, 2] += 1
        return block

    monkeypatch.setattr(StoreWriter, "append", forgetful)
    monkeypatch.setattr(targets, "_moved", moved_copy)
    with pytest.raises(DamagedStoreError, match="not what was written"):
        measure(tmp_path / "tried.zarr")
    assert list(tmp_path.iterdir()) == []


def moved_copy(block, number, moved=targets._moved):
    copy = moved(block, number)
    return type(copy)(**{**vars(copy), "rows": copy.rows.copy()})


def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(self, block):
        raise KeyboardInterrupt

    monkeypatch.setattr(StoreWriter, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path / "tried.zarr")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("blocks", "verdict"), [(1, "problem"), (5, "warning"), (20, "ok")])
def test_too_slow_is_against_what_a_training_needs(blocks, verdict):
    """100 steps/s in blocks of 256: 0.39 blocks/s, so 3.9 in ten seconds."""
    finding = targets._writing(Speed(blocks, 10.0, raw=10**6, stored=10**6))
    assert finding.verdict == verdict
    assert ("every: 10" in finding.remedy) == (verdict != "ok")
    assert ("rows would be lost" in finding.remedy) == (verdict == "problem")


@pytest.mark.parametrize(("free", "verdict"), [(5e7, "problem"), (1e9, "warning"), (5e9, "ok")])
def test_a_disk_that_is_nearly_full(tmp_path, monkeypatch, free, verdict):
    monkeypatch.setattr(targets.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    finding = targets._free(tmp_path, Speed(10, 1.0, raw=10**7, stored=256_000))
    assert finding.verdict == verdict
    # 100 bytes a step.
    assert f"{free / 100 / 1e6:,.2g} million steps" in finding.text


def test_a_slow_way_to_the_disk_is_a_warning(tmp_path, monkeypatch):
    sync = os.fsync
    monkeypatch.setattr(
        targets.os, "fsync", lambda file: (targets.time.sleep(0.06), sync(file))
    )
    finding = targets._syncing(Speed(1, 1.0, raw=1, stored=1), tmp_path)
    assert finding.verdict == "warning"
    assert finding.figures["sync_milliseconds"] >= 60


def test_a_file_is_refused_by_name():
    with pytest.raises(ConfigError, match="is a file"):
        place_of(__file__)
