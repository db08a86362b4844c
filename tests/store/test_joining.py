"""Workers' segments are read as one run, whatever each of them left."""

from dataclasses import replace

import numpy as np
import pytest

import distwatch as dw
from distwatch.errors import DamagedStoreError
from distwatch.records import Block, Origin, RunInfo, Table, TensorLayout, Tensors
from distwatch.signals import Signal
from distwatch.statistics import LogHistogram, SignalCounts, merge_axis, observe, with_row
from distwatch.store import (
    Note,
    StoredRun,
    StoreWriter,
    Tally,
    claim,
    claim_new,
    location_of,
    origin_of,
)
from distwatch.store import tables as tables_of_runs
from distwatch.store.schema import root_attributes

STATISTIC = with_row((LogHistogram(),))
SIGNALS = (Signal("activation/a"), Signal("activation/b"))
TABLE = Table("table-00", SIGNALS, "every(1)", 4, STATISTIC)
RAW = Table(
    "table-01", (Signal("tensor/a"),), "every(1)", 4, tensor=TensorLayout((3,), None, "float32")
)
ALL = RunInfo((TABLE, RAW), (0, 1, 2, 3), "made up", {}, workers=2)


def delta(step, replica, signal):
    """Unequal numbers of rows, of means far apart; replica 2 has none at step 3."""
    rows = 0 if (step, replica) == (3, 2) else 1 + (step + replica) % 3
    rng = np.random.default_rng([step, replica, signal])
    return rng.normal(10.0 * replica - step, 1.0, (rows, 3))


