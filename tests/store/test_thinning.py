"""A run keeps within its bytes by thinning its old part out, or stops; never silently."""

import shutil
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from test_writing import NAME, TABLE, block_of, info_of

import distwatch as dw
from distwatch.errors import BudgetReachedError, RunChangedError
from distwatch.records import Block, Origin, RunInfo, Table, TensorLayout, Tensors
from distwatch.signals import Signal
from distwatch.statistics import LogHistogram, with_row
from distwatch.store import Budget, StoreWriter, claim, sweep, thinning
from distwatch.store.locations import location_of
from distwatch.store.schema import root_attributes

INFO = info_of(signals=3, replicas=2, window=8)


def writer_of(path, most, *, thins=True, info=INFO):
    claim(path, root_attributes(info, "2026-01-01T00:00:00+00:00"))
    budget = Budget(most, thins=thins, used=location_of(path).size_below())
    return StoreWriter(path, info, budget=budget), budget


def written(path, most, steps, **options):
    """A run of so many steps, eight at a time, each step telling where it belongs."""
    writer, budget = writer_of(path, most, **options)
    for start in range(0, steps, 8):
        writer.append(block_of(INFO, start, 8))
    return writer, budget


@pytest.fixture(params=["folder", "memory"])
def path(request, tmp_path):
    if request.param == "folder":
        return tmp_path / "run.zarr"
    return f"memory://{tmp_path.name}/run.zarr"


@pytest.fixture(autouse=True)
def no_grace(monkeypatch):
    monkeypatch.setattr("distwatch.store.writer.GRACE", 0.0)


def assert_rows_are_right(run, steps):
    """Every row that is kept is the row of its step, on every replica and merged."""
    (table,) = run._store.tables.values()
    kept = table.read("step")
    want = block_of(INFO, 0, steps)
    np.testing.assert_array_equal(table.read("rows"), want.rows[kept])
    np.testing.assert_array_equal(table.read("merged"), want.merged[kept])
    np.testing.assert_array_equal(table.read("iteration"), kept + 1)
    return kept


@pytest.mark.fast_cases("memory")
def test_the_old_part_gets_coarser_and_the_new_one_stays_whole(path):
    writer, _ = written(path, 100_000, 1600)
    writer.close()
    run = dw.open_run(path)
    kept = assert_rows_are_right(run, 1600)
    strides = np.diff(kept)
    # Every fourth or eighth step over all of the old part, each one of the new.
    stride = strides[0]
    assert stride in (4, 8, 16)
    old = int(np.argmax(strides != stride))
    np.testing.assert_array_equal(kept[: old + 1], stride * np.arange(old + 1))
    assert kept[old] > 1000
    assert strides[old] <= stride
    assert (strides[old + 1 :] == 1).all()
    assert kept[-1] == 1599
    assert run.thinned == 1600 - len(run)
    assert run.lost == 0
    assert run.verify() == []


@pytest.mark.fast_cases("folder-True", "memory-False")
@pytest.mark.parametrize("thins", [True, False])
def test_the_bound_is_kept_at_every_moment(path, thins):
    writer, budget = writer_of(path, 100_000, thins=thins)
    location, most = location_of(path), 0
    try:
        for start in range(0, 1600, 8):
            writer.append(block_of(INFO, start, 8))
            most = max(most, location.size_below())
            assert budget.used == location.size_below()
    except BudgetReachedError:
        assert not thins
    assert 50_000 < most <= 100_000


def resumed(path, most, start, first):
    """A writer of a further start; what is there is counted, as a resumed training does."""
    sweep(path)
    info = replace(INFO, origin=Origin(start, first, first, counted=True))
    budget = Budget(most, thins=True, used=location_of(path).size_below())
    budget.check_suffices(info)
    return StoreWriter(path, info, budget=budget), budget


