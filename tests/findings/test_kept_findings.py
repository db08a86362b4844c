"""Findings that lie beside the rows are those of the rows, or are not used."""

import json
import os
import time
import warnings
from dataclasses import replace

import made_up
import numpy as np
import pytest
from long_runs import chunk_files
from made_runs import cut, healthy
from typer.testing import CliRunner

import distwatch as dw
from distwatch.analysis.kept_findings import kept, read
from distwatch.cli import app
from distwatch.errors import DamagedDigestWarning, DamagedRowsWarning
from distwatch.findings import Digest, Finding, as_plain, from_plain, version
from distwatch.records import Epoch, Origin
from distwatch.store import Budget, StoredRun, StoreWriter, claim, digests, location_of, now
from distwatch.store.folders import Folder
from distwatch.store.schema import root_attributes
from distwatch.testing.fake import write_fake

DIGEST = "digest-train.json"
LOCK = "worker-0001.lock"


def nan_later(arrays):
    arrays["gradients"][70:, 1, :3, 0] = np.nan


def dead_layer(arrays):
    arrays["activations"][:, :, :, 0] = 0.0


def apart(arrays):
    arrays["inputs"][:, 2] += 60.0


PLANTED = {"healthy": None, "nan": nan_later, "dead": dead_layer, "apart": apart}


def one_start(path, plant, seed):
    write_fake(path, healthy(seed, plant=PLANTED[plant]))


def several_workers(path, plant, seed):
    """Of which the second has fewer rows."""
    info, blocks = healthy(seed, plant=PLANTED[plant])
    for worker in range(2):
        own = [2 * worker, 2 * worker + 1]
        parts = [
            replace(block[: 120 - 20 * worker], rows=block.rows[: 120 - 20 * worker, own])
            for block in blocks
        ]
        said = replace(info, worker=worker, workers=2, replicas=tuple(own))
        if worker:
            _further(path, said, parts)
        else:
            write_fake(path, (said, parts))


def several_starts(path, plant, seed):
    """The second replaces some rows of the first, the third is killed."""
    info, blocks = healthy(seed, plant=PLANTED[plant])
    write_fake(path, (info, [block[:53] for block in blocks]))
    for start, (begin, end) in enumerate([(41, 80), (80, 120)], start=1):
        said = replace(info, origin=Origin(start, begin, begin))
        _further(path, said, [block[begin:end] for block in blocks], closed=start == 1)


def thinned(path, plant, seed):
    info, blocks = healthy(seed, plant=PLANTED[plant], steps=640)
    claim(path, root_attributes(info, now()))
    used = location_of(path).size_below()
    writer = StoreWriter(path, info, budget=Budget(900_000, thins=True, used=used))
    for pieces in zip(*(cut(block, 32) for block in blocks), strict=True):
        for piece in pieces:
            writer.append(piece)
    writer.close()
    assert writer.thinned


def killed(path, plant, seed):
    info, blocks = healthy(seed, plant=PLANTED[plant])
    claim(path, root_attributes(info, now()))
    _further(path, info, blocks, closed=False)


def _further(path, info, blocks, *, closed=True):
    writer = StoreWriter(path, info)
    for block in blocks:
        writer.append(block)
    writer.close() if closed else writer.commit_tail()


SHAPES = [one_start, several_workers, several_starts, thinned, killed]


def from_rows(path):
    run = dw.open_run(path)
    return run.findings(run.digest(), rules=[lambda recorded: ()])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("plant", ["nan", "apart"])
def test_what_is_kept_is_what_the_rows_say(shape, plant, tmp_path):
    path = tmp_path / "run.zarr"
    shape(path, plant, len(plant))
    want = from_rows(path)
    assert read(StoredRun(path)) is None
    assert dw.open_run(path).findings() == want
    assert (path / DIGEST).stat().st_size < 2**20
    run = dw.open_run(path)
    with chunk_files() as opened:
        assert run.findings() == want
        assert run.summary() == "\n".join(each.text for each in want)
    assert not [file for file in opened if file.startswith(("rows", "merged"))]
    assert read(run._store) is not None


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize("ended", ["closed", "ValueError: a planted one"])
def test_a_writer_keeps_what_a_reader_would_find(plant, ended, tmp_path):
    """Whatever blocks come."""
    path = tmp_path / "run.zarr"
    info, blocks = healthy(5, plant=PLANTED[plant])
    digest = Digest(info)
    claim(path, root_attributes(info, now()))

    def found(steps, ended):
        assert steps == digest.steps
        return version(), [*map(as_plain, digest.findings(lost=0, ended=ended))]

    writer = StoreWriter(path, info, findings=found)
    for block in blocks:
        for piece in cut(block, 11):
            digest.observe(piece)
            writer.append(piece)
    writer.close(ended)
    assert read(dw.open_run(path)._store) is not None
    kept = dw.open_run(path).findings()
    assert kept == from_rows(path)


