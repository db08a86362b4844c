"""Committed means readable: whole blocks, in order, through every bad end."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import zarr

from distwatch.errors import DamagedStoreError, NotARunError, StateShapeError, StoreError
from distwatch.records import Block, KeptBatch, RunInfo, Table
from distwatch.signals import Signal
from distwatch.statistics import ROW, merge_axis
from distwatch.store import BackgroundWriter, StoredRun, StoreWriter, claim
from distwatch.store.folders import Folder
from distwatch.store.schema import root_attributes
from distwatch.store.table_writer import TableWriter

NAME = "worker-0000-start-0000"
TABLE = "table-00"


def info_of(signals=3, replicas=2, window=8):
    chosen = tuple(Signal(f"activation/layer_{i}") for i in range(signals))
    return RunInfo(
        tables=(Table(TABLE, chosen, "every(1)", window),),
        replicas=tuple(range(replicas)),
        strategy="made up",
        versions={},
    )


def block_of(info, start, steps):
    """Rows that say where they belong, so that a misplaced one is seen."""
    step = np.arange(start, start + steps)
    shape = (steps, len(info.replicas), len(info.signals), len(ROW.fields))
    place = step[:, None, None, None] * 1000.0 + np.arange(np.prod(shape[1:])).reshape(
        shape[1:]
    )
    rows = np.abs(place) + 1.0
    return Block(TABLE, step, step // 10, step + 1, rows, merge_axis(ROW, rows, axis=1))


def writer_at(path, info):
    claim(path, root_attributes(info, "2025-01-01T00:00:00+00:00"))
    return StoreWriter(path, info)


def assert_holds(path, info, steps):
    run = StoredRun(path).tables[TABLE]
    assert run.steps == steps
    want = block_of(info, 0, steps)
    np.testing.assert_array_equal(run.read("step"), want.step)
    np.testing.assert_array_equal(run.read("epoch"), want.epoch)
    np.testing.assert_array_equal(run.read("rows"), want.rows)
    np.testing.assert_array_equal(run.read("merged"), want.merged)


@pytest.mark.parametrize("signals", [1, 3, 8, 9, 13, 16])
def test_blocks_of_any_length_come_back(tmp_path, signals):
    info = info_of(signals)
    writer = writer_at(tmp_path / "run.zarr", info)
    start = 0
    for steps in (3, 8, 1, 20, 5):
        writer.append(block_of(info, start, steps))
        start += steps
        # Only whole chunks are committed before the tail is asked for.
        assert writer.committed == start // 8 * 8
        assert StoredRun(tmp_path / "run.zarr").steps == writer.committed
    writer.close()
    assert_holds(tmp_path / "run.zarr", info, 37)


def test_a_tail_is_replaced_by_its_superset(tmp_path):
    info = info_of()
    writer = writer_at(tmp_path / "run.zarr", info)
    for start in range(0, 12, 3):
        writer.append(block_of(info, start, 3))
        writer.commit_tail()
        assert_holds(tmp_path / "run.zarr", info, start + 3)
    writer.append(block_of(info, 12, 1))
    writer.commit_tail(at_once=False)  # the last was a moment ago
    assert_holds(tmp_path / "run.zarr", info, 12)
    writer.close()
    assert_holds(tmp_path / "run.zarr", info, 13)


def test_what_is_not_committed_is_not_seen(tmp_path, monkeypatch):
    info = info_of()
    writer = writer_at(tmp_path / "run.zarr", info)
    writer.append(block_of(info, 0, 8))

    def crash(*args, **kwargs):
        raise OSError("pulled the plug")

    # Every chunk of the second block is written, and then there is no commit.
    monkeypatch.setattr(TableWriter, "_commit", crash)
    with pytest.raises(OSError, match="pulled the plug"):
        writer.append(block_of(info, 8, 8))
    assert_holds(tmp_path / "run.zarr", info, 8)
    assert writer.committed == 8


def test_after_every_file_that_is_written_what_is_committed_is_whole(tmp_path, monkeypatch):
    info, path = info_of(), tmp_path / "run.zarr"
    writer = writer_at(path, info)
    write, seen = Folder._write_file, []

    def watched(folder, file, content):
        changed = write(folder, file, content)
        seen.append(StoredRun(path).tables[TABLE].steps)
        assert_holds(path, info, seen[-1])
        return changed

    monkeypatch.setattr(Folder, "_write_file", watched)
    for start, steps in ((0, 8), (8, 19), (27, 2)):
        writer.append(block_of(info, start, steps))
        writer.commit_tail()
    writer.close()
    # 19 steps fill up two chunks, and begin a third.
    assert sorted({*seen}) == [0, 8, 24, 27, 29]


def test_every_flipped_bit_is_found(tmp_path):
    info = info_of()
    writer = writer_at(tmp_path / "run.zarr", info)
    writer.append(block_of(info, 0, 16))
    writer.close()
    chunk = tmp_path / "run.zarr" / NAME / TABLE / "rows" / "c.1.0.0.0"
    whole = chunk.read_bytes()
    rng = np.random.default_rng(0)
    run = StoredRun(tmp_path / "run.zarr").tables[TABLE]
    for bit in rng.choice(8 * len(whole), 60, replace=False):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << (bit % 8)
        chunk.write_bytes(content)
        with pytest.raises(DamagedStoreError, match="'rows' cannot be read"):
            run.read("rows")
        # The rest of the run stays readable.
        np.testing.assert_array_equal(run.read("rows", slice(0, 8)), block_of(info, 0, 8).rows)


def test_another_shape_is_refused(tmp_path):
    writer = writer_at(tmp_path / "run.zarr", info_of(replicas=2))
    with pytest.raises(StateShapeError, match="every replica must watch the same signals"):
        writer.append(block_of(info_of(replicas=3), 0, 2))


def test_a_store_that_contradicts_itself(tmp_path):
    info = info_of()
    writer = writer_at(tmp_path / "run.zarr", info)
    writer.append(block_of(info, 0, 8))
    group = zarr.open_group(tmp_path / "run.zarr", path=f"{NAME}/{TABLE}")
    said = {**group.attrs["distwatch"], "crc32": None}
    group.attrs["distwatch"] = {**said, "committed": 9}
    with pytest.raises(DamagedStoreError, match=r"has shape \[8\], expected \[9\]"):
        StoredRun(tmp_path / "run.zarr")
    group.attrs["distwatch"] = {**said, "signals": None}
    with pytest.raises(DamagedStoreError, match="description is damaged"):
        StoredRun(tmp_path / "run.zarr")


class SlowWriter:
    """Takes its time, and remembers."""

    def __init__(self, seconds=0.0, fail_at=None):
        self.seconds, self.fail_at = seconds, fail_at
        self.blocks, self.lost, self.closed = [], 0, False
        self.thinned = 0

    @property
    def committed(self):
        return sum(map(len, self.blocks))

    def append(self, block):
        time.sleep(self.seconds)
        if len(self.blocks) == self.fail_at:
            raise OSError("disk full")
        self.blocks.append(block)

    def commit_tail(self, *, at_once=True):
        self.tail = at_once

    def count_lost(self, steps):
        self.lost += sum(steps.values())

    def close(self):
        self.closed = True


def test_background_keeps_order_and_closes():
    slow = SlowWriter(0.005)
    background = BackgroundWriter(lambda: slow)
    info = info_of()
    for start in range(0, 40, 4):
        assert background.submit(block_of(info, start, 4))
    background.commit_tail()
    background.close()
    assert [int(block.step[0]) for block in slow.blocks] == list(range(0, 40, 4))
    assert (slow.closed, slow.tail, background.committed, background.lost) == (
        True,
        False,
        40,
        0,
    )
    assert not [t for t in threading.enumerate() if t.name == "distwatch-writer"]


def test_background_writes_at_its_end_where_no_thread_starts_any_more(monkeypatch):
    """As when a process exits, on some versions of Python."""

    def start(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    slow = SlowWriter(0.0)
    background = BackgroundWriter(lambda: slow)
    info = info_of()
    assert all(background.submit(block_of(info, step, 4)) for step in (0, 4))
    assert slow.blocks == []
    background.close()
    background.close()
    assert [int(block.step[0]) for block in slow.blocks] == [0, 4]
    assert (slow.closed, background.committed, background.lost) == (True, 8, 0)


def test_background_drops_whole_blocks_when_full_and_counts_them():
    slow = SlowWriter(0.2)
    info = info_of()
    size = block_of(info, 0, 4).nbytes
    background = BackgroundWriter(lambda: slow, max_bytes=2 * size, max_wait=0.01)
    taken = [background.submit(block_of(info, start, 4)) for start in range(0, 40, 4)]
    background.close()
    assert taken[:2] == [True, True]
    assert taken.count(False) >= 5
    assert background.lost == slow.lost == 4 * taken.count(False)
    assert background.committed == 4 * taken.count(True)


def test_background_writes_the_batches_of_a_block_that_it_drops():
    slow = SlowWriter(0.2)
    info = info_of()
    block = block_of(info, 0, 4)
    background = BackgroundWriter(lambda: slow, max_bytes=block.nbytes, max_wait=0.01)
    assert background.submit(block)
    kept = (KeptBatch(0, 5),)
    assert not background.submit(replace(block_of(info, 4, 4), kept=kept))
    background.close()
    assert [(len(each), each.kept) for each in slow.blocks] == [(4, ()), (0, kept)]
    assert (background.committed, background.lost) == (4, 4)


def test_background_waits_for_room_before_it_drops():
    slow = SlowWriter(0.05)
    info = info_of()
    background = BackgroundWriter(lambda: slow, max_bytes=1, max_wait=5.0)
    assert all(background.submit(block_of(info, start, 4)) for start in range(0, 24, 4))
    background.close()
    assert background.lost == 0


def test_background_keeps_the_first_error_and_counts_what_it_cost():
    slow = SlowWriter(0.01, fail_at=2)
    background = BackgroundWriter(lambda: slow)
    info = info_of()
    for start in range(0, 40, 4):
        background.submit(block_of(info, start, 4))
    background.close()
    assert "disk full" in str(background.error)
    assert background.committed == 8
    assert background.lost == 32


def test_killed_before_the_first_commit(tmp_path):
    path = tmp_path / "run.zarr"
    writer_at(path, info_of()).close()
    (path / NAME / "zarr.json").unlink()
    run = StoredRun(path)
    assert (run.steps, run.segments, run.info.strategy) == (0, [], "made up")


@pytest.mark.parametrize(
    ("of", "change"),
    [
        (f"{NAME}/{TABLE}", {"committed": "x"}),
        (f"{NAME}/{TABLE}", {"committed": None}),
        (f"{NAME}/{TABLE}", {"lost": None}),
        (f"{NAME}/{TABLE}", {"signals": [{"name": "a"}]}),
        (f"{NAME}/{TABLE}", {"fields": ["a"]}),
        (f"{NAME}/{TABLE}", {"statistics": [{"name": "magic"}]}),
        (f"{NAME}/{TABLE}", {"tensor": {"features": "x"}}),
        (NAME, {"replicas": 3}),
        (NAME, {"tables": 3}),
        (NAME, {"tables": ["../.."]}),
        (NAME, {"unwatched": 3}),
    ],
)
def test_a_damaged_description_is_said(tmp_path, of, change):
    path = tmp_path / "run.zarr"
    writer_at(path, info_of()).close()
    group = zarr.open_group(path, path=of)
    group.attrs["distwatch"] = {**group.attrs["distwatch"], "crc32": None, **change}
    with pytest.raises(DamagedStoreError, match="description is damaged"):
        StoredRun(path)


def test_unknown_keys_are_passed_over(tmp_path):
    path = tmp_path / "run.zarr"
    writer_at(path, info_of()).close()
    group = zarr.open_group(path, path=f"{NAME}/{TABLE}")
    said = {**group.attrs["distwatch"], "crc32": None}
    said["signals"] = [{**signal, "colour": "blue"} for signal in said["signals"]]
    group.attrs["distwatch"] = {**said, "weather": "fine"}
    assert StoredRun(path).info.names == info_of().names


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"zarr_format": 3}'])
def test_metadata_that_is_no_metadata(tmp_path, text):
    path = tmp_path / "run.zarr"
    writer_at(path, info_of()).close()
    (path / NAME / "zarr.json").write_text(text)
    with pytest.raises(StoreError, match=f"{NAME}"):
        StoredRun(path)
    (path / "zarr.json").write_text(text)
    with pytest.raises(NotARunError, match="is no distwatch run"):
        StoredRun(path)


def test_background_tells_the_store_again_where_the_disk_was_full():
    """At the error the reason did not fit; at the end there is room, and more is lost."""
    told = []

    class Full(SlowWriter):
        def give_up(self, reason, lost):
            told.append((reason, dict(lost)))
            if len(told) == 1:
                raise OSError("disk full")

    background = BackgroundWriter(lambda: Full(fail_at=1))
    info = info_of()
    assert background.submit(block_of(info, 0, 4))
    background.submit(block_of(info, 4, 4))
    while background.error is None:
        time.sleep(0.001)
    assert not background.submit(block_of(info, 8, 4))
    background.count_lost(TABLE, 3)
    background.close()
    assert [reason for reason, _ in told] == ["OSError: disk full"] * 2
    assert [lost.get(TABLE, 0) for _, lost in told] == [4, 7]
    # What never came here is counted by whoever knows of it.
    assert (background.committed, background.lost) == (4, 8)


def test_background_does_not_wait_for_ever_for_a_disk_that_hangs():
    answers = threading.Event()

    class Hanging(SlowWriter):
        def append(self, block):
            if self.blocks:
                answers.wait(30)
            super().append(block)

    background = BackgroundWriter(Hanging)
    info = info_of()
    for start in range(0, 12, 4):
        assert background.submit(block_of(info, start, 4))
    background.close(0.05)
    assert (background.stuck, background.committed, background.lost) == (True, 4, 8)
    # If it answers after all, nothing is lost, and nobody says so.
    answers.set()
    background.close()
    assert (background.committed, background.lost) == (12, 0)


def test_background_waits_for_a_disk_that_is_only_slow():
    background = BackgroundWriter(lambda: SlowWriter(0.05))
    info = info_of()
    for start in range(0, 40, 4):
        background.submit(block_of(info, start, 4))
    background.close(0.3)
    assert (background.stuck, background.committed) == (False, 40)
