"""A run has one writer a worker at a time, and its writer knows when it is no longer that."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import contenders
import pytest
from test_writing import TABLE, assert_holds, block_of, info_of

import distwatch as dw
from distwatch.errors import (
    NotWritableError,
    RunExistsError,
    RunInUseError,
    RunInUseWarning,
    RunTakenError,
)
from distwatch.records import Origin
from distwatch.store import (
    StoreWriter,
    claim_again,
    claim_new,
    claim_with,
    is_run,
    locking,
    run_name,
)
from distwatch.store.locking import Holder, holder_of, lock_name
from distwatch.store.schema import root_attributes
from distwatch.testing.fake import fake_run

INFO = info_of()
LOCK = lock_name(0)


@pytest.fixture
def soon(monkeypatch):
    """Locks are renewed, and are stale, after fractions of a second."""
    for name, seconds in {"STALE": 0.4, "RENEWAL": 0.05, "_LOOK": 0.01}.items():
        monkeypatch.setattr(locking, name, seconds)


def new(path, run="1f", **how):
    return claim_new(path, root_attributes(INFO, "2026-01-01T00:00:00+00:00", run), **how)


def writer_of(path, held):
    return StoreWriter(path, replace(INFO, origin=Origin(held.start, 0, 0)), claim=held)


def write(path, held, steps=8):
    writer = writer_of(path, held)
    writer.append(block_of(INFO, 0, steps))
    return writer


class Process:
    """Another process that holds a run, until it is killed."""

    def __init__(self, path):
        program = (
            "import sys, time, test_claims\n"
            "held = test_claims.new(sys.argv[1])\n"
            "test_claims.write(sys.argv[1], held)\n"
            "print('claimed', flush=True)\n"
            "time.sleep(60)\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, str(path)],
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "claimed\n"

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def another(tmp_path):
    process = Process(tmp_path / "run.zarr")
    yield process
    process.kill()


def test_no_path_is_claimed_by_two():
    ended, wrong = contenders.harness(60, seed=0)
    assert wrong == []
    for way in contenders.WAYS:
        assert ended[f"{way}: claimed"] >= 10


def test_a_run_that_another_process_writes_is_refused_until_it_is_killed(tmp_path, another):
    path = tmp_path / "run.zarr"
    for claimed in (lambda: new(path, overwrite=True), lambda: claim_again(path)):
        with pytest.raises(RunInUseError) as refused:
            claimed()
        for said in (str(path), f"process {another.process.pid}", "since 20", " UTC"):
            assert said in str(refused.value)
        assert f"on host {os.uname().nodename}" in str(refused.value)
    with pytest.raises(RunExistsError, match="holds a run already"):
        new(path)
    another.kill()
    # At once, and without a word: the system knows that the process is gone.
    held = claim_again(path)
    assert held.start == 1
    assert_holds(path, INFO, 8)
    held.release()
    assert not (path / LOCK).exists()


# From Python 3.12 on, of the threads that renew locks; the children below do little.
forks = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


@forks
def test_a_lock_ends_with_its_process_even_if_a_child_of_it_lives(tmp_path):
    held = new(tmp_path / "run.zarr")
    here, there = os.pipe()
    child = os.fork()
    if not child:
        os.close(there)
        os.read(here, 1)
        os._exit(0)
    try:
        # As when this process ends: nothing but the system's lock is given up.
        os.close(held._lock._file._descriptor)
        other = subprocess.run(
            [sys.executable, "-W", "error", "-c", RESUME, tmp_path / "run.zarr"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert other.returncode == 0, other.stderr
    finally:
        os.close(there)
        os.waitpid(child, 0)


RESUME = "import sys; from distwatch.store import claim_again; claim_again(sys.argv[1])"


@forks
def test_a_forked_child_never_writes(tmp_path):
    path = tmp_path / "run.zarr"
    held = new(path)
    writer = write(path, held)
    child = os.fork()
    if not child:
        try:
            writer.append(block_of(INFO, 8, 8))
        except RunTakenError:
            held.release(undo=True)
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    writer.append(block_of(INFO, 8, 8))
    writer.close()
    assert_holds(path, INFO, 16)


def left_elsewhere(path, **changes):
    """A run whose lock another host left."""
    fake_run(path, steps=4)
    now = time.time()
    said = Holder("a" * 32, "2f", "elsewhere", 1234, now, now, "another:1")
    (path / LOCK).write_bytes(replace(said, **changes).written())
    return said


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_a_lock_of_another_host_is_waited_for_until_it_is_stale(tmp_path, how):
    path = tmp_path / "run.zarr"
    left_elsewhere(path)
    began = time.monotonic()
    with pytest.warns(RunInUseWarning, match="process 1234 on host elsewhere") as warned:
        held = claim_again(path) if how == "resume" else new(path, overwrite=True)
    assert 0.4 <= time.monotonic() - began < 5
    assert len(warned) == 1
    write(path, held).close()
    assert holder_of((path / LOCK).read_bytes()).process == os.getpid()


@pytest.mark.usefixtures("soon")
def test_a_lock_that_another_host_renews_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run.zarr"
    said = left_elsewhere(path)
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            (path / LOCK).write_bytes(replace(said, renewed=said.renewed + 1).written())

    monkeypatch.setattr(locking.time, "sleep", sleep)
    with (
        pytest.warns(RunInUseWarning),
        pytest.raises(RunInUseError, match="on host elsewhere"),
    ):
        claim_again(path)
    assert len(looks) < 10
    assert holder_of((path / LOCK).read_bytes()).host == "elsewhere"


def test_a_lock_that_was_left_long_ago_is_not_waited_for(tmp_path):
    left_elsewhere(tmp_path / "run.zarr", renewed=time.time() - 3600)
    assert claim_again(tmp_path / "run.zarr").start == 1


@pytest.mark.usefixtures("soon")
def test_a_lock_is_renewed_without_any_commit(address):
    held = new(address)
    location = held._location
    before = holder_of(location.read(LOCK))
    until = time.monotonic() + 5
    while holder_of(location.read(LOCK)).renewed == before.renewed:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert holder_of(location.read(LOCK)).token == before.token
    held.release()
    assert location.read(LOCK) is None


@pytest.mark.parametrize(
    "content", [b"[" * 4000, b"\xff\x00", b"{}", b'{"token": 1}', b"null", b"1e999"]
)
@pytest.mark.usefixtures("soon")
def test_a_lock_may_say_anything(tmp_path, content):
    fake_run(tmp_path / "run.zarr")
    (tmp_path / "run.zarr" / LOCK).write_bytes(content)
    assert holder_of(content) is None
    with pytest.warns(RunInUseWarning, match="may still be written by another process"):
        claim_again(tmp_path / "run.zarr").release()


def test_a_lock_that_is_no_file_is_refused(tmp_path):
    for name, make in {"pipe": os.mkfifo, "folder": os.mkdir}.items():
        path = fake_run(tmp_path / f"{name}.zarr").path
        make(path / LOCK)
        with pytest.raises(NotWritableError, match="cannot be written"):
            claim_again(path)
    path = fake_run(tmp_path / "link.zarr").path
    (tmp_path / "letter.txt").write_text("keep me")
    (path / LOCK).symlink_to(tmp_path / "letter.txt")
    with pytest.raises(NotWritableError, match="cannot be written"):
        claim_again(path)
    assert (tmp_path / "letter.txt").read_text() == "keep me"


def moved(path):
    path.rename(path.with_name("moved.zarr"))


def deleted(path):
    shutil.rmtree(path)


def emptied(path):
    """As where a disk was mounted that is there no more."""
    moved(path)
    path.mkdir()


def replaced(path):
    moved(path)
    fake_run(path, steps=3)


@pytest.mark.parametrize("happens", [moved, deleted, emptied, replaced])
def test_a_run_that_is_gone_is_written_no_more(tmp_path, happens):
    path = tmp_path / "run.zarr"
    writer = write(path, new(path))
    happens(path)
    left = sorted(path.rglob("*"))
    for _ in range(2):
        with pytest.raises(RunTakenError, match="moved, deleted or replaced"):
            writer.append(block_of(INFO, 8, 8))
    with pytest.raises(RunTakenError):
        writer.give_up("an error", {})
    assert writer.committed == 8
    # Nothing was made anew there, and what was acknowledged is where the run is.
    assert sorted(path.rglob("*")) == left
    if happens is not deleted:
        assert_holds(tmp_path / "moved.zarr", INFO, 8)


def test_a_run_that_is_moved_within_a_commit_is_not_made_anew(tmp_path, monkeypatch):
    """Between the look at the lock and the first file."""
    path = tmp_path / "run.zarr"
    writer = write(path, new(path))
    look = locking.RunLock._check
    monkeypatch.setattr(
        locking.RunLock, "_check", lambda lock: (look(lock), path.exists() and moved(path))
    )
    with pytest.raises(RunTakenError, match="moved, deleted or replaced"):
        writer.append(block_of(INFO, 8, 8))
    assert not path.exists()
    assert_holds(tmp_path / "moved.zarr", INFO, 8)


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_another_watch_of_this_process_takes_the_run(address, how):
    """As in a notebook, whose earlier cell was interrupted and never closed its run."""
    writer = write(address, new(address))
    held = claim_again(address) if how == "resume" else new(address, "2f", overwrite=True)
    with pytest.raises(RunTakenError, match="another Watch of this process"):
        writer.append(block_of(INFO, 8, 8))
    assert_holds(address, INFO, 8)
    write(address, held, 16).close()
    assert_holds(address, INFO, 16)
    assert dw.open_run(address).verify() == []


def test_what_is_not_to_be_overwritten_is_taken_from_nobody(address):
    held = new(address)
    with pytest.raises(RunExistsError):
        new(address)
    write(address, held).close()
    assert_holds(address, INFO, 8)


@pytest.mark.usefixtures("soon")
def test_a_run_that_another_host_took_is_written_no_more(address):
    """As after a minute in which this host was frozen."""
    held = new(address)
    writer = write(address, held)
    taken = Holder("b" * 32, "2f", "elsewhere", 99, 0.0, 0.0)
    held._lock._ended.set()
    held._location.write([(LOCK, taken.written())])
    with pytest.raises(RunTakenError, match=r"process 99 on host elsewhere|replaced"):
        writer.append(block_of(INFO, 8, 8))
    held.release(undo=True)
    assert holder_of(held._location.read(LOCK)) == taken


def test_an_old_run_is_deleted_by_the_first_row_of_the_new_one(address):
    fake_run(address, steps=5)
    before = run_name(address)
    held = new(address, "2f", overwrite=True)
    assert len(dw.open_run(address)) == 5
    held.release(undo=True)
    assert (run_name(address), len(dw.open_run(address))) == (before, 5)
    held = new(address, "2f", overwrite=True)
    write(address, held).close()
    held.release()
    assert run_name(address) == "2f"
    assert_holds(address, INFO, 8)
    assert held._location.children() == ["worker-0000-start-0000", "zarr.json"]


def test_a_link_to_a_run_stays(tmp_path):
    path, link = tmp_path / "run.zarr", tmp_path / "link.zarr"
    fake_run(path, steps=5)
    (path / "notes").symlink_to(tmp_path)
    link.symlink_to(path)
    held = new(link, overwrite=True)
    write(link, held).close()
    held.release()
    assert link.is_symlink()
    assert_holds(path, INFO, 8)
    # And one to where nothing is yet.
    (tmp_path / "new.zarr").symlink_to(tmp_path / "deep" / "new.zarr")
    write(tmp_path / "new.zarr", new(tmp_path / "new.zarr")).close()
    assert_holds(tmp_path / "deep" / "new.zarr", INFO, 8)


def test_what_was_being_deleted_is_swept(tmp_path):
    path = fake_run(tmp_path / "run.zarr").path
    (path / ".0f.deleted").mkdir()
    (path / ".0f.deleted" / "worker-0000-start-0000").mkdir()
    claim_again(path).release()
    assert [child.name for child in path.iterdir() if child.name.startswith(".")] == []


def test_each_worker_has_a_lock_of_its_own(address):
    fake_run(address, steps=5)
    first = new(address, "2f", overwrite=True)
    second = claim_with(address, "2f", 1, wait=0)
    # Worker 0 deletes the old run, and leaves the locks of the others.
    first.settle()
    info = replace(INFO, worker=1, workers=2, replicas=(2, 3))
    writer = StoreWriter(address, info, claim=second)
    writer.append(block_of(info, 0, 8))
    first.release()
    writer.append(block_of(info, 8, 8))
    writer.close()
    assert dw.open_run(address)._store.tables[TABLE].steps == 16
    claim_again(address)
    with pytest.raises(RunTakenError, match="another Watch of this process"):
        writer.commit_tail()


def test_a_run_is_in_use_while_any_worker_writes_it(tmp_path, another):
    path = tmp_path / "run.zarr"
    (path / LOCK).rename(path / lock_name(1))
    for claimed in (lambda: new(path, overwrite=True), lambda: claim_again(path)):
        with pytest.raises(RunInUseError, match=f"process {another.process.pid} on host"):
            claimed()
        assert not (path / LOCK).exists()


def test_a_worker_waits_for_the_new_run(tmp_path, monkeypatch):
    monkeypatch.setattr("distwatch.store.claims._SETTLING", 0.1)
    path = fake_run(tmp_path / "run.zarr").path
    new(path, "2f", overwrite=True)
    second = claim_with(path, "2f", 1, wait=0)
    with pytest.raises(NotWritableError, match="worker 0, which claimed it"):
        second.settle()


def test_power_may_fail_after_a_folder_was_made(tmp_path, monkeypatch):
    """Each folder is synced, and so is the one that it was made in, up to what was there."""
    opened, synced = {}, set()
    open_, fsync = os.open, os.fsync

    def noted(path, *how, **more):
        descriptor = open_(path, *how, **more)
        opened[descriptor] = Path(path)
        return descriptor

    monkeypatch.setattr(os, "open", noted)
    monkeypatch.setattr(os, "fsync", lambda file: (synced.add(opened.get(file)), fsync(file)))
    path = tmp_path / "a" / "b" / "run.zarr"
    held = new(path, synced=True)
    assert synced >= {tmp_path, tmp_path / "a", tmp_path / "a" / "b", path}
    writer = StoreWriter(path, INFO, synced=True, claim=held)
    writer.append(block_of(INFO, 0, 8))
    made = {folder for folder in path.rglob("*") if folder.is_dir()}
    assert len(made) > 5
    assert synced >= made


def test_the_document_of_a_lock_names_its_holder(tmp_path):
    held = new(tmp_path / "run.zarr")
    said = json.loads((tmp_path / "run.zarr" / LOCK).read_text())
    assert (said["process"], said["run"]) == (os.getpid(), "1f")
    assert said["host"] == os.uname().nodename
    assert is_run(tmp_path / "run.zarr")
    held.release()
    assert not list(tmp_path.rglob("*.lock"))