@pytest.mark.fast_cases("memory-True")
@pytest.mark.parametrize("killed", [True, False])
def test_every_start_has_its_part_of_the_bytes(path, killed):
    """Each goes back a little, to a checkpoint."""
    most, each, back = 150_000, 304, 21
    writer, _ = written(path, most, each)
    for start in range(1, 4):
        if not killed:
            writer.close()
        first = start * (each - back)
        writer, budget = resumed(path, most, start, first)
        for step in range(first, first + each, 8):
            writer.append(block_of(INFO, step, 8))
            assert budget.used == location_of(path).size_below() <= most
    writer.close()
    run = dw.open_run(path)
    kept = assert_rows_are_right(run, first + each)
    parts = [((kept >= s * 283) & (kept < (s + 1) * 283)).sum() for s in range(4)]
    # Where one stride is twice another, the next thinning makes them equal.
    assert max(parts[:-1]) <= 2 * min(parts[:-1]) + 1
    assert parts[-1] == max(parts)
    assert kept[-1] == first + each - 1
    assert writer.thinned > 0
    assert writer.committed == each
    missing = first + each - len(run)
    assert run.thinned + run.lost == missing
    # What a kill took of a chunk that was not full.
    assert run.lost == 0
    assert run.verify() == []


@pytest.mark.slow
@pytest.mark.fast_cases("first*")
@pytest.mark.parametrize("schedule", ["first(5000)", "every(3)"])
def test_starts_with_any_schedule_are_thinned(tmp_path, schedule):
    path, factor = tmp_path / "run.zarr", 3 if schedule == "every(3)" else 1
    info = replace(INFO, tables=(replace(INFO.tables[0], schedule=schedule),))
    claim(path, root_attributes(info, "2026-01-01T00:00:00+00:00"))
    for start in range(3):
        first = 400 * start * factor
        budget = Budget(80_000, thins=True, used=location_of(path).size_below())
        own = replace(info, origin=Origin(start, first, first))
        writer = StoreWriter(path, own, budget=budget)
        for step in range(first, first + 400 * factor, 8 * factor):
            block = block_of(INFO, step // factor, 8)
            writer.append(replace(block, step=block.step * factor))
        writer.close()
    run = dw.open_run(path)
    kept = run.to_xarray().step.values // factor
    parts = [((kept >= s * 400) & (kept < (s + 1) * 400)).sum() for s in range(3)]
    assert min(parts) >= max(parts) / 8
    assert run.thinned == 1200 - len(run)
    assert run.lost == 0


def test_what_cannot_be_thinned_stops(path):
    writer, _ = writer_of(path, 40_000, thins=False)
    with pytest.raises(BudgetReachedError, match="max_bytes"):
        for start in range(0, 3000, 3):
            writer.append(block_of(INFO, start, 3))
    # All that was taken over is there: the tail, too.
    run = dw.open_run(path)
    assert len(run) == writer.committed == start
    assert_rows_are_right(run, start)


def test_committed_counts_what_was_thinned_out(path):
    writer, _ = written(path, 100_000, 1600)
    writer.commit_tail()
    assert writer.committed == 1600
    assert writer.thinned > 0


def test_a_reader_is_told_when_its_table_was_replaced(path):
    writer, _ = writer_of(path, 100_000)
    writer.append(block_of(INFO, 0, 8))
    before = dw.open_run(path)
    for start in range(8, 800, 8):
        writer.append(block_of(INFO, start, 8))
    with pytest.raises(RunChangedError, match="refresh"):
        before.to_xarray()
    assert_rows_are_right(before.refresh(), 800)


def test_a_replaced_table_stays_for_its_readers(tmp_path, monkeypatch):
    monkeypatch.setattr("distwatch.store.writer.GRACE", 3600.0)
    path = tmp_path / "run.zarr"
    writer, _ = writer_of(path, 300_000)
    opened = []
    for start in range(0, 2400, 8):
        writer.append(block_of(INFO, start, 8))
        opened.append((dw.open_run(path), start + 8))
        if writer.thinned:
            break
    assert writer.thinned
    for run, steps in opened[-20:]:
        assert_rows_are_right(run, steps)
    writer.close()
    assert location_of(path).children(NAME) == [f"{TABLE}.1", "zarr.json"]


def test_a_crash_in_between_loses_nothing(tmp_path):
    """The folder is copied after every single write, as a crash would leave it."""
    path = tmp_path / "run.zarr"
    writer, _ = writer_of(path, 60_000)
    steps, seen = 0, set()

    def check(store, *args):
        crashed = tmp_path / "crashed.zarr"
        shutil.rmtree(crashed, ignore_errors=True)
        shutil.copytree(path, crashed)
        sweep(crashed)
        run = dw.open_run(crashed)
        if len(run):
            kept = assert_rows_are_right(run, steps + 8)
            # A table that was thinned out may have a tail.
            assert kept[-1] >= steps - 8
            assert len(kept) + run.thinned == kept[-1] + 1
        seen.add(tuple(location_of(path).children(NAME)))
        (children,) = {tuple(location_of(crashed).children(NAME))}
        assert len(children) == 2, children

    for start in range(0, 400, 8):
        steps = start
        original = thinning.TableCopy.finish

        def finish(copy, original=original):
            check(None)
            original(copy)
            check(None)

        with mock.patch.object(thinning.TableCopy, "finish", finish):
            writer.append(block_of(INFO, start, 8))
        check(None)
    # Moments with a copy in the making were among them.
    assert any(len(children) == 3 for children in seen)
    assert writer.thinned


def test_a_copy_that_was_never_finished_is_removed_at_close(tmp_path):
    path = tmp_path / "run.zarr"
    writer, _ = writer_of(path, 150_000)
    start = 0
    while len(location_of(path).children(NAME)) == 2:
        writer.append(block_of(INFO, start, 8))
        start += 8
    writer.close()
    assert location_of(path).children(NAME) == [TABLE, "zarr.json"]
    assert_rows_are_right(dw.open_run(path), start)


def wide_info():
    """A table with histograms, and one of raw tensors."""
    histograms = Table(
        "table-00",
        (Signal("activation/a"),),
        "every(1)",
        8,
        with_row((LogHistogram(accuracy=0.3, smallest=1e-2, largest=1e2),)),
    )
    layout = TensorLayout((3,), None, "float32")
    tensors = Table("table-01", (Signal("tensor/a"),), "every(1)", 8, tensor=layout)
    return RunInfo((histograms, tensors), (0, 1), "made up", {})


def wide_block(info, table, start, steps):
    step = np.arange(start, start + steps)
    width = len(table.statistic.fields)
    rows = step[:, None, None, None] * 10.0 + np.arange(2 * width).reshape(2, 1, width)
    tensors = None
    if table.tensor:
        values = (step[:, None, None, None] + np.zeros((1, 2, 4, 3))).astype(np.float32)
        tensors = Tensors(values, np.full((steps, 2), 4))
    return Block(table.name, step, step, step, rows, rows.sum(axis=1), tensors)


@pytest.mark.slow
def test_histograms_and_tensors_are_thinned_with_their_rows(tmp_path):
    info = wide_info()
    path = tmp_path / "run.zarr"
    writer, _ = writer_of(path, 150_000, info=info)
    for start in range(0, 400, 8):
        for table in info.tables:
            writer.append(wide_block(info, table, start, 8))
    writer.close()
    run = dw.open_run(path)
    assert run.thinned
    assert run.verify() == []
    for stored in run._store.tables.values():
        kept = stored.read("step")
        assert np.diff(kept)[0] >= 2
        whole = wide_block(info, stored.table, 0, 400)
        copied = stored.block(slice(None))
        np.testing.assert_array_equal(copied.rows, whole.rows[kept])
        np.testing.assert_array_equal(copied.merged, whole.merged[kept])
        if whole.tensors is not None:
            np.testing.assert_array_equal(copied.tensors.values, whole.tensors.values[kept])
            np.testing.assert_array_equal(copied.tensors.valid, whole.tensors.valid[kept])