def half_written(path, rows):
    """A run whose tables have so many rows up to now, and all blocks of it."""
    info, blocks = healthy(4)
    claim(path, root_attributes(info, now()))
    writer = StoreWriter(path, info)
    for block in blocks:
        writer.append(block[:rows])
    return writer, blocks


@pytest.mark.parametrize("change", ["further rows", "a chunk is missing", "other rules"])
def test_what_stands_for_other_rows_is_not_used(change, tmp_path, monkeypatch):
    path = tmp_path / "run.zarr"
    writer, blocks = half_written(path, 100)
    writer.commit_tail()
    before = dw.open_run(path).findings()
    assert read(StoredRun(path)) is not None
    if change == "further rows":
        for block in blocks:
            writer.append(block[100:])
        writer.close()
    elif change == "a chunk is missing":
        next(path.rglob("merged/c.1.*")).unlink()
    else:
        monkeypatch.setattr("distwatch.analysis.kept_findings.version", lambda _: "0-0-0")
    run = dw.open_run(path)
    assert read(run._store) is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamagedRowsWarning)
        now_ = run.findings()
        assert now_ == from_rows(path)
    assert (now_ == before) == (change == "other rules")


def test_what_is_kept_is_of_the_epochs_that_were_known(tmp_path, monkeypatch):
    path = tmp_path / "run.zarr"
    one_start(path, "healthy", 2)
    dw.open_run(path).findings()
    assert read(StoredRun(path)) is not None
    monkeypatch.setattr(StoredRun, "epochs", (Epoch(0, 120, {"loss": 1.0}),))
    assert kept(StoredRun(path)) is None


def test_nothing_is_kept_of_damaged_rows(tmp_path):
    path = tmp_path / "run.zarr"
    one_start(path, "healthy", 2)
    next(path.rglob("rows/c.1.*")).unlink()
    with pytest.warns(DamagedRowsWarning):
        found = dw.open_run(path).findings()
    assert "damaged" in [each.kind for each in found]
    assert not (path / DIGEST).exists()


def test_an_opened_run_is_not_given_what_was_found_later(tmp_path):
    """It is as it was committed when it was opened."""
    path = tmp_path / "run.zarr"
    writer, blocks = half_written(path, 64)
    opened = dw.open_run(path)
    for block in blocks:
        writer.append(block[64:])
    writer.close()
    later = dw.open_run(path).findings()
    assert read(StoredRun(path)) is not None
    assert opened.findings() != later
    # Nor does it replace what is kept.
    assert dw.open_run(path).findings() == later


def test_a_phase_has_its_own(tmp_path):
    path = tmp_path / "run.zarr"
    one_start(path, "nan", 3)
    info, blocks = healthy(8)
    _further(path, replace(info, phase="test"), blocks)
    for phase in ("train", "test"):
        found = dw.open_run(path, phase=phase).findings()
        assert dw.open_run(path, phase=phase).findings() == found
        assert ("not_finite" in [each.kind for each in found]) == (phase == "train")
        assert (path / f"digest-{phase}.json").exists()


def of_someone_else(path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)


def read_only(path, monkeypatch):
    # Root may write everywhere, whatever the mode says.
    monkeypatch.setattr(Folder, "is_writable", lambda self: False)


def in_progress(path, monkeypatch):
    """As the writer of a run on another host holds it."""
    said = {"token": "t", "run": "r", "host": "h", "process": 1, "domain": "", "since": 0.0}
    (path / LOCK).write_text(json.dumps({**said, "renewed": time.time()}))


@pytest.mark.parametrize("whose", [of_someone_else, read_only, in_progress])
def test_a_reader_writes_only_into_its_own_closed_runs(whose, tmp_path, monkeypatch):
    path = tmp_path / "run.zarr"
    one_start(path, "apart", 1)
    with monkeypatch.context() as patched:
        whose(path, patched)
        files = sorted(path.rglob("*"))
        assert dw.open_run(path).findings() == from_rows(path)
        assert sorted(path.rglob("*")) == files
    (path / LOCK).unlink(missing_ok=True)
    dw.open_run(path).findings()
    assert (path / DIGEST).exists()


def spoilt(path, change):
    file = path / DIGEST
    said = json.loads(file.read_text())
    change(said)
    said.pop("crc32")
    said["crc32"] = digests._seal(said)
    file.write_text(json.dumps(said))


def finding(**values):
    return lambda said: said["findings"]["found"][0].update(values)


