"""Whatever a disk does, what was committed is there, and nothing else."""

import errno
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from test_writing import TABLE, assert_holds, block_of, info_of

from distwatch.records import Origin
from distwatch.store import (
    StoredRun,
    StoreWriter,
    claim,
    next_start,
    origin_of,
)
from distwatch.store.folders import Folder
from distwatch.store.schema import root_attributes

INFO = info_of(signals=3)


class FaultyDisk:
    """Fails at a write that is named beforehand, in one of the ways in which disks fail."""

    #: Writes until the fault, and its kind.
    left: int | None = None
    kind = ""

    def write_file(self, folder, path, content):
        """Stands in for `Folder._write_file`."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self._fail(path, content)
        return WRITE_FILE(folder, path, content)

    def _fail(self, path, content):
        if self.kind == "slow":
            time.sleep(0.002)
            return
        if self.kind == "short":
            # A file that was being written when space ran out, under its temporary name.
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".0f.partial")
            partial.write_bytes(content[: len(content) // 2])
        number = {"io": errno.EIO, "permission": errno.EACCES}.get(self.kind, errno.ENOSPC)
        raise OSError(number, "the disk")


WRITE_FILE = Folder._write_file


class Disk(RuleBasedStateMachine):
    """A run that is written on a bad disk, resumed when it has failed, and read throughout."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "run.zarr"
        self.disk = disk = FaultyDisk()

        def write_file(folder, path, content):
            return disk.write_file(folder, path, content)

        self.patch = mock.patch.object(Folder, "_write_file", write_file)
        self.patch.start()
        claim(self.path, root_attributes(INFO, "2026-01-01T00:00:00+00:00"))
        self.writer = None
        self.least = 0

    def teardown(self):
        if hasattr(self, "patch"):
            self.patch.stop()
            shutil.rmtree(self.folder)

    @precondition(lambda self: self.writer is None)
    @rule(back=st.integers(0, 12))
    def start(self, back):
        """The first start, or one that takes up the run some steps before its end."""
        self.first = max(0, StoredRun(self.path).steps - back)
        started = replace(INFO, origin=Origin(next_start(self.path), 0, self.first))
        origin = replace(origin_of(self.path, started), step=self.first)
        try:
            self.writer = StoreWriter(self.path, replace(INFO, origin=origin))
        except OSError:
            # Nothing was committed, but what it replaces may be hidden already.
            self.least = min(self.least, self.first)
            self.disk.left = None
            return
        self.step = self.first
        self.least = self.first

    @precondition(lambda self: self.writer is not None)
    @rule(steps=st.integers(1, 20))
    def append(self, steps):
        self._try(lambda: self.writer.append(block_of(INFO, self.step, steps)))
        self.step += steps

    @precondition(lambda self: self.writer is not None)
    @rule()
    def commit_tail(self):
        self._try(self.writer.commit_tail)

    @precondition(lambda self: self.writer is not None)
    @rule()
    def close(self):
        if self._try(self.writer.close):
            assert StoredRun(self.path).steps == self.step
            self.writer = None

    @rule(
        kind=st.sampled_from(["short", "full", "io", "permission", "slow"]),
        after=st.integers(0, 12),
    )
    def let_the_disk_fail(self, kind, after):
        self.disk.kind, self.disk.left = kind, after

    def _try(self, action):
        committed = self.writer.committed
        try:
            action()
        except OSError:
            assert self.writer.committed >= committed
            self.least = self.first + self.writer.committed
            self.writer = None
            self.disk.left = None
            return False
        self.least = self.first + self.writer.committed
        return True

    @invariant()
    def what_is_committed_is_there(self):
        run = StoredRun(self.path)
        assert run.steps >= self.least
        if self.writer is not None:
            assert run.steps == self.least
        if run.tables:
            assert_holds(self.path, INFO, run.steps)
            assert not [d for _, d in run.verify() if d is not None]
            assert run.tables[TABLE].lost == 0


TestDisk = Disk.TestCase
TestDisk.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
