"""A store from a stranger is safe to open: it is refused, at once and in little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import strangers
import test_thinning
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import distwatch as dw
from distwatch.cli.following import Follower, Wanted
from distwatch.errors import DamagedRowsWarning, DamagedStoreError
from distwatch.records import Block, RunInfo, Table
from distwatch.signals import Signal
from distwatch.store import StoredRun, StoreWriter, claim, next_start, now, sweep
from distwatch.store.checked_arrays import MissingChunkError
from distwatch.store.encoding import encode_chunk
from distwatch.store.schema import root_attributes
from distwatch.testing.fake import fake_run

#: Seconds of work in which any of them is refused.
AT_ONCE = 3

#: How a run is refused that cannot be read even without its damaged chunks.
KINDS = ("DamagedStoreError", "NotARunError")

SPOILED = {
    **{f"run-{name}": (strangers.run_at, *how) for name, how in strangers.REFUSED.items()},
    **{
        f"tensors-{name}": (strangers.tensor_run_at, *how)
        for name, how in strangers.REFUSED_TENSORS.items()
    },
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of opening each spoiled run, in a process of little memory."""
    folder = tmp_path_factory.mktemp("strangers")
    paths = []
    for name, (make, spoil, _) in SPOILED.items():
        paths.append(make(folder / f"{name}.zarr"))
        spoil(paths[-1])
    ended = subprocess.run(
        [sys.executable, "-W", "error", strangers.__file__, folder, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert ended.returncode == 0, ended.stderr
    said = map(json.loads, ended.stdout.splitlines())
    return dict(zip(SPOILED, said, strict=True))


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_run_is_refused(outcomes, name):
    kind, words, seconds = outcomes[name]["everything"]
    assert kind in (*KINDS, "DamagedRowsWarning"), words
    assert SPOILED[name][2] in words
    assert len(words) < 2_000
    assert seconds < AT_ONCE


@pytest.mark.parametrize("ask", ["report", "export"])
@pytest.mark.parametrize("name", SPOILED)
def test_no_more_is_made_of_it(outcomes, name, ask):
    """What a report or a table does not look at may be spoiled; the rest is refused."""
    kind, *words, seconds = outcomes[name][ask]
    assert kind in ("damage", *KINDS, "DamagedRowsWarning"), words
    assert len("".join(words)) < 2_000
    assert seconds < AT_ONCE


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Of NumPy, for huge numbers.
# What is left out for this is named; here it is the one row chunk that there is.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:4 steps of:distwatch.errors.DamagedRowsWarning")
@settings(max_examples=10, deadline=None)
@given(
    values=npst.arrays(np.float64, (4, 2, 1, 11), elements=st.floats(width=64)),
    counts=st.lists(st.floats(0, 2.0**60), min_size=5, max_size=5),
)
@example(values=np.full((4, 2, 1, 11), -1.0), counts=[0.0, 0.0, 0.0, 0.0, 1.0])
def test_any_numbers_are_shown_or_refused(values, counts):
    """Rows that no training gives, with checksums that are right."""
    with TemporaryDirectory() as folder:
        path = strangers.tensor_run_at(Path(folder) / "run.zarr")
        values[..., :5] = counts
        for name, key, stored in [
            ("rows", "c.0.0.0.0", values),
            ("merged", "c.0.0.0", values[:, 0]),
        ]:
            (path / strangers.TABLE / name / key).write_bytes(encode_chunk(stored))
        strangers.everything(path)
        Follower(str(path), Wanted()).look()
        damage = dw.open_run(path).verify()
        assert all("impossible numbers of elements" in each.why for each in damage)
        assert bool(damage) == (max(counts) > 2.0**53)


def test_a_bomb_is_damage_and_the_others_are_read(tmp_path):
    path = strangers.run_at(tmp_path / "run.zarr")
    strangers.REFUSED["shard-overlap"][0](path)
    (damage,) = dw.open_run(path).verify()
    assert (damage.array, damage.first, damage.stop) == ("rows", 0, 8)
    assert "overlap" in damage.why


def test_nothing_is_filled_up_for_a_chunk_that_is_missing(tmp_path):
    """Where a million are missing, what stands for them would fill the memory."""
    path = strangers.run_at(tmp_path / "run.zarr")
    (path / strangers.TABLE / "rows/c.1.0.0.0").unlink()
    (table,) = StoredRun(path).tables.values()
    with pytest.raises(DamagedStoreError, match="a chunk is missing") as raised:
        table.read("rows")
    assert isinstance(raised.value.__cause__, MissingChunkError)


@pytest.mark.parametrize("name", ["histogram", "histogram_merged", "valid"])
def test_numbers_below_zero_are_refused(tmp_path, name):
    """With checksums that are right: as many as -1 rows, and -1 elements in a bucket."""
    info = test_thinning.wide_info()
    claim(tmp_path / "run.zarr", root_attributes(info, now()))
    writer = StoreWriter(tmp_path / "run.zarr", info)
    for table in info.tables:
        writer.append(test_thinning.wide_block(info, table, 0, 8))
    writer.close()
    table = "table-01" if name == "valid" else "table-00"
    folder = tmp_path / "run.zarr" / strangers.SEGMENT / table
    document = json.loads((folder / "zarr.json").read_text())
    about = document["consolidated_metadata"]["metadata"][name]
    wrong = np.full(about["chunk_grid"]["configuration"]["chunk_shape"], -1)
    for chunk in (folder / name).glob("c.*"):
        chunk.write_bytes(encode_chunk(wrong))
    with pytest.raises(DamagedStoreError, match="impossible numbers of elements"):
        StoredRun(tmp_path / "run.zarr").tables[table].read(name)


def test_texts_are_counted_before_there_is_room_for_them(tmp_path):
    path = strangers.run_at(tmp_path / "run.zarr")
    many = (2**31 - 1).to_bytes(4, "little") + bytes(100)
    (path / strangers.TABLE / "signal/c/0").write_bytes(strangers.checksummed(many))
    (damage,) = dw.open_run(path).verify()
    assert "it has 2147483647 texts, expected 12" in damage.why


def test_a_pipe_is_no_hindrance(tmp_path):
    """It would never end: neither where a document should be nor beside the documents."""
    path = strangers.run_at(tmp_path / "run.zarr")
    strangers.instead(f"{strangers.TABLE}/zarr.json", strangers.pipe)(path)
    os.mkfifo(path / "pipe")
    run = dw.open_run(path)
    assert len(run) == 0  # As one that was killed before its first row.
    assert run._store.nbytes == sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def test_links_within_a_run_are_followed(tmp_path):
    path = strangers.run_at(tmp_path / "run.zarr")
    whole = dw.open_run(path).to_xarray()
    chunk = path / strangers.TABLE / "rows/c.0.0.0.0"
    chunk.rename(path / "elsewhere")
    chunk.symlink_to(path / "elsewhere")
    (tmp_path / "link.zarr").symlink_to(path)
    assert dw.open_run(tmp_path / "link.zarr").to_xarray().identical(whole)


def test_nothing_is_deleted_through_a_link(tmp_path):
    """What a resumed training clears away may be a link to what must stay."""
    path = strangers.run_at(tmp_path / "run.zarr")
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "letter.partial").write_text("keep me")
    (path / strangers.SEGMENT / "table-00.1").symlink_to(letters)
    (path / "more").symlink_to(letters)
    sweep(path)
    assert (letters / "letter.partial").read_text() == "keep me"
    assert not (path / strangers.SEGMENT / "table-00.1").is_symlink()
    claim(path, root_attributes(dw.open_run(path).info, now()), overwrite=True)
    assert (letters / "letter.partial").read_text() == "keep me"
    assert dw.open_run(path).signals == []


def test_a_segment_that_is_a_link_is_not_swept(tmp_path):
    path = strangers.run_at(tmp_path / "run.zarr")
    strangers.instead(strangers.SEGMENT, strangers.link)(path)
    (tmp_path / "run.zarr-moved" / "letter.txt").write_text("keep me")
    with pytest.raises(DamagedStoreError, match="link out of the run"):
        sweep(path)
    assert (tmp_path / "run.zarr-moved" / "letter.txt").read_text() == "keep me"


@pytest.mark.parametrize("command", ["info", "tail", "verify"])
def test_hostile_texts_are_harmless_on_a_terminal(call, tmp_path, command):
    """Escapes, C1 controls, text that runs backwards, half a letter, markup, an emoji."""
    names = [
        "a/\x1b[2J\x9b31m",
        "b/\u202egpj.exe",
        "c/\ud800\x00",
        "d/[red]:skull:[/nonsense]\\",
    ]
    path = fake_run(tmp_path / "run.zarr", signals=["a", "b", "c", "d"]).path
    signals = [{"name": name, "reference": "\x1b]0;title\x07"} for name in names]
    strangers.says(strangers.TABLE, signals=signals, schedule="\x1b[1m", ended="\x1b[31m\n")(
        path
    )
    for group in ("", strangers.SEGMENT):
        strangers.says(group, strategy="\x1b[8m\u2066", versions={"\x1b[5m": "\x9b5m"})(path)
    strangers.says(strangers.SEGMENT, unwatched={"\x1b[6m": "[/]\x07"})(path)
    strangers.says("", created="\x1b[7m\u200b")(path)
    options = ("--once",) if command == "tail" else ()
    code, out, err = call(command, path, *options)
    assert code == 0, err
    harmful = [c for c in out + err if not (c.isprintable() or c == "\n")]
    assert harmful == []
    if command == "info":
        for shown in (r"a/\x1b[2J\x9b31m", r"b/\u202egpj.exe", r"c/\ud800\x00", ":skull:[/non"):
            assert shown in out


@pytest.mark.parametrize("name", ["\x1b[2J", "-test\n", "-nonsense", "0" * 20])
def test_a_folder_that_only_begins_like_a_segment_is_none(tmp_path, name):
    """Nor is it named in an error: it may carry escapes."""
    path = strangers.run_at(tmp_path / "run.zarr")
    other = path / f"worker-0000-start-0001{name}"
    other.mkdir()
    (other / "zarr.json").write_text("{")
    assert len(dw.open_run(path)) == strangers.STEPS
    assert next_start(path) == 1
    sweep(path)
    assert (other / "zarr.json").exists()


def test_a_summary_has_no_escapes(tmp_path):
    path = fake_run(tmp_path / "run.zarr", signals=["a"]).path
    signals = [{"name": "\x1b[2J\u202e", "reference": "previous"}]
    strangers.says(strangers.TABLE, signals=signals)(path)
    run = dw.open_run(path)
    assert r"\x1b[2J\u202e" in run.summary()
    for text in (run.summary(), repr(run), repr(run[run.signals[0]])):
        assert all(c.isprintable() or c == "\n" for c in text)


def test_long_texts_are_cut_short(tmp_path):
    """An error may have said much when a run ended: that is no reason to refuse it."""
    path = strangers.run_at(tmp_path / "run.zarr")
    strangers.says(strangers.TABLE, ended="e" * 10**6)(path)
    assert dw.open_run(path).ended == "e" * 65_536


@pytest.mark.slow
def test_a_large_run_is_no_stranger(tmp_path):
    """Its sizes are as large as those that are refused, but backed by what lies there."""
    info = RunInfo((Table("table-00", (Signal("a/b"),), "every(1)", 1),), (0,), "made up", {})
    claim(tmp_path / "run.zarr", root_attributes(info, now()))
    writer = StoreWriter(tmp_path / "run.zarr", info)
    step = np.arange(2_000)
    rows = np.ones((2_000, 1, 1, 11))
    writer.append(Block("table-00", step, step, step, rows, rows[:, 0]))
    writer.close()
    # 63 files of steps, of which one more is wanted from 2,017 steps on.
    assert len(dw.open_run(tmp_path / "run.zarr")) == 2_000
    chunks = sorted((tmp_path / "run.zarr" / strangers.TABLE / "step").glob("c.*"))
    chunks[7].unlink()
    with pytest.warns(DamagedRowsWarning, match="32 steps of"):
        assert dw.open_run(tmp_path / "run.zarr").to_xarray().sizes["step"] == 2_000 - 32
    for chunk in chunks[8:42]:
        chunk.unlink()
    with pytest.raises(DamagedStoreError, match="files, and its shape wants 63"):
        dw.open_run(tmp_path / "run.zarr")


def test_letters_that_the_output_has_not_are_escaped(tmp_path):
    path = fake_run(tmp_path / "run.zarr", signals=["activation/dénse"]).path
    program = f"import sys; sys.argv = ['distwatch', 'info', {str(path)!r}]\n"
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}from distwatch.cli import main; main()"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert r"activation/d\xe9nse" in ended.stdout