@pytest.mark.parametrize(
    "change",
    [
        finding(severity="catastrophe"),
        finding(step=2**60),
        finding(text=["no text"]),
        finding(value="many"),
        finding(kind="k" * 5000),
        finding(follows=[{"kind": "sound"}]),
        lambda said: said.update(phase="test"),
        lambda said: said.update(segments=[]),
        lambda said: said["findings"].update(bytes=-1),
        lambda said: next(iter(said["tables"].values())).update(committed=True),
    ],
)
def test_a_digest_is_checked_as_all_that_comes_from_a_stranger(change, tmp_path):
    path = tmp_path / "run.zarr"
    one_start(path, "nan", 1)
    want = dw.open_run(path).findings()
    tables = json.loads((path / DIGEST).read_text())["tables"]
    spoilt(path, change)
    with pytest.warns(DamagedDigestWarning, match="digest-train.json: .* rows are read"):
        assert dw.open_run(path).findings() == want
    # It is made anew.
    assert json.loads((path / DIGEST).read_text())["tables"] == tables
    assert dw.open_run(path).findings() == want


def invoke(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_verify_makes_them_anew_and_says_where_they_differ(tmp_path):
    path = tmp_path / "run.zarr"
    one_start(path, "nan", 1)
    assert dw.open_run(path).verify_findings() == []
    want = dw.open_run(path).findings()
    assert dw.open_run(path).verify_findings() == []
    # Sealed, so that nothing but the rows can tell.
    spoilt(path, finding(text="All is well.", severity="note"))
    assert dw.open_run(path).findings()[0].text == "All is well."
    false, missing = dw.open_run(path).verify_findings()
    assert false == "It says what the rows do not: All is well."
    assert missing == f"It does not say: {want[0].text}"
    ran = invoke("verify", path)
    assert ran.exit_code == 1
    assert "delete digest-train.json" in ran.output and false in ran.output
    said = json.loads(invoke("verify", path, "--json").output)
    assert said["findings"] == {"train": [false, missing]} and not said["damaged"]
    (path / DIGEST).unlink()
    assert invoke("verify", path).exit_code == 0
    (path / DIGEST).write_text("{")
    assert "is damaged" in dw.open_run(path).verify_findings()[0]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"crc32": 1}', b"[" * 100_000, b" " * (2**20 + 1), b"\xff"],
)
def test_what_is_no_digest_is_ignored_and_said(content, tmp_path):
    path = tmp_path / "run.zarr"
    one_start(path, "healthy", 1)
    (path / DIGEST).write_bytes(content)
    with pytest.warns(DamagedDigestWarning):
        assert dw.open_run(path).findings() == from_rows(path)


def test_a_digest_that_was_changed_does_not_match_its_checksum(tmp_path):
    path = tmp_path / "run.zarr"
    one_start(path, "nan", 1)
    want = dw.open_run(path).findings()
    text = (path / DIGEST).read_text()
    (path / DIGEST).write_text(text.replace('"severity": "warning"', '"severity": "note"'))
    with pytest.warns(DamagedDigestWarning, match="does not match its checksum"):
        assert dw.open_run(path).findings() == want


def test_one_of_a_later_format_is_passed_over(tmp_path):
    path = tmp_path / "run.zarr"
    one_start(path, "healthy", 1)
    (path / DIGEST).write_text('{"format": 2, "crc32": 0}')
    assert dw.open_run(path).findings() == from_rows(path)


def test_a_link_out_of_the_run_is_not_followed(tmp_path):
    path, other = tmp_path / "run.zarr", tmp_path / "other.zarr"
    one_start(path, "healthy", 1)
    one_start(other, "nan", 1)
    dw.open_run(other).findings()
    (path / DIGEST).symlink_to(other / DIGEST)
    with pytest.warns(DamagedDigestWarning, match="link out of the run"):
        assert dw.open_run(path).findings() == from_rows(path)


def test_it_is_too_large_rather_than_longer_than_it_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "MOST_BYTES", 1000)
    path = tmp_path / "run.zarr"
    one_start(path, "nan", 1)
    assert dw.open_run(path).findings() == from_rows(path)
    assert not (path / DIGEST).exists()


def test_every_finding_can_be_kept():
    found = Finding(
        "odd", "warning", "It is odd.", "loss", np.int64(3), 1, ("a", "b"), "odd", np.nan,
        (Finding("x", "note", "y", share=0.1),), "Odd", np.float64(np.inf), -np.inf,
        {"mean": np.nan, "n": 3}, "certain", "advice", ("other",), 7,
    )  # fmt: skip
    entry = digests.FindingEntry.model_validate(as_plain(found))
    again = digests.FindingEntry.model_validate_json(entry.model_dump_json())
    back = from_plain(again.model_dump())
    assert repr(back) == repr(from_plain(as_plain(found))).replace("'n': 3", "'n': 3.0")


def test_a_made_up_run_of_histograms_and_ratios(tmp_path):
    path = tmp_path / "run.zarr"
    made = made_up.made_up(steps=range(60))
    write_fake(path, (made.info, made.blocks))
    assert dw.open_run(path).findings() == from_rows(path) == dw.open_run(path).findings()