def block(table, replicas, steps):
    step = np.asarray(list(steps))
    rows = [
        [
            [_packed(table.statistic, delta(s, r, i)) for i in range(len(table.signals))]
            for r in replicas
        ]
        for s in steps
    ]
    rows = np.asarray(rows)
    merged = merge_axis(table.statistic, rows, axis=1)
    tensors = _tensors(replicas, steps) if table.tensor else None
    return Block(table.name, step, step // 4, step + 1, rows, merged, tensors)


def _packed(statistic, values):
    return statistic.pack(observe(statistic, values))


def _tensors(replicas, steps):
    deltas = [[delta(s, r, 0) for r in replicas] for s in steps]
    valid = np.asarray([[len(each) for each in row] for row in deltas])
    values = np.full((*valid.shape, max(1, valid.max()), 3), np.nan, np.float32)
    for where in np.ndindex(valid.shape):
        values[where][: valid[where]] = deltas[where[0]][where[1]]
    return Tensors(values, valid)


def write(path, *parts, tables=(TABLE, RAW)):
    """Each part: the worker, its replicas and its steps."""
    claim(path, root_attributes(ALL, "2026-01-01T00:00:00+00:00"))
    for worker, replicas, steps in parts:
        info = replace(ALL, tables=tables, worker=worker, replicas=replicas)
        writer = StoreWriter(path, info)
        for table in tables:
            writer.append(block(table, replicas, steps))
        writer.close()
    return StoredRun(path)


@pytest.fixture
def whole(tmp_path):
    info = replace(ALL, workers=1)
    claim(tmp_path / "whole.zarr", root_attributes(info, "2026-01-01T00:00:00+00:00"))
    writer = StoreWriter(tmp_path / "whole.zarr", info)
    for table in (TABLE, RAW):
        writer.append(block(table, info.replicas, range(10)))
    writer.close()
    return StoredRun(tmp_path / "whole.zarr")


READS = ("rows", "merged", "histogram", "histogram_merged")


def test_opening_a_resumed_run_reads_a_chunk_of_steps_once(tmp_path, monkeypatch):
    path = tmp_path / "run.zarr"
    write(path, (0, ALL.replicas, range(40)), tables=(TABLE,))
    later = replace(ALL, tables=(TABLE,), origin=Origin(1, 24, 24))
    writer = StoreWriter(path, later)
    writer.append(block(TABLE, ALL.replicas, range(24, 50)))
    writer.close()
    opened = []
    before = tables_of_runs.open_array
    monkeypatch.setattr(
        tables_of_runs, "open_array", lambda *a: opened.append(a[1]) or before(*a)
    )
    assert StoredRun(path).steps == 50
    assert opened == ["worker-0000-start-0000/table-00/step"]


@pytest.mark.parametrize("order", [1, -1])
def test_two_workers_read_as_one(tmp_path, whole, order):
    parts = [(0, (0, 1), range(10)), (1, (2, 3), range(10))][::order]
    joined = write(tmp_path / "run.zarr", *parts)
    assert joined.info.replicas == (0, 1, 2, 3)
    for steps in (slice(None), slice(3, 9), slice(9, None), slice(4, 4)):
        ours, its = joined.tables["table-00"], whole.tables["table-00"]
        for name in READS:
            wanted = its.read(name, steps)
            np.testing.assert_allclose(ours.read(name, steps), wanted, rtol=1e-12)
        for name in ("step", "epoch", "iteration"):
            np.testing.assert_array_equal(ours.read(name, steps), its.read(name, steps))
        assert ours.read("present", steps).all()
        got, wanted = (t.tables["table-01"].tensors(steps) for t in (joined, whole))
        np.testing.assert_array_equal(got.values, wanted.values)
        np.testing.assert_array_equal(got.valid, wanted.valid)


def test_a_worker_that_lags_or_begins_late(tmp_path, whole):
    parts = (0, (0, 1), range(2, 10)), (1, (2, 3), range(6))
    joined = write(tmp_path / "run.zarr", *parts).tables["table-00"]
    np.testing.assert_array_equal(joined.read("step"), range(10))
    np.testing.assert_array_equal(joined.read("iteration"), range(1, 11))
    first, second = (slice(2, 10), slice(0, 2)), (slice(0, 6), slice(2, 4))
    there = joined.read("present")
    assert [there[where].all() for where in (first, second)] == [True, True]
    assert there.sum() == 2 * 8 + 2 * 6
    rows, wanted = joined.read("rows"), whole.tables["table-00"].read("rows")
    for where in (first, second):
        np.testing.assert_array_equal(rows[where], wanted[where])
    # Merged over those that are there.
    for step in range(10):
        here = wanted[step][there[step]][..., : rows.shape[-1]]
        alone = merge_axis(with_row(()), here, axis=0)
        np.testing.assert_allclose(
            joined.read("merged", slice(step, step + 1))[0], alone, rtol=1e-12
        )

    run = dw.open_run(tmp_path / "run.zarr")
    counts = run["activation/a"].per_replica("count")
    np.testing.assert_array_equal(~counts.isnull(), there)
    assert "Worker 1 (replicas 2, 3) wrote only 6 of 10 steps" in run.summary()


def test_a_start_replaces_the_rows_of_all_workers(tmp_path, whole):
    """Worker 1 was killed again before it had written anything since its second start."""
    path = tmp_path / "run.zarr"
    write(path, (0, (0, 1), range(10)), (1, (2, 3), range(10)))
    again = replace(ALL, worker=0, replicas=(0, 1), origin=Origin(1, 4, 5))
    writer = StoreWriter(path, again)
    for table in (TABLE, RAW):
        writer.append(block(table, (0, 1), range(4, 7)))
    writer.close()
    table = StoredRun(path).tables["table-00"]
    np.testing.assert_array_equal(table.read("step"), range(7))
    there = table.read("present")
    assert there[:4].all()
    np.testing.assert_array_equal(there[4:], [[True, True, False, False]] * 3)
    wanted = whole.tables["table-00"].read("rows", slice(0, 7))
    np.testing.assert_array_equal(table.read("rows")[there], wanted[there])


@pytest.mark.parametrize(
    ("schedule", "kept", "next_start", "lost"),
    [
        ("every(1)", range(6), 9, (0, 3)),  # a kill took 6, 7 and 8
        ("every(1)", range(6), 6, (4, 0)),  # all four that were lost were trained again
        ("every(1)", range(8), 6, (2, 0)),  # and two that were kept, too
        ("every(1)", [0, 1, 4, 5], 6, (2, 2)),  # what was lost stays so
        ("every(1)", [0, 1, 4, 5], 8, (3, 4)),  # one of the lost ones came after the last
        ("every(3)", [0, 3, 6], 13, (0, 2)),  # 9 and 12
        ("every(3)", [0, 3, 6], 9, (0, 0)),
        ("every(4)", [0, 1, 2], 9, (0, 0)),  # an interval that was changed tells nothing
        ("first(9)", [0, 1, 2], 9, (1, 1)),  # nor does another schedule
    ],
)
def test_steps_between_two_starts_are_missing(tmp_path, schedule, kept, next_start, lost):
    """``lost``: what the first start says, and what is missing of it in the end."""
    stored, missing = lost
    table = replace(TABLE, schedule=schedule)
    info = replace(ALL, tables=(table,), workers=1)
    claim(tmp_path / "run.zarr", root_attributes(info, "2026-01-01T00:00:00+00:00"))
    for start, steps in enumerate([kept, [next_start]]):
        origin = Origin(start, next_start * start, 1 + next_start * start)
        writer = StoreWriter(tmp_path / "run.zarr", replace(info, origin=origin))
        first = block(table, info.replicas, list(steps))
        writer.append(replace(first, lost=0 if start else stored))
        writer.close()
    assert dw.open_run(tmp_path / "run.zarr").lost == missing


@pytest.mark.parametrize("killed, counted", [(True, False), (True, True), (False, False)])
def test_of_what_a_kill_took_of_a_validation_the_number_is_unknown(tmp_path, killed, counted):
    """Unless the killed start had noted it."""
    info = replace(ALL, tables=(TABLE,), workers=1, phase="test")
    claim(tmp_path / "run.zarr", root_attributes(info, "2026-01-01T00:00:00+00:00"))
    for start, steps in enumerate([range(6), range(6, 9)]):
        origin = Origin(start, 6 * start, 1 + 6 * start, counted=bool(start) and counted)
        writer = StoreWriter(tmp_path / "run.zarr", replace(info, origin=origin))
        writer.append(block(TABLE, info.replicas, steps))
        if start or not killed:
            writer.close()
    run = dw.open_run(tmp_path / "run.zarr", phase="test")
    unknown = killed and not counted
    assert ("are not counted" in run.summary()) is unknown
    assert ("No row was lost" in run.summary()) is not killed
    assert run.lost == (2 if killed else 0)  # two of six fill no chunk


def test_a_validation_goes_on_where_a_killed_start_noted_it_and_not_where_its_rows_end(
    tmp_path,
):
    path = tmp_path / "run.zarr"
    info = replace(ALL, tables=(TABLE,), workers=1, phase="test", origin=Origin(0, 0, 6))
    claimed = claim_new(path, root_attributes(info, "2026-01-01T00:00:00+00:00", "a"))
    StoreWriter(path, info, claim=claimed).append(block(TABLE, info.replicas, range(6)))
    tally = Tally(location_of(path), claimed, 0)
    for iteration, steps in [(6, 0), (6, 8)]:
        tally.note(Note("test", iteration, steps))
    tally.close()
    claimed.release()
    later = replace(info, origin=Origin(1, 0, 9))
    assert origin_of(path, later) == Origin(1, 8, 9, counted=True)


@pytest.mark.parametrize(
    "schedule, begin, end, lost", [("every(1)", 2, 7, 7), ("every(3)", 4, 10, 4)]
)
def test_steps_of_starts_that_committed_none_are_missing(tmp_path, schedule, begin, end, lost):
    """The first start made no table, the second no row."""
    table = replace(TABLE, schedule=schedule)
    info = replace(ALL, tables=(table,), workers=1)
    claim(tmp_path / "run.zarr", root_attributes(info, "2026-01-01T00:00:00+00:00"))
    for start, first in enumerate([begin, end], start=1):
        origin = Origin(start, first, first)
        writer = StoreWriter(tmp_path / "run.zarr", replace(info, origin=origin))
        if first == end:
            writer.append(block(table, info.replicas, [12]))
            writer.close()
    assert dw.open_run(tmp_path / "run.zarr").lost == lost


def test_a_start_continues_what_an_older_distwatch_wrote(tmp_path):
    """The older one did not count NaN and Inf of the signals: that is unknown, not zero."""
    newer = replace(TABLE, statistic=with_row((SignalCounts(), LogHistogram())))
    info = replace(ALL, tables=(TABLE,), workers=1)
    claim(tmp_path / "run.zarr", root_attributes(info, "2026-01-01T00:00:00+00:00"))
    for start, table, steps in ((0, TABLE, range(6)), (1, newer, range(4, 9))):
        origin = Origin(start, 0, start * 4)
        each = replace(info, tables=(table,), origin=origin)
        if start:
            origin = origin_of(tmp_path / "run.zarr", each)
            assert origin == Origin(1, 4, 4)
            each = replace(each, origin=origin)
        writer = StoreWriter(tmp_path / "run.zarr", each)
        writer.append(block(table, info.replicas, steps))
        writer.close()
    run = dw.open_run(tmp_path / "run.zarr")
    data = run.to_xarray()
    assert data.step.values.tolist() == list(range(9))
    for name in ("signal_nan_count", "signal_inf_count"):
        assert np.isnan(data[name][:4]).all()
        assert (data[name][4:] == 0).all()
    assert (data["count"].sum(("replica", "signal")) > 0).all()
    rows = StoredRun(tmp_path / "run.zarr").tables["table-00"].block(slice(3, 5))
    wanted = block(newer, info.replicas, range(3, 5)).rows
    wanted[0, ..., [newer.fields.index(name) for name in SignalCounts().fields]] = np.nan
    np.testing.assert_array_equal(rows.rows, wanted)


def test_a_worker_without_rows_is_as_one_that_never_was(tmp_path, whole):
    joined = write(tmp_path / "run.zarr", (0, (0, 1), range(10)))
    np.testing.assert_array_equal(
        joined.tables["table-00"].read("rows"), whole.tables["table-00"].read("rows")[:, :2]
    )


def test_workers_that_tell_of_different_things_are_not_joined(tmp_path):
    other = replace(TABLE, signals=SIGNALS[::-1])
    claim(tmp_path / "run.zarr", root_attributes(ALL, "2026-01-01T00:00:00+00:00"))
    for worker, table in enumerate((TABLE, other)):
        replicas = (2 * worker, 2 * worker + 1)
        info = replace(ALL, tables=(table,), worker=worker, replicas=replicas)
        writer = StoreWriter(tmp_path / "run.zarr", info)
        writer.append(block(table, replicas, range(4)))
        writer.close()
    with pytest.raises(DamagedStoreError, match="watched different signals"):
        StoredRun(tmp_path / "run.zarr")


def test_workers_with_other_tables_are_not_joined(tmp_path):
    claim(tmp_path / "run.zarr", root_attributes(ALL, "2026-01-01T00:00:00+00:00"))
    for worker, tables in enumerate([(TABLE,), (TABLE, RAW)]):
        info = replace(ALL, tables=tables, worker=worker, replicas=(worker,))
        writer = StoreWriter(tmp_path / "run.zarr", info)
        for table in tables:
            writer.append(block(table, (worker,), range(4)))
        writer.close()
    with pytest.raises(DamagedStoreError, match="wrote different tables"):
        StoredRun(tmp_path / "run.zarr")
