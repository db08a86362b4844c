"""Kept batches come back as they were, once, and nothing is read that is not there."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest

import distwatch as dw
from distwatch.errors import DamagedStoreError
from distwatch.records import BrokenRows, KeptBatch, Origin, RunInfo, Table
from distwatch.signals import Signal
from distwatch.store import Budget, StoredRun, StoreWriter, claim, now
from distwatch.store.resuming import sweep
from distwatch.store.schema import ATTRIBUTE, TableAttributes, root_attributes, table_attributes
from distwatch.testing.fake import fake_block, write_fake

TABLE = Table("table-00", (Signal("activation/a"), Signal("loss", "none")), "every(1)", 4)
INFO = RunInfo((TABLE,), (0, 1), "made up", {})
PARTS = {
    "x:left": np.array([[1.5, np.nan], [np.inf, -0.0]], "float16"),
    "y": np.arange(2),
    "sample_weight": np.array([True, False]),
    "x:none": np.zeros((0, 3)),
}
BROKEN = BrokenRows("activation/a", 1, 2, 16, 2, (3, 7))


def values(step, replica, signal):
    return np.random.default_rng([step, replica, signal]).normal(replica + 5, 1, 3 + replica)


def block(steps=range(4), kept=(), broken=(), info=INFO):
    return replace(fake_block(info, TABLE, steps, values), kept=kept, broken=broken)


def written(path, *batches, info=INFO):
    write_fake(path, (info, [block(kept=batches, broken=(BROKEN,))]))
    return path / "worker-0000-start-0000"


def test_a_batch_comes_back_bit_by_bit(tmp_path):
    batches = (KeptBatch(0, 3, left_out="x: why."), KeptBatch(1, 2, PARTS))
    written(tmp_path / "run.zarr", *batches)
    first, second = dw.open_run(tmp_path / "run.zarr").kept_batches()
    assert (first.replica, first.step, first.left_out) == (1, 2, "")
    assert (second.replica, second.step, second.left_out) == (0, 3, "x: why.")
    assert set(first.parts) == set(PARTS) and not second.parts
    for name, array in PARTS.items():
        kept = first.parts[name]
        assert (kept.dtype, kept.shape) == (array.dtype, array.shape)
        assert kept.tobytes() == array.tobytes()


def test_it_may_come_without_rows(tmp_path):
    """Those of its block were dropped, since the disk was too slow."""
    path = tmp_path / "run.zarr"
    rows = block(range(2))
    write_fake(path, (INFO, [rows, replace(rows[:0], kept=(KeptBatch(1, 2, PARTS),))]))
    run = dw.open_run(path)
    assert len(run) == 2
    assert [each.step for each in run.kept_batches()] == [2]


def test_resuming_leaves_it_where_it_is(tmp_path):
    segment = written(tmp_path / "run.zarr", KeptBatch(1, 2, PARTS))
    (segment / "left-by-a-crash").mkdir()
    sweep(tmp_path / "run.zarr")
    assert not (segment / "left-by-a-crash").exists()
    assert [each.step for each in dw.open_run(tmp_path / "run.zarr").kept_batches()] == [2]


def test_any_numpy_reads_it(tmp_path):
    segment = written(tmp_path / "run.zarr", KeptBatch(1, 2, PARTS))
    with np.load(segment / "kept-batch-0001.npz") as file:
        assert int(file["step"]) == 2
        assert file["part/y"].tolist() == [0, 1]


def test_a_run_that_kept_none_has_none(tmp_path):
    written(tmp_path / "run.zarr")
    run = dw.open_run(tmp_path / "run.zarr")
    assert run.kept_batches() == []
    assert run.verify() == []


def test_a_later_start_replaces_what_came_after_it(tmp_path):
    later = replace(INFO, origin=Origin(1, 2, 2))
    write_fake(
        tmp_path / "run.zarr",
        (INFO, [block(kept=(KeptBatch(0, 1, PARTS), KeptBatch(1, 3)), broken=(BROKEN,))]),
        (later, [block(range(2, 6), kept=(KeptBatch(0, 4), KeptBatch(1, 5)))]),
    )
    run = dw.open_run(tmp_path / "run.zarr")
    assert [(each.replica, each.step) for each in run.kept_batches()] == [(0, 1), (1, 5)]
    # So are rows, of which these were.
    assert StoredRun(tmp_path / "run.zarr").tables["table-00"].broken == ()


def test_there_is_no_room_for_it(tmp_path):
    path = tmp_path / "run.zarr"
    claim(path, root_attributes(INFO, now()))
    writer = StoreWriter(path, INFO, budget=Budget(200_000))
    writer.append(block(kept=(KeptBatch(1, 2, {"x": np.ones(100_000)}),)))
    writer.close()
    run = dw.open_run(path)
    (kept,) = run.kept_batches()
    assert (kept.replica, kept.step, dict(kept.parts)) == (1, 2, {})
    assert kept.left_out == "it has 800.8 kB, for which max_bytes has no room."
    assert len(run) == 4


def test_broken_rows_come_back_with_their_step(tmp_path):
    written(tmp_path / "run.zarr")
    stored = StoredRun(tmp_path / "run.zarr")
    assert stored.tables["table-00"].broken == (BROKEN,)
    assert [each.broken for each in stored.blocks()] == [(BROKEN,)]


def test_older_tables_say_nothing_of_rows():
    said = table_attributes(TABLE, 0, 0)[ATTRIBUTE]
    del said["first_broken"]
    assert TableAttributes.model_validate(said).broken == ()


def _packed(**arrays):
    held = io.BytesIO()
    np.savez_compressed(held, step=np.int64(2), left_out=np.str_(""), **arrays)
    return held.getvalue()


def _with_entry(content):
    held = io.BytesIO()
    np.savez(held, step=np.int64(2), left_out=np.str_(""))
    with zipfile.ZipFile(held, "a") as file:
        file.writestr("part/x.npy", content)
    return held.getvalue()


def _larger_than_it_is():
    held = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
    np.lib.format.write_array_header_1_0(held, header)
    return _with_entry(held.getvalue() + b"\0" * 64)


def _named_otherwise():
    held = io.BytesIO()
    np.savez(held, step=np.int64(2), left_out=np.str_(""), x=np.zeros(4))
    return held.getvalue()


def _objects():
    held = io.BytesIO()
    np.save(held, np.array([object]), allow_pickle=True)
    return _with_entry(held.getvalue())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        _packed(),
        _with_entry(b"no array"),
        _larger_than_it_is(),
        _objects(),
        _named_otherwise(),
    ],
    ids=["empty", "text", "compressed", "no array", "too large", "pickled", "other names"],
)
def test_a_strange_file_is_refused_and_rows_are_read(tmp_path, content):
    segment = written(tmp_path / "run.zarr", KeptBatch(1, 2, PARTS))
    (segment / "kept-batch-0001.npz").write_bytes(content)
    run = dw.open_run(tmp_path / "run.zarr")
    with pytest.raises(DamagedStoreError, match=r"kept-batch-0001.npz is no batch that"):
        run.kept_batches()
    assert len(run.to_xarray().step) == 4
